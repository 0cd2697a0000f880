"""The outer loop: send theta, sum the slots' gradients in slot order, step; and save."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.config import MetaTrainConfig
from meta_train.display import Display
from meta_train.errors import DivergedError
from meta_train.executors.base import Executor
from meta_train.executors.local import LocalExecutor
from meta_train.export import export_theta
from meta_train.meta_optimizer import make_meta_optimizer
from meta_train.metrics import MetricsWriter
from meta_train.programs import addressed_key, build_optimizer, build_programs
from meta_train.records import UpdateStatistics, learned_decays, make_record, theta_norms
from meta_train.resume_file import ResumeState, read_resume_file, read_theta, write_resume_file
from meta_train.run_directory import RunDirectory
from meta_train.signals import StopRequest, stop_on_signals
from meta_train.validation import Validator, better, is_due, no_best
from mulo.checkpoint_file import load
from mulo.errors import InputError
from mulo.optimizers.base import PyTree, Theta

MAX_SKIPPED = 10
"""So many meta-gradients in a row that are not finite stop a run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What does not decide theta."""

    checkpoint_interval: int = 100  # meta-steps
    keep_checkpoints: int = 2
    tensorboard: bool = False


class RunOutcome(NamedTuple):
    """How a run ended."""

    theta: Theta
    meta_step: int
    signal_number: int | None  # what stopped it before its last meta-step; None = finished


def run(config: MetaTrainConfig, out: Path, options: RunOptions | None = None) -> RunOutcome:
    """Meta-trains from the beginning.

    Args:
      config: what decides theta.
      out: the run directory; must not exist.
      options: how often to save, and the like.

    Returns:
      Theta and whether the run was stopped by SIGINT or SIGTERM; then `resume` goes on with it.

    Raises:
      InputError: `out` exists, or a data set is not there.
    """
    programs = build_programs(config)
    theta = build_optimizer(config).init_theta(addressed_key(config.seed, "theta"))
    state = _first_state(config, theta)
    validator = Validator(config) if config.validation_interval else None
    directory = RunDirectory.create(out, config)
    with directory.lock():
        executor = LocalExecutor(config, programs)
        work = _Work(config, directory, executor, options or RunOptions(), validator)
        return _train(work, state, 0)


def _first_state(config: MetaTrainConfig, theta: Theta) -> ResumeState:
    return ResumeState(theta, make_meta_optimizer(config).init(theta), slot_states=[], best=no_best(theta))


def resume(out: Path, options: RunOptions | None = None) -> RunOutcome:
    """Goes on with a run from its newest checkpoint, to the same bits as if it had never stopped.

    Raises:
      InputError: `out` is not a run, or another process has it.
      CheckpointError: no checkpoint can be read.
    """
    directory, config = RunDirectory.open(out)
    with directory.lock():
        programs = build_programs(config)
        executor = LocalExecutor(config, programs)
        theta = build_optimizer(config).init_theta(addressed_key(config.seed, "theta"))
        state, meta_step = _first_state(config, theta), 0
        warnings: list[str] = []
        found = directory.read_newest(lambda path: read_resume_file(path, config, programs), warnings.append)
        if found is not None:
            meta_step, state = found
            executor.restore(state.slot_states, meta_step)
        directory.cut_metrics(meta_step)
        validator = Validator(config) if config.validation_interval else None
        work = _Work(config, directory, executor, options or RunOptions(), validator)
        return _train(work, state, meta_step, warnings)


def newest_theta(out: Path) -> tuple[int, Theta]:
    """The theta of a run, and the number of meta-steps that it has had.

    Raises:
      InputError: `out` is not a run, or nothing has been saved yet.
      CheckpointError: what has been saved cannot be read.
    """
    directory, config = RunDirectory.open(out)
    if directory.theta_path.exists():
        return config.meta_steps, load(directory.theta_path).theta
    found = directory.read_newest(lambda path: read_theta(path, config), lambda _: None)
    if found is None:
        raise InputError(
            f"{out} has no checkpoint yet; it is saved every few meta-steps and when it is stopped."
        )
    return found


class _Work(NamedTuple):
    """What stays the same during a run."""

    config: MetaTrainConfig
    directory: RunDirectory
    executor: Executor
    options: RunOptions
    validator: Validator | None

    def save(self, state: ResumeState, meta_step: int) -> None:
        """Writes a checkpoint, and removes those that are no longer needed."""
        state = state._replace(slot_states=self.executor.snapshot())
        write_resume_file(self.directory.checkpoint_path(meta_step), state, self.config)
        self.export_best(state)
        self.directory.prune(self.options.keep_checkpoints)

    def export_best(self, state: ResumeState) -> None:
        """Writes the best theta so far, if there is one that is not written yet."""
        best = state.best
        if not np.isfinite(best.score) or self._is_written(float(best.score)):
            return
        export_theta(
            self.directory.best_path,
            self.config,
            best.theta,
            int(best.meta_step),
            metrics_path=self.directory.metrics_path,
            validation_score=float(best.score),
        )

    def _is_written(self, score: float) -> bool:
        path = self.directory.best_path
        return path.exists() and load(path).provenance.get("validation_score") == score


def _train(work: _Work, state: ResumeState, first_meta_step: int, warnings: Sequence[str] = ()) -> RunOutcome:
    """Meta-steps from `first_meta_step` to the end or to a signal, then saves."""
    config, directory = work.config, work.directory
    board = directory.path / "tensorboard" if work.options.tensorboard else None
    with (
        Display(directory.log_path, config.meta_steps, first_meta_step) as display,
        MetricsWriter(directory.metrics_path, board) as metrics,
        stop_on_signals() as request,
    ):
        for warning in warnings:
            display.say(warning)
        display.say(
            f"{directory.path}: meta-steps {first_meta_step} to {config.meta_steps}, "
            f"{len(config.slots())} slots"
        )
        progress = _Progress(display, metrics, request)
        state, meta_step = _take_meta_steps(work, state, first_meta_step, progress)
        finished = meta_step == config.meta_steps
        if finished:
            export_theta(
                directory.theta_path, config, state.theta, meta_step, metrics_path=directory.metrics_path
            )
            display.say(f"Finished. The trained optimizer is {directory.theta_path}")
        else:
            display.say(
                f"Stopped by signal {request.signal_number} after {meta_step} meta-steps; all is saved. "
                f"Go on with: mulo-meta-train --resume {directory.path}"
            )
    return RunOutcome(state.theta, meta_step, None if finished else request.signal_number)


class _Progress(NamedTuple):
    """Where the outer loop tells what it does."""

    display: Display
    metrics: MetricsWriter
    request: StopRequest


def _take_meta_steps(
    work: _Work, state: ResumeState, meta_step: int, progress: _Progress
) -> tuple[ResumeState, int]:
    """The outer loop. Returns the state and the number of meta-steps made; both have been saved."""
    config, update, saved_at = work.config, make_meta_update(work.config), meta_step
    num_skipped = 0  # in a row
    while meta_step < config.meta_steps and progress.request.signal_number is None:
        began = time.monotonic()
        results = work.executor.advance(state.theta, meta_step)
        theta, optimizer_state, statistics = update(
            state.theta, state.meta_optimizer_state, [result.gradient for result in results]
        )
        state = state._replace(theta=theta, meta_optimizer_state=optimizer_state)
        statistics.gradient_norm.block_until_ready()
        record = make_record(config, meta_step, results, statistics, time.monotonic() - began)
        meta_step += 1
        if is_due(config, meta_step):
            state, scores = _validate(work, state, meta_step)
            record.update(scores)
            progress.display.say(f"meta-step {meta_step}  validation score {scores['validation_score']:.4f}")
        if config.validation_interval and np.isfinite(state.best.score):
            record |= {
                "best_score": float(state.best.score),
                "best_meta_step": int(state.best.meta_step),
            }
        progress.metrics.write(record)
        progress.display.step(meta_step, record)
        num_skipped = num_skipped + 1 if record["skipped"] else 0
        if num_skipped:
            _say_skipped(work, progress.display, meta_step, num_skipped)
        elif meta_step % work.options.checkpoint_interval == 0:
            work.save(state, meta_step)
            saved_at = meta_step
    if saved_at != meta_step:
        work.save(state, meta_step)
    return state, meta_step


def _validate(work: _Work, state: ResumeState, meta_step: int) -> tuple[ResumeState, dict[str, Any]]:
    """Scores theta; if it is the best so far, keeps it and writes it."""
    assert work.validator is not None
    score, task_losses = work.validator(state.theta)
    best = better(state.best, score, meta_step, state.theta)
    return state._replace(best=best), {"validation_score": score, "validation_losses": task_losses}


def _say_skipped(work: _Work, display: Display, meta_step: int, num_skipped: int) -> None:
    """Tells of a meta-gradient that is not finite; gives up after too many.

    Raises:
      DivergedError: it was the tenth in a row.
    """
    display.say(f"meta-step {meta_step}: the meta-gradient is not finite; theta stays as it is")
    if num_skipped < MAX_SKIPPED:
        return
    # No checkpoint is written while steps are skipped: the newest is from before.
    steps = work.directory.checkpoint_steps()
    good = work.directory.checkpoint_path(steps[0]) if steps else "none: nothing had been saved yet"
    message = (
        f"{work.directory.path}: the meta-gradient was not finite in {MAX_SKIPPED} meta-steps in a row, up "
        f"to meta-step {meta_step}. The last good checkpoint is {good}. Start again with a smaller "
        "--learning-rate, --loss-bound or --max-horizon."
    )
    display.say(message)
    raise DivergedError(message)


def make_meta_update(config: MetaTrainConfig) -> Callable[..., tuple[Theta, PyTree, UpdateStatistics]]:
    """The jitted meta-step: (theta, meta-optimizer state, slot gradients) -> the next two, what is reported.

    The gradients are averaged in slot order, so that theta does not depend on who computed which. If
    their mean is not finite, theta and the meta-optimizer's state stay as they are.
    """
    meta_optimizer = make_meta_optimizer(config)

    @jax.jit
    def update(theta, optimizer_state, gradients):
        mean = jax.tree.map(lambda *slots: sum(slots[1:], slots[0]) / len(slots), *gradients)
        norm = optax.tree.norm(mean)
        finite = jnp.isfinite(norm)
        updates, next_state = meta_optimizer.update(mean, optimizer_state, theta)
        next_theta = optax.apply_updates(theta, updates)
        next_theta, next_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (next_theta, next_state), (theta, optimizer_state)
        )
        statistics = UpdateStatistics(norm, ~finite, theta_norms(next_theta), learned_decays(next_theta))
        return next_theta, next_state, statistics

    return update
