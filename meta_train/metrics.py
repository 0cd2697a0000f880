"""Metrics as JSON lines: the record of a run; and for TensorBoard, where asked for."""

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from mulo.errors import InputError


class MetricsWriter:
    """Appends one record for each meta-step, flushed at once."""

    def __init__(self, path: Path, tensorboard: Path | None = None):
        """Opens the files.

        Raises:
          InputError: TensorBoard is asked for and tensorboardX is not installed.
        """
        self._board = _open_board(tensorboard) if tensorboard else None
        self._file = path.open("a")

    def write(self, record: dict[str, Any]) -> None:
        """Appends a record; it has `meta_step`, numbers, and dicts of numbers by task."""
        self._file.write(json.dumps(_without_nan(record), allow_nan=False) + "\n")
        self._file.flush()
        if self._board is None:
            return
        for name, value in record.items():
            items = (
                {f"{name}/{key}": x for key, x in value.items()} if isinstance(value, dict) else {name: value}
            )
            for tag, number in items.items():
                self._board.add_scalar(tag, number, record["meta_step"])

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


def _open_board(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise InputError("--tensorboard needs tensorboardX: pip install 'mulo[tensorboard]'.") from error
    return SummaryWriter(str(folder))
