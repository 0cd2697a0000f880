"""Metrics as JSON lines: the record of a run; and for TensorBoard, where asked for."""

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from mulo.errors import InputError


class MetricsWriter:
    """Appends one record for each meta-step, flushed at once."""

    def __init__(self, path: Path, tensorboard: Path | None = None, first_meta_step: int = 0):
        """Opens the files; TensorBoard forgets what an earlier process wrote from `first_meta_step` on.

        Raises:
          InputError: TensorBoard is asked for and tensorboardX is not installed.
        """
        self._board = _Board(tensorboard, first_meta_step) if tensorboard else None
        self._file = path.open("a")

    def write(self, record: dict[str, Any]) -> None:
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
        self._file.close()
        if self._board is not None:
            self._board.close()


def _without_nan(value: Any) -> Any:
    """Numbers that are not finite as null: JSON has none."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Board:
    """An event file. Not by tensorboardX's `SummaryWriter`: its thread ends unseen on a full disk."""

    def __init__(self, folder: Path, first_meta_step: int):
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.proto.summary_pb2 import Summary
        except ImportError as error:
            raise InputError("--tensorboard needs tensorboardX: pip install 'mulo[tensorboard]'.") from error
        self._event, self._summary = Event, Summary
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._add(first_meta_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, record: dict[str, Any]) -> None:
        values = []
        for name, value in record.items():
            numbers = value if isinstance(value, dict) else {"": value}
            for key, number in numbers.items():
                tag = f"{name}/{key}" if key else name
                values.append(self._summary.Value(tag=tag, simple_value=float(number)))
        self._add(record["meta_step"], summary=self._summary(value=values))

    def _add(self, meta_step: int, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=meta_step, **content))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
