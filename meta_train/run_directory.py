"""A run is a directory: configuration, checkpoints, metrics, log, final theta; and a lock."""

import contextlib
import fcntl
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meta_train.config import MetaTrainConfig
from meta_train.errors import StorageError
from meta_train.metrics import read_lines
from mulo.errors import CheckpointError, InputError
from mulo.safe_files import Folder, make_folder, open_file, read_bytes, remove_leftovers, write_atomically

_CONFIG, _LOCK, _CHECKPOINTS = "config.json", "lock", "checkpoints"
_MAX_CONFIG_BYTES = 2**20
_LOCK_SECONDS = 0.2
"""How long to wait for a lock: `is_locked` of another process has it for a moment."""

_CHECKPOINT_NAME = re.compile(r"step-([0-9]{8})\.mulo")


def how_to_resume(path: os.PathLike[str]) -> str:
    """The command that goes on with a run, as a shell takes it."""
    text = os.fspath(path)
    return f"mulo-meta-train --resume {shlex.quote('./' + text if text.startswith('-') else text)}"


def refuse_existing(path: Path) -> None:
    """Refuses to begin a run where something is.

    Raises:
      InputError: something is there.
    """
    if not os.path.lexists(path):
        return
    if os.path.lexists(path / _CONFIG):
        hint = f"It is a run: go on with it by {how_to_resume(path)}, or give another --out."
    else:
        hint = f"It is not a run, as it has no {_CONFIG}: give another --out, or remove it."
    raise InputError(f"{path} exists already and is not overwritten. {hint}")


class RunDirectory:
    """The files of one run.

    config.json, metrics.jsonl (one line a meta-step), log.txt, checkpoints/step-NNNNNNNN.mulo
    (everything that `--resume` needs), theta.mulo (when finished).

    While a process holds it (`lock`), it is the directory that was locked, though it be renamed and another
    one put in its place; otherwise it is what `path` leads to.
    """

    def __init__(self, path: Path):
        """Looks at nothing yet."""
        self._path = path
        self._root: Folder | None = None  # both are there while it is held
        self._checkpoints: Folder | None = None
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        """Where it is; while it is held, where it is now."""
        return self._path if self._root is None else self._root.path

    @property
    def metrics_path(self) -> os.PathLike[str]:
        """One JSON line for each meta-step."""
        return self._file("metrics.jsonl")

    @property
    def theta_path(self) -> os.PathLike[str]:
        """The trained optimizer; there when the run is finished."""
        return self._file("theta.mulo")

    @property
    def best_path(self) -> os.PathLike[str]:
        """The optimizer with the best validation score so far; there if the run validates."""
        return self._file("best.mulo")

    @property
    def initial_path(self) -> os.PathLike[str]:
        """The optimizer whose theta the run began with; there if it was given one."""
        return self._file("initial.mulo")

    @property
    def board_path(self) -> os.PathLike[str]:
        """Curves for TensorBoard; there if they were asked for."""
        return self._file("tensorboard")

    @property
    def workers_path(self) -> os.PathLike[str]:
        """The logs of workers; there if there were any."""
        return self._file("workers")

    @property
    def log_path(self) -> os.PathLike[str]:
        """What the terminal showed."""
        return self._file("log.txt")

    def checkpoint_path(self, meta_step: int) -> os.PathLike[str]:
        """Where the checkpoint after `meta_step` meta-steps is."""
        return (self._checkpoints or self._path / _CHECKPOINTS) / f"step-{meta_step:08d}.mulo"

    def _file(self, name: str) -> os.PathLike[str]:
        return (self._root or self._path) / name

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
            (path / _CHECKPOINTS).mkdir()
            write_first(run)
            with os.fdopen(open_file(path / _CONFIG, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write(config.to_json().encode())
        except FileExistsError as error:
            refuse_existing(path)
            raise InputError(f"{path} is being made by another process. Give another --out.") from error
        except OSError as error:
            raise InputError(f"{path} cannot be made: {error.strerror}. Give another --out.") from error
        return run

    @classmethod
    def open(cls, path: Path) -> tuple["RunDirectory", MetaTrainConfig]:
        """Finds a run that was made before, and its configuration.

        Raises:
          InputError: there is no run, or its configuration cannot be read.
        """
        where = path / _CONFIG
        try:
            text = read_bytes(where, _MAX_CONFIG_BYTES).decode()
        except FileNotFoundError as error:
            what = f"it has no {_CONFIG}" if os.path.lexists(path) else "nothing is there"
            raise InputError(
                f"{path} is not a run: {what}. A new run is begun with --out and a new name."
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{path} is not a run: its {_CONFIG} cannot be read ({reason}).") from error
        return cls(path), MetaTrainConfig.from_json(text, str(where))

    @contextmanager
    def lock(self) -> Iterator["RunDirectory"]:
        """Holds the run for this process; the lock goes with the process, however it ends.

        Raises:
          InputError: another process has it, or nothing can be written there.
        """
        with contextlib.ExitStack() as stack:
            try:
                self._root = stack.enter_context(Folder(self._path))
                stack.callback(self._let_go)
                self._checkpoints = make_folder(self._root / _CHECKPOINTS)
                self._lock = _take_lock(self._root)
            except OSError as error:
                where = f" ({error.filename})" if error.filename else ""
                raise InputError(f"{self._path} cannot be written: {error.strerror}{where}.") from error
            yield self

    def _let_go(self) -> None:
        self._path, self._root = self.path, None
        if self._checkpoints is not None:
            self._checkpoints.close()
        if self._lock is not None:
            os.close(self._lock)
        self._checkpoints, self._lock = None, None

    def check(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Looks whether what this process holds is there, and is still its own; for before every write.

        `say` is told where it is, if it was moved.

        Raises:
          StorageError: it has been removed, or another process has it.
          OSError: it has no folder for checkpoints any more, and cannot be given one.
        """
        if self._root is None or self._lock is None or self._checkpoints is None:
            return
        if self._root.is_removed():
            raise StorageError(f"{self._path} has been removed while this run was using it; nothing is left.")
        if self._root.path != self._path:
            self._path = self._root.path
            say(f"The directory of this run has been moved to {self._path}, and the run goes on there.")
        if not _is_same(self._lock, _LOCK, self._root):
            try:
                before, self._lock = self._lock, _take_lock(self._root)
            except InputError as error:  # the lock file was removed, and the run was then gone on with
                raise StorageError(str(error)) from error
            os.close(before)
        if not _is_same(self._checkpoints.descriptor, _CHECKPOINTS, self._root):
            before, self._checkpoints = self._checkpoints, make_folder(self._root / _CHECKPOINTS)
            before.close()

    def is_locked(self) -> bool:
        """Whether a process has the run now."""
        try:
            descriptor = open_file(self._path / _LOCK, os.O_RDONLY)
        except OSError:
            return False
        try:
            return not _try_lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def checkpoint_steps(self) -> list[int]:
        """Meta-steps of the checkpoints that are there, by their names, newest first."""
        try:
            folder = self._path / _CHECKPOINTS
            names = os.listdir(folder) if self._checkpoints is None else self._checkpoints.names()  # noqa: PTH208
        except OSError:
            return []
        matches = map(_CHECKPOINT_NAME.fullmatch, names)
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def read_newest(
        self, read: Callable[[os.PathLike[str], int], Any], warn: Callable[[str], None]
    ) -> tuple[int, Any] | None:
        """The newest checkpoint that can be read, and its meta-step; `None` where there is none.

        Args:
          read: reads one file, which is to be of this meta-step; raises `CheckpointError`.
          warn: is told of each file that is passed over.

        Raises:
          CheckpointError: there are checkpoints, and none can be read.
        """
        steps, newest = self.checkpoint_steps(), ""
        for meta_step in steps:
            try:
                return meta_step, read(self.checkpoint_path(meta_step), meta_step)
            except CheckpointError as error:
                warn(f"Passed over: {error}")
                newest = newest or str(error)
        if steps:
            raise CheckpointError(f"No checkpoint of {self.path} can be read. The newest: {newest}")
        return None

    def prune(self, keep: int, newest: int) -> None:
        """Removes checkpoints before the newest `keep`, and what interrupted writes have left.

        Those after `newest`, the one that was just written, are not of this run's past: they stay, and do
        not count.
        """
        if self._checkpoints is None:
            raise RuntimeError(f"{self._path} is not held: nothing is removed there.")
        for meta_step in [step for step in self.checkpoint_steps() if step <= newest][keep:]:
            self._checkpoints.remove(f"step-{meta_step:08d}.mulo")
        remove_leftovers(self._checkpoints)

    def cut_metrics(self, meta_step: int, warn: Callable[[str], None] = lambda _: None) -> None:
        """Drops metrics lines from meta-step `meta_step` on: they are computed again; and what is no line.

        `warn` is told of lines that cannot be read; not of a last one that is torn.
        """
        kept, num_bad = [], 0
        for line, record in read_lines(self.metrics_path):
            if record is None:
                num_bad += 1
            elif record["meta_step"] < meta_step:
                kept.append(line)
        if num_bad:
            warn(f"Passed over: {num_bad} lines of {self.metrics_path} that are no records of meta-steps.")
        if os.path.lexists(self.metrics_path):
            write_atomically(self.metrics_path, kept)


def _is_same(descriptor: int, name: str, folder: Folder) -> bool:
    """Whether a name in a folder is still that of what is open."""
    try:
        there = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def _take_lock(root: Folder) -> int:
    """The descriptor of the lock file, locked for this process."""
    descriptor = open_file(root / _LOCK, os.O_RDWR | os.O_CREAT)
    deadline = time.monotonic() + _LOCK_SECONDS
    while not _try_lock(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            os.close(descriptor)
            raise InputError(f"{root.path} is in use by another process; wait for it or stop it.")
        time.sleep(0.01)
    return descriptor


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
