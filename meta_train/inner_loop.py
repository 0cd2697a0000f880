"""K inner steps of every particle of a slot, in one scan."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from eval_tasks.data.source import Batch, DataSource, draw_batch
from eval_tasks.task import Task
from mulo.optimizers.base import LearnedOptimizer, Params, PyTree, Theta


class Unroll(NamedTuple):
    """An inner run under way. In a slot every leaf has leading axes [2, P], the plus half first."""

    params: Params
    optimizer_state: PyTree


class InnerLoop(NamedTuple):
    """What the inner steps need besides arrays."""

    task: Task
    optimizer: LearnedOptimizer
    batch_size: int
    truncation_length: int


def start(loop: InnerLoop, theta: Theta, key: jax.Array, num_pairs: int) -> Unroll:
    """New inner runs: each pair has its own initial parameters, its halves the same. Leaves [2, P, ...]."""

    def start_one(init_key):
        params = loop.task.init(init_key)
        return Unroll(params, loop.optimizer.init(theta, params, None))

    pairs = jax.vmap(start_one)(jax.random.split(key, num_pairs))
    return jax.tree.map(lambda x: jnp.stack([x, x]), pairs)


def unroll_truncation(
    loop: InnerLoop, thetas: Theta, unrolls: Unroll, key: jax.Array, source: DataSource
) -> tuple[jax.Array, Unroll]:
    """Advances every particle by one truncation.

    At each step both halves of a pair see the same batch; other pairs and steps see others.

    Args:
      loop: task and optimizer.
      thetas: leaves [2, P, ...].
      unrolls: leaves [2, P, ...].
      key: of this truncation of this slot.
      source: what batches are drawn from.

    Returns:
      losses [K, 2, P], each of the step's batch before its update; the unrolls after K steps.
    """
    num_pairs = jax.tree.leaves(unrolls)[0].shape[1]

    def particle_step(theta: Theta, unroll: Unroll, loss_key: jax.Array, batch: Batch):
        loss, grads = jax.value_and_grad(loop.task.loss)(unroll.params, loss_key, batch)
        multipliers = loop.task.mup.update_multipliers(unroll.params)
        updates, state = loop.optimizer.update(
            theta, unroll.optimizer_state, grads, unroll.params, loss, multipliers
        )
        return loss, Unroll(optax.apply_updates(unroll.params, updates), state)

    # Halves outside, pairs inside: the order of the axes as they are stored, so that nothing is transposed.
    step_pairs = jax.vmap(particle_step)
    step_halves = jax.vmap(step_pairs, in_axes=(0, 0, None, None))

    def step(unrolls: Unroll, step_key: jax.Array):
        batch_keys, loss_keys = jax.random.split(step_key, (2, num_pairs))
        batches = jax.vmap(lambda key: draw_batch(source, "train", key, loop.batch_size))(batch_keys)
        losses, unrolls = step_halves(thetas, unrolls, loss_keys, batches)
        return unrolls, losses

    unrolls, losses = jax.lax.scan(step, unrolls, jax.random.split(key, loop.truncation_length))
    return losses, unrolls
