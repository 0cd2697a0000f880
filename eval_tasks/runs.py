"""A run's identity, and the store of finished runs: JSON lines, one a run."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from eval_tasks.command_line import check_folder
from eval_tasks.result_lines import Record, parse_line
from eval_tasks.results import FILE_NAME
from mulo.errors import InputError
from mulo.plain_json import parse_json
from mulo.printing import shown
from mulo.safe_files import open_file

_PLACE = ("suite", "size", "series", "value", "optimizer", "purpose")


class PlaceError(InputError):
    """The results file is not where it was any more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One inner run: all that decides its result."""

    optimizer_config: Mapping[str, Any]  # JSON values: what it is
    task: str
    width: int
    depth: int
    parametrization: str
    learning_rate: float | None  # `None`: has none
    purpose: str  # "tune" or "evaluate"; part of the random key, so that the seeds of the two differ
    seed: int
    num_steps: int
    batch_size: int
    data_digest: str
    jax_version: str
    software: Mapping[str, str]  # versions of the packages that compute it, and a digest of our code
    platform: str  # "cpu", "gpu" or "tpu"
    runs_per_call: int  # that are computed together: it changes their last bits

    @property
    def key(self) -> str:
        """SHA-256, hexadecimal, of all fields."""
        fields = json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)
        return hashlib.sha256(fields.encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """What a run is part of; the same run may be part of several comparisons."""

    suite: str
    size: str
    series: str
    axis: str
    value: int
    base_value: int
    num_seeds: int  # that there should be
    optimizer: str  # what it is called in tables
    tuned_at: str  # as in `Contender`
    provenance: Mapping[str, Any] | None  # of a learned optimizer
    suite_changes: str  # "" for the suite as it is defined


class ResultStore:
    """The finished runs of one folder. Lines are only ever added, by one process at a time: close it.

    The file is held open: what is written goes into the file that was read and locked, also where its folder
    has been renamed since, and another one stands in its place.

    Args:
      folder: where `results.jsonl` is or will be; made with the first record.
      notify: told, in a line, when an unfinished last line is dropped.

    Raises:
      InputError: the folder or the file cannot be used.
    """

    def __init__(self, folder: Path, notify: Callable[[str], None]):
        self.path = folder / FILE_NAME
        self._records: dict[str, Record] = {}
        self._places: dict[tuple[str, ...], Record] = {}
        self._newest: dict[tuple[str, ...], str] = {}  # key of the last line of a seed at a place
        self._usable_bytes: int | None = None  # where a torn last line begins
        self._ends_open = False  # the last line is whole, but for its end
        self._file: IO[bytes] | None = None
        check_folder(folder)
        try:
            if os.path.lexists(self.path):
                self._open()
                self._read(self._file.read(), notify)
        except OSError as error:
            self.close()
            raise InputError(f"{shown(self.path)} cannot be read: {error.strerror}.") from error
        except InputError:
            self.close()
            raise

    def _read(self, content: bytes, notify: Callable[[str], None]) -> None:
        *lines, torn = content.split(b"\n")
        if torn and _is_whole(torn):
            self._ends_open = True
            lines, torn = [*lines, torn], b""
        where = shown(self.path)
        if torn:
            # A file of something else is not touched.
            if torn[:2] != b'{"'[: len(torn)]:
                raise InputError(f"{where} is not a results file of mulo-eval; choose another --out.")
            self._usable_bytes = len(content) - len(torn)
            notify(f"{where}: the last line is unfinished and is dropped; its run is done again.")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                parse_line(line)
            except InputError as error:
                raise InputError(
                    f"{where}, line {number}, is not a result of mulo-eval: {error}. Remove the line, or "
                    "choose another --out."
                ) from error
            self._keep(json.loads(line))

    def _open(self) -> None:
        """Opens the file and keeps others from writing; a disk without locks is written anyway."""
        if self._file is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.fdopen(open_file(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+b")
        self._file.seek(0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{shown(self.path)} is being written by another mulo-eval. Wait for it, or choose another "
                "--out."
            ) from error
        except OSError:
            return

    def check_place(self) -> None:
        """Refuses to go on where the file is not the one at its path any more.

        Raises:
          InputError: it has been moved, replaced or removed.
        """
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._file.fileno()), os.lstat(self.path)):
                return
        raise PlaceError(
            f"{shown(self.path)} is not the file any more that this evaluation writes: it was moved, "
            "replaced or removed. Finished runs are in the moved one; give its folder as --out to go on."
        )

    def __enter__(self) -> "ResultStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self.close()

    def close(self) -> None:
        """Lets others write."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _keep(self, record: Record) -> None:
        self._records[record["key"]] = record
        self._places[_place_of(record)] = record
        self._newest[_seed_of(record)] = record["key"]

    def get(self, key: str) -> Record | None:
        """The record of a finished run, of any place, or `None`."""
        return self._records.get(key)

    def has(self, record: Record) -> bool:
        """Whether there is a line of this run at this place, and no later one of another run in its stead.

        Of an optimizer that was changed and changed back, a report takes what the last line says.
        """
        is_newest = record["purpose"] == "tune" or self._newest.get(_seed_of(record)) == record["key"]
        return is_newest and _place_of(record) in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._places.values())

    def append(self, record: Record) -> None:
        """Adds a finished run; it is on disk when this returns.

        Raises:
          InputError: the file cannot be written.
        """
        line = json.dumps(record, allow_nan=False) + "\n"
        try:
            self._open()
            descriptor = self._file.fileno()
            if self._usable_bytes is not None:
                os.ftruncate(descriptor, self._usable_bytes)
                self._usable_bytes = None
            if self._ends_open:
                line, self._ends_open = "\n" + line, False
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(descriptor)
        except OSError as error:
            raise InputError(f"{shown(self.path)} cannot be written: {error.strerror}.") from error
        self._keep(json.loads(line))
        self.check_place()


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _place_of(record: Record) -> tuple[str, ...]:
    return (record["key"], record.get("suite_changes", ""), *(str(record[field]) for field in _PLACE))


def _seed_of(record: Record) -> tuple[str, ...]:
    return (str(record["seed"]), *_place_of(record)[1:])
