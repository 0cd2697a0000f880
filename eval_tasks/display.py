"""Progress of an evaluation: a bar on a terminal, plain lines otherwise."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_SECONDS_BETWEEN_LINES = 5.0


class Display:
    """Shows how many runs are done and what is being done.

    Args:
      num_runs: of the whole evaluation.
      console: where to; standard output by default.
    """

    def __init__(self, num_runs: int, console: Console | None = None):
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._num_runs, self._done = num_runs, 0
        self._shown = time.monotonic()
        self._progress = Progress(
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._bar = self._progress.add_task("", total=num_runs)

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self._progress.stop()

    def say(self, message: str) -> None:
        """One line."""
        self._console.print(message, markup=False)

    def advance(self, num_runs: int, what: str) -> None:
        """Counts finished runs; `what` is being done now."""
        self._done += num_runs
        self._progress.update(self._bar, completed=self._done, description=what)
        now = time.monotonic()
        if self._console.is_terminal or now - self._shown < _SECONDS_BETWEEN_LINES:
            return
        self._shown = now
        self.say(f"{self._done} of {self._num_runs} runs: {what}")
