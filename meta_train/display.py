"""What the terminal shows: a progress bar on a terminal, plain lines otherwise; and the log file."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 5.0


class _Console(Console):
    """A console whose reader may leave: what was started by `... | head` goes on, told by its log alone."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Display:
    """Shows the progress of one run and keeps what was said in its log."""

    def __init__(
        self, log_path: Path, num_meta_steps: int, first_meta_step: int, console: Console | None = None
    ):
        """Opens the log; nothing is shown before the first message."""
        self._console = console or _Console(highlight=False, soft_wrap=True)
        self._log = log_path.open("a")
        self._num_meta_steps = num_meta_steps
        self._shown = -float("inf")
        self._timed_from: tuple[int, float] | None = None  # the first meta-step compiles, and tells nothing
        self._progress = Progress(
            TextColumn("meta-step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TextColumn("left"),
            TimeRemainingColumn(),
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
        self._log.close()

    def say(self, message: str) -> None:
        """One line, on the terminal and in the log."""
        self._console.print(message, markup=False)
        self._record(message)

    def step(self, meta_step: int, record: Mapping[str, Any]) -> None:
        """Progress after `meta_step` meta-steps, the last of which is `record`."""
        status = f"meta-loss {record['meta_loss']:.4f}  {record['inner_steps_per_second']:,.0f} inner steps/s"
        if record["clipped_fraction"] > 0:
            status += f"  {record['clipped_fraction']:.1%} clipped"
        self._progress.update(self._bar, completed=meta_step, description=status)
        now = time.monotonic()
        left = ""
        if self._timed_from is None:
            self._timed_from = meta_step, now
        else:
            first, began = self._timed_from
            seconds = (now - began) / (meta_step - first) * (self._num_meta_steps - meta_step)
            left = f"  {seconds:.0f} s left"
        if now - self._shown < _SECONDS_BETWEEN_LINES and meta_step != self._num_meta_steps:
            return
        self._shown = now
        line = f"meta-step {meta_step}/{self._num_meta_steps}  {status}{left}"
        self._record(line)
        if not self._console.is_terminal:
            self._console.print(line, markup=False)

    def _record(self, line: str) -> None:
        self._log.write(time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime()) + line + "\n")
        self._log.flush()
