"""Metrics as JSON lines: the record of a run, and how it is read; and for TensorBoard, where asked for."""

import contextlib
import json
import math
import os
import socket
import struct
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from mulo.errors import InputError
from mulo.extras import how_to_install
from mulo.safe_files import make_folder, open_file, open_to_append

MAX_LINE_BYTES = 2**20
"""A longer line is no record."""

Record = dict[str, Any]


def parse_record(line: bytes) -> Record | None:
    """One line as a record: `meta_step`, and numbers, nulls and dicts of them; `None` where it is none.

    >>> parse_record(b'{"meta_step": 3, "meta_loss": null, "task_losses": {"a": 1.5}}')
    {'meta_step': 3, 'meta_loss': None, 'task_losses': {'a': 1.5}}
    >>> parse_record(b'{"meta_step": 3, "meta_loss": "low"}')
    """
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # not UTF-8 is a ValueError too
        return None
    if not isinstance(record, dict):
        return None
    meta_step = record.get("meta_step")
    if type(meta_step) is not int or not 0 <= meta_step < 2**32:
        return None
    for value in record.values():
        numbers = value.values() if isinstance(value, dict) else [value]
        if not all(map(_is_number, numbers)):
            return None
    return record


def _is_number(value: Any) -> bool:
    """Or null, or true or false; and such that it can be added up."""
    if value is None:
        return True
    return isinstance(value, int | float) and abs(value) < 1e100  # of NaN, false


def number_of(record: Record, name: str) -> float | None:
    """A number of a record; `None` where it is not there."""
    value = record.get(name)
    return None if isinstance(value, dict) else value


def table_of(record: Record, name: str) -> dict[str, Any]:
    """A dict of numbers of a record; empty where it is not there."""
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[bytes, Record | None]]:
    """Every whole line and its record; `None` for one that is none. A torn last line is left out.

    Meta-steps go up: a line of one that was there before is none either. Without a file there are no lines.

    Raises:
      OSError: there is something that cannot be read.
    """
    try:
        descriptor = open_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "rb") as file:
        newest = -1
        while line := file.readline(MAX_LINE_BYTES + 1):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES + 1)
            if not rest:
                return
            record = parse_record(line) if line.endswith(b"\n") else None
            if record is not None and record["meta_step"] <= newest:
                record = None
            newest = newest if record is None else record["meta_step"]
            yield line, record


class MetricsWriter:
    """Appends one record for each meta-step, flushed at once."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        tensorboard: str | os.PathLike[str] | None = None,
        first_meta_step: int = 0,
    ):
        """Opens the files; TensorBoard forgets what an earlier process wrote from `first_meta_step` on.

        Raises:
          InputError: TensorBoard is asked for and tensorboardX is not installed.
          OSError: a file cannot be opened, or is a symbolic link.
        """
        self._board = _Board(tensorboard, first_meta_step) if tensorboard else None
        self._file = open_to_append(path)

    def write(self, record: Record) -> None:
        """Appends a record; it has `meta_step`, numbers, and dicts of numbers by task."""
        self._file.write(json.dumps(_without_nan(record), allow_nan=False) + "\n")
        self._file.flush()
        if self._board is not None:
            self._board.write(record)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        with contextlib.suppress(OSError):  # of a disk that was full before, and is told of
            self._file.close()
        if self._board is not None:
            self._board.close()


def _without_nan(value: Any) -> Any:
    """Numbers that are not finite as null: JSON has none."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Board:
    """An event file. Not by tensorboardX's writers: a thread that ends unseen on a full disk, and paths."""

    def __init__(self, folder: str | os.PathLike[str], first_meta_step: int):
        try:
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.proto.summary_pb2 import Summary
            from tensorboardX.record_writer import masked_crc32c
        except ImportError as error:
            raise InputError(f"--tensorboard needs tensorboardX: {how_to_install('tensorboard')}.") from error
        self._event, self._summary, self._checksum = Event, Summary, masked_crc32c
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}"
        with make_folder(folder) as opened:
            descriptor = open_file(opened / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._file = os.fdopen(descriptor, "wb")
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._add(first_meta_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, record: Record) -> None:
        values = []
        for name, value in record.items():
            numbers = value if isinstance(value, dict) else {"": value}
            for key, number in numbers.items():
                tag = f"{name}/{key}" if key else name
                values.append(self._summary.Value(tag=tag, simple_value=float(number)))
        self._add(record["meta_step"], summary=self._summary(value=values))

    def _add(self, meta_step: int, **content: Any) -> None:
        self._append(self._event(wall_time=time.time(), step=meta_step, **content))
        self._file.flush()

    def _append(self, event: Any) -> None:
        """As TensorFlow writes records: length, its checksum, content, its checksum."""
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        for piece in (length, content):
            self._file.write(piece + struct.pack("<I", self._checksum(piece)))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
