"""The outer loop: send theta, sum the slots' gradients in slot order, step; and save."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meta_train.config import MetaTrainConfig
from meta_train.display import Display
from meta_train.errors import DivergedError, ExecutorError, InterruptedMetaStepError
from meta_train.executors.clusters import Cluster, open_cluster
from meta_train.executors.distributed import DistributedExecutor
from meta_train.executors.interface import Executor
from meta_train.executors.local import LocalExecutor
from meta_train.executors.options import WorkerOptions
from meta_train.executors.worker import versions
from meta_train.initial_theta import initial_digest, keep_initial, read_initial
from meta_train.meta_optimizer import make_meta_optimizer
from meta_train.meta_update import make_meta_update
from meta_train.metrics import MetricsWriter
from meta_train.programs import CompiledProgram, addressed_key, build_optimizer, build_programs, slot_shapes
from meta_train.records import make_record
from meta_train.resume_file import Identity, ResumeState, read_resume_file
from meta_train.run_directory import RunDirectory, how_to_resume
from meta_train.saving import Saver, storage_errors
from meta_train.signals import StopRequest, stop_on_signals
from meta_train.validation import Validator, better, is_due, no_best
from mulo.checkpoint_file import Checkpoint
from mulo.errors import CheckpointError
from mulo.optimizers.base import Theta

MAX_SKIPPED = 10
"""So many meta-gradients in a row that are not finite stop a run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What does not decide theta."""

    checkpoint_interval: int = 100  # meta-steps
    keep_checkpoints: int = 2
    tensorboard: bool = False
    workers: WorkerOptions | None = None  # None = all is computed in this process


class RunOutcome(NamedTuple):
    """How a run ended."""

    theta: Theta
    meta_step: int
    signal_number: int | None  # what stopped it before its last meta-step; None = finished


def run(
    config: MetaTrainConfig, out: Path, options: RunOptions | None = None, cluster: Cluster | None = None
) -> RunOutcome:
    """Meta-trains from the beginning.

    Args:
      config: what decides theta.
      out: the run directory; must not exist.
      options: how often to save, whether on workers, and the like.
      cluster: what the workers of `options` run on; `None` = it is opened here, with JAX already there.

    Returns:
      Theta and whether the run was stopped by SIGINT or SIGTERM; then `resume` goes on with it.

    Raises:
      InputError: `out` exists, a data set is not there, or the workers asked for cannot be had.
      CheckpointError: the theta to begin with cannot be read, or does not fit.
      StoppedError: the disk is full, meta-gradients have not been finite for too long, or the workers are
        lost and cannot be replaced; `resume` goes on from the last checkpoint.
    """
    initial = read_initial(config)
    programs = build_programs(config)
    state = _first_state(config, initial)
    validator = Validator(config) if config.validation_tasks else None
    options = options or RunOptions()
    with _opened(cluster, options) as cluster:
        directory = RunDirectory.create(out, config, lambda run: keep_initial(initial, run))
        with directory.lock():
            work = _Work(config, directory, programs, options, cluster, validator, initial_digest(initial))
            return _train(work, state, 0)


@contextlib.contextmanager
def _opened(cluster: Cluster | None, options: RunOptions) -> Iterator[Cluster | None]:
    if cluster is not None:
        yield cluster
        return
    with open_cluster(options.workers) as cluster:
        yield cluster


def _first_state(config: MetaTrainConfig, initial: Checkpoint | None) -> ResumeState:
    """Before the first meta-step, with the theta of `initial`, or else random weights."""
    if initial is None:
        theta = build_optimizer(config).init_theta(addressed_key(config.seed, "theta"))
    else:
        theta = initial.theta
    return ResumeState(theta, make_meta_optimizer(config).init(theta), slot_states=[], best=no_best(theta))


def resume(out: Path, options: RunOptions | None = None, cluster: Cluster | None = None) -> RunOutcome:
    """Goes on with a run from its newest checkpoint, to the same bits as if it had never stopped.

    Args:
      out: the run directory.
      options: as for `run`; they may be others than before.
      cluster: as for `run`.

    Raises:
      InputError: `out` is not a run, or another process has it.
      CheckpointError: no checkpoint can be read, or the copy of the theta that the run began with is not
        there, damaged, or another.
      StoppedError: as for `run`.
    """
    directory, config = RunDirectory.open(out)
    options = options or RunOptions()
    with directory.lock(), _opened(cluster, options) as cluster:
        programs = build_programs(config)
        initial = read_initial(config, directory)
        digest = initial_digest(initial)
        warnings: list[str] = []
        found = directory.read_newest(
            lambda path, step: read_resume_file(path, Identity(config, step, digest), programs),
            warnings.append,
        )
        meta_step, state = found or (0, _first_state(config, initial))
        with storage_errors(directory):
            directory.cut_metrics(meta_step, warnings.append)
        validator = Validator(config) if config.validation_tasks else None
        work = _Work(config, directory, programs, options, cluster, validator, digest)
        return _train(work, state, meta_step, warnings)


class _Work(NamedTuple):
    """What stays the same during a run."""

    config: MetaTrainConfig
    directory: RunDirectory
    programs: dict[str, CompiledProgram]
    options: RunOptions
    cluster: Cluster | None
    validator: Validator | None
    initial_digest: str  # see `meta_train.initial_theta.initial_digest`

    def make_executor(self, say: Callable[[str], None], request: StopRequest) -> Executor:
        """Where the slots are advanced."""
        if self.cluster is None:
            return LocalExecutor(self.config, self.programs, say)
        assert self.options.workers is not None
        say(
            f"Starting {self.options.workers.num_workers} workers: each reads its data and compiles "
            f"{len(self.programs)} programs, which may take minutes."
        )
        return DistributedExecutor(
            self.config,
            self.cluster.make_pool(self.config, self.directory.workers_path),
            self.options.workers,
            say=say,
            state_shapes=slot_shapes(self.config, self.programs),
            stop=lambda: request.signal_number is not None,
            versions=versions(),
        )

    def last_checkpoint(self) -> str:
        """The newest checkpoint, for people."""
        steps = self.directory.checkpoint_steps()
        return str(self.directory.checkpoint_path(steps[0])) if steps else "none: nothing had been saved yet"

    def how_to_go_on(self) -> str:
        """The last sentence of every message with which a run ends early."""
        return f"Go on with: {how_to_resume(self.directory.path)}"


def _train(work: _Work, state: ResumeState, first_meta_step: int, warnings: Sequence[str] = ()) -> RunOutcome:
    """Meta-steps from `first_meta_step` to the end or to a signal, then saves."""
    config, directory = work.config, work.directory
    board = directory.board_path
    board = board if work.options.tensorboard or os.path.lexists(board) else None
    with (
        storage_errors(directory),
        Display(directory.log_path, config.meta_steps, first_meta_step) as display,
        MetricsWriter(directory.metrics_path, board, first_meta_step) as metrics,
        stop_on_signals() as request,
        _executor_errors(work, display.say),
        work.make_executor(display.say, request) as executor,
    ):
        for warning in warnings:
            display.say(warning)
        display.say(
            f"{directory.path}: meta-steps {first_meta_step} to {config.meta_steps}, "
            f"{len(config.slots())} slots"
        )
        _say_idle(work, display)
        if state.slot_states:
            executor.restore(state.slot_states, first_meta_step, state.history)
        saver = Saver(config, directory, executor, work.options.keep_checkpoints, work.initial_digest)
        progress = _Progress(executor, saver, display, metrics, request)
        state, meta_step, saved_at = _take_meta_steps(work, state, first_meta_step, progress)
        finished = meta_step == config.meta_steps
        if finished:
            saver.export(directory.theta_path, state.theta, meta_step)
            display.say(f"Finished. The trained optimizer is {directory.theta_path}")
        else:
            saved = saved_at == meta_step
            what = "all is saved." if saved else f"the last checkpoint is {work.last_checkpoint()}."
            display.say(
                f"Stopped by signal {request.signal_number} after {meta_step} meta-steps; {what} "
                f"{work.how_to_go_on()}"
            )
    return RunOutcome(state.theta, meta_step, None if finished else request.signal_number)


def _say_idle(work: _Work, display: Display) -> None:
    """Tells of workers that never have anything to do."""
    workers, num_slots = work.options.workers, len(work.config.slots())
    if workers is not None and workers.num_workers > num_slots:
        display.say(
            f"{workers.num_workers} workers are asked for, and {num_slots} have work: one a slot. Each "
            "task has num_pairs / pairs_per_slot of them; a new run with a smaller --pairs-per-slot has more."
        )


@contextlib.contextmanager
def _executor_errors(work: _Work, say: Callable[[str], None]) -> Iterator[None]:
    """What ends a run because of its workers is said with the last checkpoint and how to go on."""
    try:
        yield
    except ExecutorError as error:
        message = f"{work.directory.path}: {error} The last checkpoint is {work.last_checkpoint()}. "
        message += work.how_to_go_on()
        say(message)
        raise ExecutorError(message) from error


class _Progress(NamedTuple):
    """What the outer loop asks, and where it tells what it does."""

    executor: Executor
    saver: Saver
    display: Display
    metrics: MetricsWriter
    request: StopRequest


def _take_meta_steps(
    work: _Work, state: ResumeState, meta_step: int, progress: _Progress
) -> tuple[ResumeState, int, int]:
    """The outer loop. Returns the state, the number of meta-steps made, and that after which it was saved."""
    config, update, saved_at = work.config, make_meta_update(work.config), meta_step
    num_skipped = 0  # in a row
    try:
        while meta_step < config.meta_steps and progress.request.signal_number is None:
            began = time.monotonic()
            results = progress.executor.advance(state.theta, meta_step)
            theta, optimizer_state, statistics = update(
                state.theta, state.meta_optimizer_state, [result.gradient for result in results]
            )
            state = state._replace(theta=theta, meta_optimizer_state=optimizer_state)
            statistics.gradient_norm.block_until_ready()
            record = make_record(config, meta_step, results, statistics, time.monotonic() - began)
            meta_step += 1
            state = _note(work, state, meta_step, record, progress)
            num_skipped = num_skipped + 1 if record["skipped"] else 0
            if num_skipped:
                _say_skipped(work, progress.display, meta_step, num_skipped)
            elif meta_step % work.options.checkpoint_interval == 0 and _save(
                work, state, meta_step, progress
            ):
                saved_at = meta_step
        if saved_at != meta_step:
            progress.saver.save(state, meta_step)
            saved_at = meta_step
    except (InterruptedMetaStepError, ExecutorError) as error:
        if saved_at != meta_step and _save_known(state, meta_step, progress):
            saved_at = meta_step
        # A batch system sends its signal to the workers and to Ray too: then that is what has ended the run.
        if isinstance(error, ExecutorError) and progress.request.signal_number is None:
            raise
        progress.display.say(str(error))
    return state, meta_step, saved_at


def _save_known(state: ResumeState, meta_step: int, progress: _Progress) -> bool:
    """Saves what this process knows, when the workers cannot be asked. Never hides why they cannot."""
    try:
        progress.saver.save_known(state, meta_step)
    except (CheckpointError, OSError) as error:
        progress.display.say(f"meta-step {meta_step}: not saved. {error}")
        return False
    return True


def _note(
    work: _Work, state: ResumeState, meta_step: int, record: dict[str, Any], progress: _Progress
) -> ResumeState:
    """Validates where it is due, and writes what is known of a meta-step."""
    record |= progress.executor.report()
    if is_due(work.config, meta_step):
        if work.validator is not None and not work.validator.is_compiled:
            progress.display.say(f"Compiling the validation on {len(work.config.validation_tasks)} tasks.")
        state, scores = _validate(work, state, meta_step)
        record |= scores
        progress.display.say(f"meta-step {meta_step}  validation score {scores['validation_score']:.4f}")
    if np.isfinite(state.best.score):
        record |= {"best_score": float(state.best.score), "best_meta_step": int(state.best.meta_step)}
    work.directory.check(progress.display.say)
    progress.metrics.write(record)
    progress.display.step(meta_step, record)
    return state


def _save(work: _Work, state: ResumeState, meta_step: int, progress: _Progress) -> bool:
    """Saves on the way. A disk that does not take it is told of, and tried again with the next checkpoint."""
    try:
        progress.saver.save(state, meta_step)
    except (CheckpointError, OSError) as error:
        progress.display.say(
            f"meta-step {meta_step}: not saved. {error} The run goes on, the checkpoints of before are kept, "
            f"and it tries again after {work.options.checkpoint_interval} meta-steps."
        )
        return False
    return True


def _validate(work: _Work, state: ResumeState, meta_step: int) -> tuple[ResumeState, dict[str, Any]]:
    """Scores theta; if it is the best so far, keeps it: the next save writes it."""
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
    message = (
        f"{work.directory.path}: the meta-gradient was not finite in {MAX_SKIPPED} meta-steps in a row, up "
        f"to meta-step {meta_step}. The last good checkpoint is {work.last_checkpoint()}. Start again with a "
        "smaller --learning-rate, --loss-bound or --max-horizon."
    )
    display.say(message)
    raise DivergedError(message)
