"""Checkpoints of a run, and the best theta beside them; and what happens when the disk does not take them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from meta_train.config import MetaTrainConfig
from meta_train.errors import StorageError
from meta_train.executors.interface import Executor
from meta_train.export import export_theta
from meta_train.resume_file import Identity, ResumeState, read_theta, write_resume_file
from meta_train.run_directory import RunDirectory, how_to_resume
from mulo.errors import CheckpointError, InputError
from mulo.loading import load
from mulo.optimizers.base import Theta


class Saver(NamedTuple):
    """Writes the checkpoints of one run."""

    config: MetaTrainConfig
    directory: RunDirectory
    executor: Executor
    keep: int  # newest checkpoints that stay
    initial_digest: str  # see `meta_train.initial_theta.initial_digest`

    def save(self, state: ResumeState, meta_step: int) -> None:
        """Writes a checkpoint, and removes those that are no longer needed.

        Raises:
          CheckpointError: it cannot be written; the earlier ones are still there.
          StorageError: the run's directory is not there any more, or is another process's.
        """
        self.directory.check()
        self._write(state._replace(slot_states=list(self.executor.snapshot()), history=None), meta_step)

    def save_known(self, state: ResumeState, meta_step: int) -> None:
        """The same where no worker can be asked: with older states of the slots, and the thetas since.

        Raises:
          CheckpointError: as for `save`.
        """
        self.directory.check()
        slot_states, history = self.executor.known_states(meta_step)
        self._write(state._replace(slot_states=slot_states, history=history), meta_step)

    def export(self, path: os.PathLike[str], theta: Theta, meta_step: int, **provenance: Any) -> None:
        """Writes theta after `meta_step` meta-steps as an optimizer, with where it came from.

        Raises:
          CheckpointError: it cannot be written.
        """
        self.directory.check()
        if self.initial_digest:
            provenance["initial_theta_digest"] = self.initial_digest
        export_theta(
            path,
            self.config,
            theta,
            meta_step,
            metrics_path=self.directory.metrics_path,
            more_provenance=provenance,
        )

    def _write(self, state: ResumeState, meta_step: int) -> None:
        identity = Identity(self.config, meta_step, self.initial_digest)
        write_resume_file(self.directory.checkpoint_path(meta_step), state, identity)
        self._export_best(state)
        self.directory.prune(self.keep, meta_step)

    def _export_best(self, state: ResumeState) -> None:
        """Writes the best theta so far, if there is one that is not written yet."""
        best = state.best
        if not np.isfinite(best.score) or self._is_written(float(best.score)):
            return
        self.export(
            self.directory.best_path, best.theta, int(best.meta_step), validation_score=float(best.score)
        )

    def _is_written(self, score: float) -> bool:
        try:
            return load(self.directory.best_path).provenance.get("validation_score") == score
        except CheckpointError:  # none yet, or damaged
            return False


def _reason(error: OSError) -> str:
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    return f"{error.strerror or error}{where}."


@contextmanager
def storage_errors(directory: RunDirectory) -> Iterator[None]:
    """Around everything that writes to a run: what the disk refuses ends it in one line.

    Raises:
      StorageError: something could not be written; says how to go on.
    """
    try:
        yield
    except (OSError, CheckpointError) as error:
        what = str(error) if isinstance(error, CheckpointError) else _reason(error)
        newest = next(iter(directory.checkpoint_steps()), 0)
        raise StorageError(
            f"{directory.path} cannot be written: {what} When that is mended, go on from meta-step {newest} "
            f"with: {how_to_resume(directory.path)}"
        ) from error


def newest_theta(directory: RunDirectory, config: MetaTrainConfig) -> tuple[int, Theta]:
    """The theta of a run, and the number of meta-steps that it has had.

    Raises:
      InputError: nothing has been saved yet.
      CheckpointError: what has been saved cannot be read.
    """
    if os.path.lexists(directory.theta_path):
        return config.meta_steps, load(directory.theta_path).theta
    found = directory.read_newest(
        lambda path, meta_step: read_theta(path, Identity(config, meta_step)), lambda _: None
    )
    if found is None:
        raise InputError(
            f"{directory.path} has no checkpoint yet; they are written every few meta-steps and at the end."
        )
    return found
