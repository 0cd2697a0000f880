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
from meta_train.executors.base import Executor, SlotResult
from meta_train.executors.local import LocalExecutor
from meta_train.export import export_theta
from meta_train.meta_optimizer import learning_rate_schedule, make_meta_optimizer
from meta_train.metrics import MetricsWriter
from meta_train.programs import addressed_key, build_optimizer, build_programs
from meta_train.resume_file import ResumeState, read_resume_file, read_theta, write_resume_file
from meta_train.run_directory import RunDirectory
from meta_train.signals import StopRequest, stop_on_signals
from mulo.checkpoint_file import load
from mulo.errors import InputError
from mulo.optimizers.base import PyTree, Theta


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
    state = ResumeState(theta, make_meta_optimizer(config).init(theta), slot_states=[])
    directory = RunDirectory.create(out, config)
    with directory.lock():
        work = _Work(config, directory, LocalExecutor(config, programs), options or RunOptions())
        return _train(work, state, 0)


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
        state, meta_step = ResumeState(theta, make_meta_optimizer(config).init(theta), []), 0
        warnings: list[str] = []
        found = directory.read_newest(lambda path: read_resume_file(path, config, programs), warnings.append)
        if found is not None:
            meta_step, state = found
            executor.restore(state.slot_states)
        directory.cut_metrics(meta_step)
        work = _Work(config, directory, executor, options or RunOptions())
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

    def save(self, state: ResumeState, meta_step: int) -> None:
        """Writes a checkpoint, and removes those that are no longer needed."""
        state = state._replace(slot_states=self.executor.snapshot())
        write_resume_file(self.directory.checkpoint_path(meta_step), state, self.config)
        self.directory.prune(self.options.keep_checkpoints)


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
        state, meta_step = _take_meta_steps(work, state, first_meta_step, display, metrics, request)
        finished = meta_step == config.meta_steps
        if finished:
            export_theta(directory.theta_path, config, state.theta, directory.metrics_path)
            display.say(f"Finished. The trained optimizer is {directory.theta_path}")
        else:
            display.say(
                f"Stopped by signal {request.signal_number} after {meta_step} meta-steps; all is saved. "
                f"Go on with: mulo-meta-train --resume {directory.path}"
            )
    return RunOutcome(state.theta, meta_step, None if finished else request.signal_number)


def _take_meta_steps(
    work: _Work,
    state: ResumeState,
    meta_step: int,
    display: Display,
    metrics: MetricsWriter,
    request: StopRequest,
) -> tuple[ResumeState, int]:
    """The outer loop. Returns the state and the number of meta-steps made; both have been saved."""
    config, update, saved_at = work.config, make_meta_update(work.config), meta_step
    while meta_step < config.meta_steps and request.signal_number is None:
        began = time.monotonic()
        results = work.executor.advance(state.theta, meta_step)
        theta, optimizer_state, gradient_norm = update(
            state.theta, state.meta_optimizer_state, [result.gradient for result in results]
        )
        state = state._replace(theta=theta, meta_optimizer_state=optimizer_state)
        gradient_norm.block_until_ready()
        record = _record(config, meta_step, results, float(gradient_norm), time.monotonic() - began)
        meta_step += 1
        metrics.write(record)
        display.step(meta_step, record["meta_loss"], record["inner_steps_per_second"])
        if meta_step % work.options.checkpoint_interval == 0:
            work.save(state, meta_step)
            saved_at = meta_step
    if saved_at != meta_step:
        work.save(state, meta_step)
    return state, meta_step


def make_meta_update(config: MetaTrainConfig) -> Callable[..., tuple[Theta, PyTree, jax.Array]]:
    """The jitted meta-step: (theta, meta-optimizer state, slot gradients) -> the next two, gradient norm.

    The gradients are averaged in slot order, so that theta does not depend on who computed which.
    """
    meta_optimizer = make_meta_optimizer(config)

    @jax.jit
    def update(theta, optimizer_state, gradients):
        mean = jax.tree.map(lambda *slots: sum(slots[1:], slots[0]) / len(slots), *gradients)
        updates, optimizer_state = meta_optimizer.update(mean, optimizer_state, theta)
        return optax.apply_updates(theta, updates), optimizer_state, optax.tree.norm(mean)

    return update


def _record(
    config: MetaTrainConfig, meta_step: int, results: list[SlotResult], gradient_norm: float, seconds: float
) -> dict[str, Any]:
    """What is logged of one meta-step."""
    statistics = jax.tree.map(lambda *slots: np.asarray(slots), *[result.statistics for result in results])
    slots = config.slots()
    by_task = {
        task: float(
            np.mean([loss for loss, name in zip(statistics.meta_loss, slots, strict=True) if name == task])
        )
        for task in config.tasks
    }
    inner_steps = len(slots) * 2 * config.pairs_per_slot * config.truncation_length
    return {
        "meta_step": meta_step,
        "meta_loss": float(np.mean(statistics.meta_loss)),
        "task_losses": by_task,
        "clipped_fraction": float(np.mean(statistics.clipped_fraction)),
        "gradient_norm": gradient_norm,
        "learning_rate": float(learning_rate_schedule(config)(jnp.asarray(meta_step))),
        "inner_steps": (meta_step + 1) * inner_steps,
        "inner_steps_per_second": inner_steps / seconds,
        "wall_seconds": seconds,
    }
