"""Progress of an evaluation: a bar on a terminal, plain lines otherwise."""

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mulo.printing import printable

if TYPE_CHECKING:
    from eval_tasks.costs import Cost
    from eval_tasks.evaluation import Advance

_SECONDS_BETWEEN_LINES = 5.0


class Display:
    """Shows how many runs are done, what is being done, and about how long the rest will take.

    Args:
      total: of the whole evaluation.
      console: where to; standard output by default.
    """

    def __init__(self, total: "Cost", console: Console | None = None):
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._total, self._done = total, 0
        self._made = self._found = 0.0  # estimated seconds of the runs made and found
        self._began = self._shown = time.monotonic()
        self._first = True  # nothing has been said of compilation
        self._progress = Progress(
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._bar = self._progress.add_task("", total=total.runs)

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

    def compiling(self, message: str) -> None:
        """Says that something is compiled: nothing else is to be seen of it."""
        self._progress.update(self._bar, description=message)
        now = time.monotonic()
        if not self._console.is_terminal and (self._first or now - self._shown >= _SECONDS_BETWEEN_LINES):
            self._shown, self._first = now, False
            self.say(message)

    def advance(self, advance: "Advance") -> None:
        """Counts finished runs."""
        self._done += advance.runs
        if advance.found:
            self._found += advance.seconds
        else:
            self._made += advance.seconds
        words = f"{printable(advance.words)}{self._time_left()}"
        self._progress.update(self._bar, completed=self._done, description=words)
        now = time.monotonic()
        if self._console.is_terminal or now - self._shown < _SECONDS_BETWEEN_LINES:
            return
        self._shown = now
        self.say(f"{self._done} of {self._total.runs} runs: {words}")

    def _time_left(self) -> str:
        """In words; estimated from what has been made so far, compilation included."""
        rest = self._total.cpu_seconds - self._made - self._found
        if self._made < 0.05 * self._total.cpu_seconds or rest <= 0:  # too early to tell, or at the end
            return ""
        seconds = rest * (time.monotonic() - self._began) / self._made
        return f"; about {seconds:.0f} s left" if seconds < 90 else f"; about {seconds / 60:.0f} min left"
