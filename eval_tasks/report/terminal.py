"""The tables of a report on a terminal, or as plain text."""

from collections.abc import Sequence
from typing import IO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from eval_tasks.comparison import Comparison
from eval_tasks.measures import Part
from eval_tasks.report.tables import Table, aggregate_table, comparison_table, series_tables, winner_table

_WITHOUT_TERMINAL = {"±": "+-", "×": "x", "–": "-", "…": "..."}


def print_report(parts: Sequence[Part], notes: Sequence[str], file: IO[str] | None = None) -> None:
    """Prints the losses, the winners and the aggregates of every part, and what is missing.

    Args:
      parts: what was measured.
      notes: on gaps, one line each.
      file: where to; standard output by default. What is no terminal gets plain text, nothing cut.
    """
    console = make_console(file)
    for part in parts:
        console.print(_text(console, part.title, "bold"), "", sep="\n")
        for table in (*series_tables(part), winner_table(part), aggregate_table(part)):
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
    """Prints one table, its title before and what it says behind it; one that is too wide in pieces."""
    console.print(_text(console, table.title, "bold"))
    for places in _pieces(table, console.width):
        shown = RichTable(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2)
        for place in places:
            side = "left" if place in table.text_columns else "right"
            shown.add_column(_text(console, table.columns[place]), justify=side, overflow="fold")
        for row in table.rows:
            values = [row[place] for place in places]
            shown.add_row(*(_text(console, v.text, "bold green" if v.is_best else "") for v in values))
        console.print(shown)
    if table.about:
        console.print(_text(console, table.about, "dim"))
    console.print()


def _pieces(table: Table, width: int) -> list[list[int]]:
    """The columns that fit beside each other, by their places; the first column is in every piece."""
    texts = [[name, *(row[place].text for row in table.rows)] for place, name in enumerate(table.columns)]
    widths = [max(map(cell_len, column)) + 3 for column in texts]  # with the space around them
    pieces = [[0]]
    for place in range(1, len(widths)):
        is_full = sum(widths[p] for p in pieces[-1]) + widths[place] > width
        if is_full and len(pieces[-1]) > 1:
            pieces.append([0])
        pieces[-1].append(place)
    return pieces


def _text(console: Console, text: str, style: str = "") -> Text:
    if not console.is_terminal:
        for character, plain in _WITHOUT_TERMINAL.items():
            text = text.replace(character, plain)
    return Text(text, style=style)
