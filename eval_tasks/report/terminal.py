"""The tables of a report on a terminal, or as plain text."""

from collections.abc import Sequence
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from eval_tasks.comparison import Comparison
from eval_tasks.measures import Part
from eval_tasks.report.tables import Table, aggregate_table, comparison_table, winner_table

_WITHOUT_TERMINAL = {"±": "+-", "×": "x", "–": "-", "…": "..."}


def print_report(parts: Sequence[Part], notes: Sequence[str], file: IO[str] | None = None) -> None:
    """Prints the aggregates and the winners of every part, and what is missing.

    Args:
      parts: what was measured.
      notes: on gaps, one line each.
      file: where to; standard output by default. What is no terminal gets plain text, nothing cut.
    """
    console = make_console(file)
    for part in parts:
        for table in (aggregate_table(part), winner_table(part)):
            print_table(console, table)
    _print_notes(console, notes)


def print_comparison(
    found: Comparison, tolerance: float, gaps: Sequence[str], file: IO[str] | None = None
) -> None:
    """Prints the differences of B to A, where more or fewer runs diverge, and what is missing."""
    console = make_console(file)
    print_table(console, comparison_table(found, tolerance))
    for difference in found.differences:
        for words, points in (
            ("more runs diverge", difference.newly_diverged),
            ("fewer runs diverge", difference.no_longer_diverged),
        ):
            for point in points:
                console.print(_text(console, f"{difference.label}: {words} in B for {point}."))
    _print_notes(console, [*found.notes, *gaps])


def _print_notes(console: Console, notes: Sequence[str]) -> None:
    if notes:
        console.print(Text("Missing, left out or mixed:", style="bold"))
    for note in notes:
        console.print(_text(console, f"  {note}"))


def make_console(file: IO[str] | None = None) -> Console:
    """A console that cuts nothing where it is no terminal."""
    console = Console(file=file, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 400
    return console


def print_table(console: Console, table: Table) -> None:
    """Prints one table, its title before and what it says behind it."""
    shown = RichTable(
        title=_text(console, table.title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2,
    )
    for place, column in enumerate(table.columns):
        shown.add_column(_text(console, column), justify="left" if place in table.text_columns else "right")
    for row in table.rows:
        bold = "bold green"
        shown.add_row(*(_text(console, value.text, bold if value.is_best else "") for value in row))
    console.print(shown)
    console.print(_text(console, table.about, "dim"))
    console.print()


def _text(console: Console, text: str, style: str = "") -> Text:
    if not console.is_terminal:
        for character, plain in _WITHOUT_TERMINAL.items():
            text = text.replace(character, plain)
    return Text(text, style=style)
