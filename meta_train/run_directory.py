"""A run is a directory: configuration, checkpoints, metrics, log, final theta; and a lock."""

import dataclasses
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from meta_train.config import MetaTrainConfig
from mulo.errors import CheckpointError, InputError

_LOCK_SECONDS = 0.2
"""How long to wait for a lock: `is_locked` of another process has it for a moment."""

_CHECKPOINT_NAME = re.compile(r"step-(\d{8})\.mulo")


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The files of one run.

    config.json, metrics.jsonl (one line a meta-step), log.txt, checkpoints/step-NNNNNNNN.mulo
    (everything that `--resume` needs), theta.mulo (when finished).
    """

    path: Path

    @property
    def metrics_path(self) -> Path:
        """One JSON line for each meta-step."""
        return self.path / "metrics.jsonl"

    @property
    def theta_path(self) -> Path:
        """The trained optimizer; there when the run is finished."""
        return self.path / "theta.mulo"

    @property
    def best_path(self) -> Path:
        """The optimizer with the best validation score so far; there if the run validates."""
        return self.path / "best.mulo"

    @property
    def initial_path(self) -> Path:
        """The optimizer whose theta the run began with; there if it was given one."""
        return self.path / "initial.mulo"

    @property
    def board_path(self) -> Path:
        """Curves for TensorBoard; there if they were asked for."""
        return self.path / "tensorboard"

    @property
    def log_path(self) -> Path:
        """What the terminal showed."""
        return self.path / "log.txt"

    @property
    def _config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def _lock_path(self) -> Path:
        return self.path / "lock"

    @property
    def _checkpoint_folder(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint_path(self, meta_step: int) -> Path:
        """Where the checkpoint after `meta_step` meta-steps is."""
        return self._checkpoint_folder / f"step-{meta_step:08d}.mulo"

    @classmethod
    def create(
        cls,
        path: Path,
        config: MetaTrainConfig,
        write_first: Callable[["RunDirectory"], None] = lambda _: None,
    ) -> "RunDirectory":
        """Makes a new run. It is one when config.json is there.

        Args:
          path: must not exist.
          config: of the run.
          write_first: writes what the run cannot be resumed without.

        Raises:
          InputError: something is there already, or the folder cannot be made.
        """
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=False)
            run._checkpoint_folder.mkdir()
            write_first(run)
            run._config_path.write_text(config.to_json())
        except FileExistsError as error:
            raise InputError(
                f"{path} exists already and is not overwritten. Go on with it by --resume {path}, or give "
                "another --out."
            ) from error
        except OSError as error:
            raise InputError(f"{path} cannot be made: {error.strerror}. Give another --out.") from error
        return run

    @classmethod
    def open(cls, path: Path) -> tuple["RunDirectory", MetaTrainConfig]:
        """Finds a run that was made before, and its configuration.

        Raises:
          InputError: there is no run, or its configuration cannot be read.
        """
        run = cls(path)
        try:
            text = run._config_path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} is not a run: it has no readable config.json. Start one with --out."
            ) from error
        return run, MetaTrainConfig.from_json(text, str(run._config_path))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for this process; the lock goes with the process, however it ends.

        Raises:
          InputError: another process has it, or nothing can be written there.
        """
        try:
            file = self._lock_path.open("w")
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}.") from error
        with file:
            deadline = time.monotonic() + _LOCK_SECONDS
            while not _try_lock(file, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise InputError(f"{self.path} is in use by another process; wait for it or stop it.")
                time.sleep(0.01)
            yield

    def is_locked(self) -> bool:
        """Whether a process has the run now."""
        try:
            with self._lock_path.open() as file:
                return not _try_lock(file, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    def checkpoint_steps(self) -> list[int]:
        """Meta-steps of the checkpoints that are there, newest first."""
        names = (_CHECKPOINT_NAME.fullmatch(path.name) for path in self._checkpoint_folder.glob("*"))
        return sorted((int(match[1]) for match in names if match), reverse=True)

    def read_newest(self, read: Callable[[Path], Any], warn: Callable[[str], None]) -> tuple[int, Any] | None:
        """The newest checkpoint that can be read, and its meta-step; `None` where there is none.

        Args:
          read: reads one file, raises `CheckpointError`.
          warn: is told of each file that is passed over.

        Raises:
          CheckpointError: there are checkpoints, and none can be read.
        """
        steps, newest = self.checkpoint_steps(), ""
        for meta_step in steps:
            try:
                return meta_step, read(self.checkpoint_path(meta_step))
            except CheckpointError as error:
                warn(f"Passed over: {error}")
                newest = newest or str(error)
        if steps:
            raise CheckpointError(f"No checkpoint of {self.path} can be read. The newest: {newest}")
        return None

    def prune(self, keep: int) -> None:
        """Removes all but the newest `keep` checkpoints, and what interrupted writes have left."""
        for meta_step in self.checkpoint_steps()[keep:]:
            self.checkpoint_path(meta_step).unlink()
        from mulo.checkpoint_file import remove_leftovers  # imports JAX, which looking at a run does not need

        remove_leftovers(self._checkpoint_folder)

    def cut_metrics(self, meta_step: int) -> None:
        """Drops metrics lines from meta-step `meta_step` on, and a torn one: they are computed again."""
        if not self.metrics_path.exists():
            return
        lines = self.metrics_path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines[:meta_step] if line.endswith(b"\n")]
        temporary = self.metrics_path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.metrics_path)


def _try_lock(file: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
