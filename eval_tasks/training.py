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


class Trained(NamedTuple):
    """What training leaves; `R` runs at once."""

    params: Any  # to be evaluated
    model_state: Any
    losses: jax.Array  # [R, num_steps], float32


REFRESHING_STEPS = 50
"""Batches from which running averages are taken anew, where other parameters are evaluated than trained."""


def make_program(
    task: Task, optimizer: InnerOptimizer, *, num_steps: int, batch_size: int, map_settings: bool
) -> Callable[[Source, Any, jax.Array], Outcome]:
    """Compiles, at its first call, whole inner runs on `task`: `make_programs` in one.

    Returns:
      Function of the task's data, settings and keys [R] (one a run) -> Outcome.
    """
    train, judge = _make_functions(task, optimizer, num_steps, batch_size, map_settings)

    def run(source: Source, setting: Any, keys: jax.Array) -> Outcome:
        return judge(source, train(source, setting, keys), keys)

    return jax.jit(run)


def make_programs(
    task: Task, optimizer: InnerOptimizer, *, num_steps: int, batch_size: int, map_settings: bool
) -> tuple[Callable[[Source, Any, jax.Array], Trained], Callable[[Source, Trained, jax.Array], Outcome]]:
    """Training and what comes after it apart, so that each can be timed.

    Args:
      task: what is trained.
      optimizer: what trains it.
      num_steps: inner steps of a run.
      batch_size: examples in each step.
      map_settings: settings have a leading axis [R], one for each run; else all runs share one.

    Returns:
      Two jitted functions: data, settings and keys [R] (one a run) -> Trained; data, that and the same
      keys -> Outcome.
    """
    train, judge = _make_functions(task, optimizer, num_steps, batch_size, map_settings)
    return jax.jit(train), jax.jit(judge)


def _make_functions(
    task: Task, optimizer: InnerOptimizer, num_steps: int, batch_size: int, map_settings: bool
) -> tuple[Callable[..., Trained], Callable[..., Outcome]]:
    loss_and_grads = jax.value_and_grad(task.loss_and_state, has_aux=True)

    def train(source: Source, setting: Any, key: jax.Array) -> Trained:
        init_key, steps_key, _ = jax.random.split(key, 3)
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
            if jax.tree.leaves(model_state):
                model_state = refresh(source, params, model_state, steps_key)
        return Trained(params, model_state, losses)

    def refresh(source: Source, params: Any, model_state: Any, key: jax.Array) -> Any:
        def step(model_state: Any, index: jax.Array) -> tuple[Any, None]:
            batch_key, loss_key = jax.random.split(jax.random.fold_in(key, num_steps + index))
            batch = task.draw_batch(source, "train", batch_key, batch_size)
            return task.loss_and_state(params, model_state, loss_key, batch)[1], None

        return jax.lax.scan(step, model_state, jnp.arange(REFRESHING_STEPS))[0]

    def judge(source: Source, trained: Trained, key: jax.Array) -> Outcome:
        end_key = jax.random.split(key, 3)[2]
        loss, accuracy = validate(task, source, trained.params, trained.model_state, end_key)
        return Outcome(losses=trained.losses, validation_loss=loss, validation_accuracy=accuracy)

    return (
        jax.vmap(train, in_axes=(None, 0 if map_settings else None, 0)),
        jax.vmap(judge, in_axes=(None, 0, 0)),
    )


def validate(task: Task, source: Source, params: Any, state: Any, key: jax.Array) -> Scores:
    """Scores on the whole validation split, some examples at a time; batch norm uses the running averages."""
    return source.validation_mean(lambda batch: task.evaluate(params, state, key, batch))
