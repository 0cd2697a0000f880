"""One inner run, from initialisation to the last step, as one scan; several runs in one compiled call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eval_tasks.data.source import Source
from eval_tasks.task import Scores, Task


class InnerOptimizer(NamedTuple):
    """An optimizer whose setting (learning rate, theta) is an argument: one compilation for all settings."""

    init: Callable  # setting, params, num_steps -> state
    update: Callable  # setting, state, grads, params, loss -> updates, state
    # setting, state, params -> the parameters to evaluate, where they are not those that are trained
    evaluated_params: Callable | None = None


class Outcome(NamedTuple):
    """What a run leaves; `R` runs at once."""

    losses: jax.Array  # [R, num_steps], float32: on each step's own batch, before its update
    validation_loss: jax.Array  # [R], float32: on the whole validation split, at the end
    validation_accuracy: jax.Array  # [R], float32; NaN where there is nothing to count


def make_program(
    task: Task, optimizer: InnerOptimizer, *, num_steps: int, batch_size: int, map_settings: bool
) -> Callable[[Source, Any, jax.Array], Outcome]:
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

    def train(source: Source, setting: Any, key: jax.Array) -> Outcome:
        init_key, steps_key, end_key = jax.random.split(key, 3)
        params = task.init(init_key)

        def step(carry: Any, index: jax.Array) -> tuple[Any, jax.Array]:
            params, model_state, state = carry
            batch_key, loss_key = jax.random.split(jax.random.fold_in(steps_key, index))
            batch = task.draw_batch(source, "train", batch_key, batch_size)
            (loss, model_state), grads = loss_and_grads(params, model_state, loss_key, batch)
            updates, state = optimizer.update(setting, state, grads, params, loss)
            return (optax.apply_updates(params, updates), model_state, state), loss

        carry = params, task.init_state(), optimizer.init(setting, params, num_steps)
        (params, model_state, state), losses = jax.lax.scan(step, carry, jnp.arange(num_steps))
        if optimizer.evaluated_params is not None:
            params = optimizer.evaluated_params(setting, state, params)
        loss, accuracy = validate(task, source, params, model_state, end_key)
        return Outcome(losses=losses, validation_loss=loss, validation_accuracy=accuracy)

    loss_and_grads = jax.value_and_grad(task.loss_and_state, has_aux=True)
    return jax.jit(jax.vmap(train, in_axes=(None, 0 if map_settings else None, 0)))


def validate(task: Task, source: Source, params: Any, state: Any, key: jax.Array) -> Scores:
    """Scores on the whole validation split, some examples at a time; batch norm uses the running averages."""
    return source.validation_mean(lambda batch: task.evaluate(params, state, key, batch))
