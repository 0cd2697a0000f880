"""The outer loop: send theta, sum the slots' gradients in slot order, step; and save."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.config import MetaTrainConfig
from meta_train.display import Display
from meta_train.errors import DivergedError, ExecutorError, ExecutorStoppedError, StorageError
from meta_train.executors.base import Executor
from meta_train.executors.clusters import Cluster, open_cluster
from meta_train.executors.coordinator import DistributedExecutor
from meta_train.executors.local import LocalExecutor
from meta_train.executors.options import WorkerOptions
from meta_train.executors.worker import versions
from meta_train.export import export_theta
from meta_train.meta_optimizer import make_meta_optimizer
from meta_train.metrics import MetricsWriter
from meta_train.programs import CompiledProgram, addressed_key, build_optimizer, build_programs, slot_shapes
from meta_train.records import UpdateStatistics, learned_decays, make_record, theta_norms
from meta_train.resume_file import ResumeState, read_resume_file, read_theta, write_resume_file
from meta_train.run_directory import RunDirectory
from meta_train.signals import StopRequest, stop_on_signals
from meta_train.validation import Validator, better, is_due, no_best
from mulo.checkpoint_file import load
from mulo.errors import CheckpointError, InputError
from mulo.optimizers.base import PyTree, Theta

MAX_SKIPPED = 10
"""So many meta-gradients in a row that are not finite stop a run."""

MAX_UNSAVED = 3
"""So many checkpoints in a row that cannot be written stop a run."""


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
      DivergedError: meta-gradients were not finite for too long.
      ExecutorError: the workers are lost and cannot be replaced; `resume` goes on from the last checkpoint.
      StorageError: the run directory cannot be written to; likewise.
    """
    programs = build_programs(config)
    theta = build_optimizer(config).init_theta(addressed_key(config.seed, "theta"))
    state = _first_state(config, theta)
    validator = Validator(config) if config.validation_interval else None
    options = options or RunOptions()
    with _opened(cluster, options) as cluster:
        directory = RunDirectory.create(out, config)
        with directory.lock():
            return _train(_Work(config, directory, programs, options, cluster, validator), state, 0)


@contextlib.contextmanager
def _opened(cluster: Cluster | None, options: RunOptions) -> Iterator[Cluster | None]:
    if cluster is not None:
        yield cluster
        return
    with open_cluster(options.workers) as cluster:
        yield cluster


def _first_state(config: MetaTrainConfig, theta: Theta) -> ResumeState:
    return ResumeState(theta, make_meta_optimizer(config).init(theta), slot_states=[], best=no_best(theta))


def resume(out: Path, options: RunOptions | None = None, cluster: Cluster | None = None) -> RunOutcome:
    """Goes on with a run from its newest checkpoint, to the same bits as if it had never stopped.

    Args:
      out: the run directory.
      options: as for `run`; they may be others than before.
      cluster: as for `run`.

    Raises:
      InputError: `out` is not a run, or another process has it.
      CheckpointError: no checkpoint can be read.
      ExecutorError, StorageError: as for `run`.
    """
    directory, config = RunDirectory.open(out)
    options = options or RunOptions()
    with directory.lock(), _opened(cluster, options) as cluster:
        programs = build_programs(config)
        theta = build_optimizer(config).init_theta(addressed_key(config.seed, "theta"))
        state, meta_step = _first_state(config, theta), 0
        warnings: list[str] = []
        found = directory.read_newest(lambda path: read_resume_file(path, config, programs), warnings.append)
        if found is not None:
            meta_step, state = found
        directory.cut_metrics(meta_step)
        validator = Validator(config) if config.validation_interval else None
        work = _Work(config, directory, programs, options, cluster, validator)
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
    programs: dict[str, CompiledProgram]
    options: RunOptions
    cluster: Cluster | None
    validator: Validator | None

    def make_executor(self, say: Callable[[str], None], request: StopRequest) -> Executor:
        """Where the slots are advanced."""
        if self.cluster is None:
            return LocalExecutor(self.config, self.programs)
        assert self.options.workers is not None
        return DistributedExecutor(
            self.config,
            self.cluster.make_pool(self.config, self.directory.path / "workers"),
            self.options.workers,
            say=say,
            state_shapes=slot_shapes(self.config, self.programs),
            stop=lambda: request.signal_number is not None,
            versions=versions(),
        )

    def save(self, state: ResumeState, meta_step: int) -> None:
        """Writes a checkpoint, and removes those that are no longer needed.

        Raises:
          CheckpointError: it cannot be written; what is there stays there.
        """
        write_resume_file(self.directory.checkpoint_path(meta_step), state, self.config)
        self.export_best(state)
        self.directory.prune(self.options.keep_checkpoints)

    def last_checkpoint(self) -> str:
        """The newest checkpoint, for people."""
        steps = self.directory.checkpoint_steps()
        return str(self.directory.checkpoint_path(steps[0])) if steps else "none: nothing had been saved yet"

    def how_to_go_on(self) -> str:
        """The last sentence of every message with which a run ends early."""
        return f"Go on with: mulo-meta-train --resume {self.directory.path}"

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
        work.make_executor(display.say, request) as executor,
    ):
        for warning in warnings:
            display.say(warning)
        display.say(
            f"{directory.path}: meta-steps {first_meta_step} to {config.meta_steps}, "
            f"{len(config.slots())} slots"
        )
        if state.slot_states:
            executor.restore(state.slot_states, first_meta_step)
        outer = _OuterLoop(work, executor, display, metrics, request)
        with _ending_in_one_line(work, display):
            state, meta_step, saved_at = outer.run(state, first_meta_step)
            finished = meta_step == config.meta_steps
            if finished:
                export_theta(
                    directory.theta_path, config, state.theta, meta_step, metrics_path=directory.metrics_path
                )
        if finished:
            display.say(f"Finished. The trained optimizer is {directory.theta_path}")
        else:
            _say_stopped(work, display, request, meta_step, saved_at)
    return RunOutcome(state.theta, meta_step, None if finished else request.signal_number)


def _say_stopped(work: _Work, display: Display, request: StopRequest, meta_step: int, saved_at: int) -> None:
    after = f"Stopped by signal {request.signal_number} after {meta_step} meta-steps; "
    saved = "all is saved." if saved_at == meta_step else f"the last checkpoint is {work.last_checkpoint()}."
    display.say(f"{after}{saved} {work.how_to_go_on()}")


@contextlib.contextmanager
def _ending_in_one_line(work: _Work, display: Display) -> Iterator[None]:
    """What ends a run early is said with the last checkpoint and how to go on, in the log too."""
    try:
        yield
    except (ExecutorError, CheckpointError, OSError) as error:
        kind = ExecutorError if isinstance(error, ExecutorError) else StorageError
        message = f"{work.directory.path}: {error}".rstrip(".")
        message += f". The last checkpoint is {work.last_checkpoint()}. {work.how_to_go_on()}"
        with contextlib.suppress(OSError):
            display.say(message)
        raise kind(message) from error


class _OuterLoop:
    """Meta-steps, one after the other."""

    def __init__(
        self,
        work: _Work,
        executor: Executor,
        display: Display,
        metrics: MetricsWriter,
        request: StopRequest,
    ):
        """Computes nothing."""
        self._work, self._executor = work, executor
        self._display, self._metrics, self._request = display, metrics, request
        self._update = make_meta_update(work.config)
        self._num_skipped = 0  # meta-steps in a row
        self._num_unsaved = 0  # checkpoints in a row that could not be written

    def run(self, state: ResumeState, meta_step: int) -> tuple[ResumeState, int, int]:
        """Returns the state, the number of meta-steps made, and the number after which it was saved last."""
        config, saved_at = self._work.config, meta_step
        while meta_step < config.meta_steps and self._request.signal_number is None:
            try:
                state, record = self._meta_step(state, meta_step)
            except ExecutorStoppedError:  # the workers' states are not to be had in time either
                return state, meta_step, saved_at
            meta_step += 1
            state = self._note(state, meta_step, record)
            due = meta_step % self._work.options.checkpoint_interval == 0
            if due and not self._num_skipped and self._save(state, meta_step):
                saved_at = meta_step
        if saved_at != meta_step:
            try:
                self._work.save(state._replace(slot_states=self._executor.snapshot()), meta_step)
            except ExecutorStoppedError:
                return state, meta_step, saved_at
        return state, meta_step, meta_step

    def _meta_step(self, state: ResumeState, meta_step: int) -> tuple[ResumeState, dict[str, Any]]:
        began = time.monotonic()
        results = self._executor.advance(state.theta, meta_step)
        theta, optimizer_state, statistics = self._update(
            state.theta, state.meta_optimizer_state, [result.gradient for result in results]
        )
        statistics.gradient_norm.block_until_ready()
        seconds = time.monotonic() - began
        record = make_record(self._work.config, meta_step, results, statistics, seconds)
        return state._replace(theta=theta, meta_optimizer_state=optimizer_state), record

    def _note(self, state: ResumeState, meta_step: int, record: dict[str, Any]) -> ResumeState:
        """Validates where it is due, writes the metrics, tells of what was skipped."""
        record |= self._executor.report()
        if is_due(self._work.config, meta_step):
            state, scores = _validate(self._work, state, meta_step)
            record.update(scores)
            self._display.say(f"meta-step {meta_step}  validation score {scores['validation_score']:.4f}")
        if self._work.config.validation_interval and np.isfinite(state.best.score):
            record |= {
                "best_score": float(state.best.score),
                "best_meta_step": int(state.best.meta_step),
            }
        self._metrics.write(record)
        self._display.step(meta_step, record)
        self._num_skipped = self._num_skipped + 1 if record["skipped"] else 0
        if self._num_skipped:
            _say_skipped(self._work, self._display, meta_step, self._num_skipped)
        return state

    def _save(self, state: ResumeState, meta_step: int) -> bool:
        """A checkpoint on the way. If it cannot be written the run goes on, and gives up at the third."""
        try:
            self._work.save(state._replace(slot_states=self._executor.snapshot()), meta_step)
        except ExecutorStoppedError:
            return False
        except (CheckpointError, OSError) as error:
            self._num_unsaved += 1
            if self._num_unsaved == MAX_UNSAVED:
                raise
            self._display.say(
                f"{error} The run goes on; the last checkpoint is {self._work.last_checkpoint()}"
            )
            return False
        self._num_unsaved = 0
        return True


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
    message = (
        f"{work.directory.path}: the meta-gradient was not finite in {MAX_SKIPPED} meta-steps in a row, up "
        f"to meta-step {meta_step}. The last good checkpoint is {work.last_checkpoint()}. Start again with a "
        "smaller --learning-rate, --loss-bound or --max-horizon."
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
