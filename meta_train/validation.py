"""Periodic validation: whole inner runs of the unperturbed theta on tasks that it is not trained on."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eval_tasks.task import Task
from meta_train.config import MetaTrainConfig
from meta_train.objectives import LOG_FLOOR, bound_losses
from meta_train.programs import addressed_key, build_optimizer, build_tasks, compiler_options, judged_source
from mulo.optimizers.base import Theta


class Best(NamedTuple):
    """The theta with the lowest validation score so far; part of the state that a run resumes from."""

    score: np.ndarray  # [], float32; infinite before the first validation
    meta_step: np.ndarray  # [], int32: meta-steps that it has had
    theta: Theta


def no_best(theta: Theta) -> Best:
    """Before the first validation."""
    return Best(np.float32(np.inf), np.int32(0), theta)


class Validator:
    """Scores thetas on the validation tasks of a configuration, always with the same random keys.

    The score is the mean over tasks and seeds of log(L + 1e-4), where L is the training loss averaged over
    the last tenth of the steps, each clipped to the loss bound. Lower is better. Where the meta-objective is
    the validation loss, L is that: the loss on other batches, of examples that are not trained on.
    """

    def __init__(self, config: MetaTrainConfig):
        """Reads the tasks; compiles at the first call.

        Raises:
          InputError: a task's data are not there.
        """
        tasks = build_tasks(config.validation_tasks, config.parametrization)
        self._runs, self._sources = {}, {}
        self.is_compiled = False
        for name, task in tasks.items():
            self._sources[name], judge_held_out = judged_source(config, task.source)
            self._runs[name] = _make_runs(config, task, judge_held_out)
        self._keys = [
            jax.random.split(addressed_key(config.seed, "validation", index), config.validation_seeds)
            for index in range(len(tasks))
        ]

    def __call__(self, theta: Theta) -> tuple[float, dict[str, float]]:
        """The score of theta, and the mean of L over seeds for each task."""
        final = {
            name: np.asarray(runs(theta, self._sources[name], keys), np.float64)
            for (name, runs), keys in zip(self._runs.items(), self._keys, strict=True)
        }
        self.is_compiled = True
        score = np.mean([np.log(losses + LOG_FLOOR).mean() for losses in final.values()])
        return float(score), {name: float(losses.mean()) for name, losses in final.items()}


def _make_runs(
    config: MetaTrainConfig, task: Task, judge_held_out: bool
) -> Callable[[Theta, Any, jax.Array], jax.Array]:
    """Jitted: theta, source, keys [R] -> L of each run, [R], float32."""
    optimizer = build_optimizer(config)
    num_last = max(1, config.validation_steps // 10)
    bound = config.loss_bound * task.guessing_loss

    def run(theta: Theta, source: Any, key: jax.Array) -> jax.Array:
        init_key, steps_key = jax.random.split(key)
        params = task.init(init_key)

        def step(carry: Any, index: jax.Array) -> tuple[Any, jax.Array]:
            params, state = carry
            step_key = jax.random.fold_in(steps_key, index)
            batch_key, loss_key = jax.random.split(step_key)
            batch = task.draw_batch(source, "train", batch_key, config.batch_size)
            loss, grads = jax.value_and_grad(task.loss)(params, loss_key, batch)
            updates, state = optimizer.update(theta, state, grads, params, loss, task.mup.rules(params))
            if judge_held_out:
                held_out_key = jax.random.fold_in(step_key, 1)
                batch = task.draw_batch(source, "validation", held_out_key, config.batch_size)
                loss = task.loss(params, loss_key, batch)
            return (optax.apply_updates(params, updates), state), loss

        carry = params, optimizer.init(theta, params, config.validation_steps, task.mup.rules(params))
        losses = jax.lax.scan(step, carry, jnp.arange(config.validation_steps))[1]
        return jnp.mean(bound_losses(losses, bound)[0][-num_last:])

    return jax.jit(jax.vmap(run, in_axes=(None, None, 0)), compiler_options=compiler_options())


def is_due(config: MetaTrainConfig, meta_step: int) -> bool:
    """Whether theta is to be validated after `meta_step` meta-steps: every interval, and at the end."""
    if not config.validation_tasks:
        return False
    return meta_step % config.validation_interval == 0 or meta_step == config.meta_steps


def better(best: Best, score: float, meta_step: int, theta: Theta) -> Best:
    """The best so far, after one more score. Of equal scores the first; a score of NaN is never best."""
    if math.isnan(score) or score >= float(best.score):
        return best
    return Best(np.float32(score), np.int32(meta_step), theta)
