"""K inner steps of every particle of a slot, in one scan."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eval_tasks.task import Task
from mulo.optimizers.base import LearnedOptimizer, Params, PyTree, Theta


class Unroll(NamedTuple):
    """An inner run under way. In a slot every leaf has leading axes [C, P], the plus half first."""

    params: Params  # divided by `scales`, where there are any
    optimizer_state: PyTree
    scales: PyTree  # shaped like `params` with a float32 scalar for each leaf; () without augmentation


class InnerLoop(NamedTuple):
    """What the inner steps need besides arrays."""

    task: Task
    optimizer: LearnedOptimizer
    batch_size: int
    truncation_length: int
    judge_held_out: bool = False  # judge by the loss on another batch, of the split "validation"
    augmentation: float = 1.0  # scales are log-uniform between its inverse and itself; 1 = no scales


class TruncationLosses(NamedTuple):
    """Losses of one truncation, each before the step's update."""

    train: jax.Array  # [K, C, P], float32: on the batch that the step trains on
    judged: jax.Array  # [K, C, P], float32: the same, or on a held-out batch


def start(
    loop: InnerLoop,
    theta: Theta,
    key: jax.Array,
    source: Any,
    num_steps: Any,
    *,
    num_pairs: int,
    num_copies: int,
) -> tuple[Unroll, jax.Array]:
    """New inner runs of `num_steps` steps: each pair has its own initial parameters, its copies the same.

    Returns:
      The unrolls, leaves [C, P, ...]; and the loss of each pair before its first step, [P].
    """

    def start_one(init_key: jax.Array) -> tuple[Unroll, jax.Array]:
        # The barrier: see `mulo.mup.coordinates`; products with constant zeros can come out wrong.
        params = jax.lax.optimization_barrier(loop.task.init(init_key))
        scales = _draw_scales(jax.random.fold_in(init_key, 1), params, loop.augmentation)
        batch_key, loss_key = jax.random.split(jax.random.fold_in(init_key, 2))
        batch = loop.task.draw_batch(source, "train", batch_key, loop.batch_size)
        loss = loop.task.loss(params, loss_key, batch)
        params = params if scales == () else jax.tree.map(jnp.divide, params, scales)
        # What it has of theta is of no particle yet: see `begin_with_own_theta`.
        return Unroll(params, _first_state(loop, theta, params, num_steps), scales), loss

    pairs, losses = jax.vmap(start_one)(jax.random.split(key, num_pairs))
    return jax.tree.map(lambda x: jnp.stack([x] * num_copies), pairs), losses


def begin_with_own_theta(loop: InnerLoop, thetas: Theta, unrolls: Unroll, begins: jax.Array) -> Unroll:
    """What the first state of the optimizer has of theta, from the theta of each particle.

    `start` knows the unperturbed theta alone. The optimizers whose first state has nothing of theta, such as
    SmallFC, are left as they are: nothing is computed.

    Args:
      loop: task and optimizer.
      thetas: leaves [C, P, ...].
      unrolls: leaves [C, P, ...].
      begins: [], bool: no step has been made yet; otherwise the values of `unrolls` stay.

    Returns:
      Like `unrolls`. It can be differentiated in `thetas`.
    """
    state, tree = jax.tree.flatten(unrolls.optimizer_state)
    has_theta = _has_theta(loop, thetas, unrolls.params)
    if not any(has_theta):
        return unrolls
    init = jax.vmap(jax.vmap(lambda theta, params: _first_state(loop, theta, params, 1)))
    own = jax.tree.leaves(init(thetas, unrolls.params))
    state = [
        jnp.where(begins, new, old) if has else old
        for has, new, old in zip(has_theta, own, state, strict=True)
    ]
    return unrolls._replace(optimizer_state=tree.unflatten(state))


def _first_state(loop: InnerLoop, theta: Theta, params: Params, num_steps: Any) -> PyTree:
    return loop.optimizer.init(theta, params, num_steps, loop.task.mup.rules(params))


def _has_theta(loop: InnerLoop, thetas: Theta, params: Params) -> list[bool]:
    """Whether theta goes into each leaf of the first state. Leaves of the arguments: [C, P, ...].

    Raises:
      TypeError: into a leaf goes the number of steps too, which is known at `start` alone.
    """
    particle = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), (thetas, params))
    jaxpr = jax.make_jaxpr(functools.partial(_first_state, loop))(*particle, 1).jaxpr
    num_weights = len(jax.tree.leaves(thetas))

    def reached(inputs: list[Any]) -> list[bool]:
        seen = {id(variable) for variable in inputs}
        for equation in jaxpr.eqns:
            if any(id(variable) in seen for variable in equation.invars):
                seen |= {id(variable) for variable in equation.outvars}
        return [id(variable) in seen for variable in jaxpr.outvars]

    by_theta, by_steps = reached(jaxpr.invars[:num_weights]), reached(jaxpr.invars[-1:])
    if any(both == (True, True) for both in zip(by_theta, by_steps, strict=True)):
        raise TypeError(
            f"{type(loop.optimizer).__name__}.init: one array of the state has theta and num_steps."
        )
    return by_theta


def _draw_scales(key: jax.Array, params: Params, augmentation: float) -> PyTree:
    """Reparametrisation augmentation (Celo, arXiv 2501.12670), here leaf by leaf.

    A network whose parameters are divided by a scale, and multiplied by it where they are used, is the same
    network with other gradients: what is learned cannot rely on one size of parameters.
    """
    if augmentation == 1.0:
        return ()
    leaves, tree = jax.tree.flatten(params)
    log_scales = np.log(augmentation) * jax.random.uniform(key, (len(leaves),), minval=-1.0, maxval=1.0)
    return tree.unflatten(list(jnp.exp(log_scales)))


def unroll_truncation(
    loop: InnerLoop, thetas: Theta, unrolls: Unroll, key: jax.Array, source: Any, *, remat: bool = False
) -> tuple[TruncationLosses, Unroll]:
    """Advances every particle by one truncation.

    At each step all copies of a pair see the same batch; other pairs and steps see others.

    Args:
      loop: task and optimizer.
      thetas: leaves [C, P, ...].
      unrolls: leaves [C, P, ...].
      key: of this truncation of this slot.
      source: what batches are drawn from.
      remat: a backward pass computes the inside of each step again instead of keeping it.

    Returns:
      The losses; the unrolls after K steps.
    """
    num_pairs = jax.tree.leaves(unrolls)[0].shape[1]
    # Copies outside, pairs inside: the order of the axes as they are stored, so that nothing is transposed.
    step_pairs = jax.vmap(lambda *arguments: _particle_step(loop, *arguments))
    step_copies = jax.vmap(step_pairs, in_axes=(0, 0, None, None, None))

    def draw(split: str, keys: jax.Array) -> Any:
        return jax.vmap(lambda key: loop.task.draw_batch(source, split, key, loop.batch_size))(keys)

    def step(unrolls: Unroll, step_key: jax.Array) -> tuple[Unroll, TruncationLosses]:
        batch_keys, loss_keys = jax.random.split(step_key, (2, num_pairs))
        held_out = None
        if loop.judge_held_out:
            held_out = draw("validation", jax.random.split(jax.random.fold_in(step_key, 1), num_pairs))
        return step_copies(thetas, unrolls, loss_keys, draw("train", batch_keys), held_out)

    unrolls, losses = jax.lax.scan(
        jax.checkpoint(step) if remat else step, unrolls, jax.random.split(key, loop.truncation_length)
    )
    return losses, unrolls


def _particle_step(
    loop: InnerLoop, theta: Theta, unroll: Unroll, loss_key: jax.Array, batch: Any, held_out: Any
) -> tuple[Unroll, TruncationLosses]:
    """One inner step of one particle. `held_out` is a batch, or `None` to judge by the training loss."""

    def loss_of(params: Params, batch: Any) -> jax.Array:
        if unroll.scales != ():
            params = jax.tree.map(jnp.multiply, params, unroll.scales)
        return loop.task.loss(params, loss_key, batch)

    params = unroll.params
    loss, grads = jax.value_and_grad(loss_of)(params, batch)
    updates, state = loop.optimizer.update(
        theta, unroll.optimizer_state, grads, params, loss, loop.task.mup.rules(params)
    )
    judged = loss if held_out is None else loss_of(params, held_out)
    after = Unroll(optax.apply_updates(params, updates), state, unroll.scales)
    return after, TruncationLosses(train=loss, judged=judged)
