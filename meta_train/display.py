"""What the terminal shows: a progress bar on a terminal, plain lines otherwise; and the log file."""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from mulo.printing import printable
from mulo.safe_files import open_to_append

_SECONDS_BETWEEN_LINES = 5.0
TIMED_META_STEPS = 3
"""So many meta-steps after the first, which compiles, before anything is said of the time that is left."""


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(3725)
    '1 h 02 min'
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


class _Console(Console):
    """A console whose reader may leave: what was started by `... | head` goes on, told by its log alone."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Display:
    """Shows the progress of one run and keeps what was said in its log."""

    def __init__(
        self,
        log_path: str | os.PathLike[str],
        num_meta_steps: int,
        first_meta_step: int,
        console: Console | None = None,
    ):
        """Opens the log; nothing is shown before the first message."""
        self._console = console or _Console(highlight=False, soft_wrap=True)
        self._log = open_to_append(log_path)
        self._num_meta_steps = num_meta_steps
        self._shown = -float("inf")
        self._timed_from: tuple[int, float] | None = None  # the first meta-step compiles, and tells nothing
        self._progress = Progress(
            TextColumn("meta-step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bar = self._progress.add_task("compiling", total=num_meta_steps, completed=first_meta_step)

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self._progress.stop()
        with suppress(OSError):  # of a disk that was full before, and is told of
            self._log.close()

    def say(self, message: str) -> None:
        """One line, on the terminal and in the log."""
        line = printable(message)
        self._print(line)
        self._record(line)

    def step(self, meta_step: int, record: Mapping[str, Any]) -> None:
        """Progress after `meta_step` meta-steps, the last of which is `record`."""
        status = f"meta-loss {record['meta_loss']:.4f}  {record['inner_steps_per_second']:,.0f} inner steps/s"
        if record["clipped_fraction"] > 0:
            status += f"  {record['clipped_fraction']:.1%} clipped"
        now = time.monotonic()
        if self._timed_from is None:
            self._timed_from = meta_step, now
        first, began = self._timed_from
        if meta_step - first >= TIMED_META_STEPS:
            seconds = (now - began) / (meta_step - first) * (self._num_meta_steps - meta_step)
            status += f"  {duration(seconds)} left"
        self._progress.update(self._bar, completed=meta_step, description=status)
        if now - self._shown < _SECONDS_BETWEEN_LINES and meta_step != self._num_meta_steps:
            return
        self._shown = now
        line = f"meta-step {meta_step}/{self._num_meta_steps}  {status}"
        self._record(line)
        if not self._console.is_terminal:
            self._print(line)

    def _print(self, line: str) -> None:
        """On the terminal, which may be gone: a run under `nohup` outlives it, and the log tells all."""
        with suppress(OSError):
            self._console.print(line, markup=False)

    def _record(self, line: str) -> None:
        self._log.write(time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime()) + line + "\n")
        self._log.flush()
