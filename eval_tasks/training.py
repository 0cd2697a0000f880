"""One inner run, from initialisation to the last step, as one scan; several runs in one compiled call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eval_tasks.data.source import Batch, DataSource, draw_batch, normalise
from eval_tasks.task import Task

VALIDATION_CHUNK = 1000  # images at a time: bounds the memory of large validation splits


class InnerOptimizer(NamedTuple):
    """An optimizer whose setting (learning rate, theta) is an argument: one compilation for all settings."""

    init: Callable  # setting, params, num_steps -> state
    update: Callable  # setting, state, grads, params, loss -> updates, state


class Outcome(NamedTuple):
    """What a run leaves; `R` runs at once."""

    losses: jax.Array  # [R, num_steps], float32: on each step's own batch, before its update
    validation_loss: jax.Array  # [R], float32: on the whole validation split, at the end
    validation_accuracy: jax.Array  # [R], float32


def make_program(
    task: Task, optimizer: InnerOptimizer, *, num_steps: int, batch_size: int, map_settings: bool
) -> Callable[[DataSource, Any, jax.Array], Outcome]:
    """Compiles, at its first call, whole inner runs on `task`.

    Args:
      task: what is trained.
      optimizer: what trains it.
      num_steps: inner steps of a run.
      batch_size: examples in each step.
      map_settings: settings have a leading axis [R], one for each run; else all runs share one.

    Returns:
      Function of the task's data, settings and keys [R] (one a run) -> Outcome.
    """

    def train(source: DataSource, setting: Any, key: jax.Array) -> Outcome:
        init_key, steps_key, end_key = jax.random.split(key, 3)
        params = task.init(init_key)

        def step(carry: Any, index: jax.Array) -> tuple[Any, jax.Array]:
            params, state = carry
            batch_key, loss_key = jax.random.split(jax.random.fold_in(steps_key, index))
            batch = draw_batch(source, "train", batch_key, batch_size)
            loss, grads = jax.value_and_grad(task.loss)(params, loss_key, batch)
            updates, state = optimizer.update(setting, state, grads, params, loss)
            return (optax.apply_updates(params, updates), state), loss

        carry = params, optimizer.init(setting, params, num_steps)
        (params, _), losses = jax.lax.scan(step, carry, jnp.arange(num_steps))
        loss, accuracy = validate(task, source, params, end_key)
        return Outcome(losses=losses, validation_loss=loss, validation_accuracy=accuracy)

    return jax.jit(jax.vmap(train, in_axes=(None, 0 if map_settings else None, 0)))


def validate(task: Task, source: DataSource, params: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Loss and accuracy, float32 [], on the whole validation split, some images at a time."""
    images, labels = source.validation
    num_chunks, num_rest = divmod(len(labels), VALIDATION_CHUNK)

    def sums(images: jax.Array, labels: jax.Array) -> jax.Array:
        batch = Batch(image=normalise(source, images), label=labels)
        means = jnp.stack([task.loss(params, key, batch), task.accuracy(params, key, batch)])
        return means * len(labels)

    total = jnp.zeros(2)
    if num_chunks:
        whole = num_chunks * VALIDATION_CHUNK
        chunks = [x[:whole].reshape(num_chunks, VALIDATION_CHUNK, *x.shape[1:]) for x in (images, labels)]
        total += jnp.sum(jax.lax.map(lambda chunk: sums(*chunk), chunks), axis=0)
    if num_rest:
        total += sums(images[-num_rest:], labels[-num_rest:])
    loss, accuracy = total / len(labels)
    return loss, accuracy
