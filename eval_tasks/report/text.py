"""The tables of an evaluation, for a terminal or as plain text."""

from collections.abc import Callable
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table

from eval_tasks.aggregates import estimate
from eval_tasks.evaluation import Cell, Results
from eval_tasks.suites import Series, Suite


def print_tables(results: Results, suite: Suite, file: IO[str] | None = None) -> None:
    """Prints final training loss, validation loss and the learning rates of every series.

    Args:
      results: of every optimizer at every value of every series.
      suite: what was run.
      file: where to; standard output by default. What is no terminal gets plain ASCII text.
    """
    console = Console(file=file, highlight=False, soft_wrap=True)
    plain = not console.is_terminal
    if plain:
        console.width = 200  # a file has no width; by default 80 columns are assumed and cells cut
    seeds = f"{suite.num_seeds} seed{'s' if suite.num_seeds > 1 else ''}"
    tables = (
        (
            f"Final training loss: mean of the last 1 % of the steps, over {seeds}",
            lambda cell: _loss_text(cell, "final_loss", plain),
        ),
        (
            f"Validation loss (accuracy) at the end, over {seeds}",
            lambda cell: _validation_text(cell, plain),
        ),
        ("Learning rate", _rate_text),
    )
    for series in suite.series:
        console.print(
            f"Suite {suite.name}, {suite.size}: {series.name}, {series.num_steps} steps, batch size "
            f"{series.batch_size}. {'+-' if plain else '±'} is one standard error."
        )
        for title, text_of in tables:
            console.print()
            console.print(_table(title, results, series, text_of, plain))
        console.print()
    for note in _notes(results):
        console.print(note, markup=False)


def _table(
    title: str, results: Results, series: Series, text_of: Callable[[Cell], str], plain: bool
) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.ASCII2 if plain else box.SIMPLE_HEAD
    )
    table.add_column("optimizer", no_wrap=True)
    axis = series.axis.removeprefix("num_")
    for value in series.values:
        table.add_column(f"{axis} {value}", justify="right")
    best = {value: _best_label(results, (series.name, value)) for value in series.values}
    for label, cells in results.items():
        texts = []
        for value in series.values:
            text = text_of(cells[series.name, value])
            bold = best[value] == label and title.startswith("Final")
            texts.append(f"[bold green]{text}[/]" if bold and not plain else text)
        table.add_row(label.replace("[", r"\["), *texts)
    return table


def _best_label(results: Results, place: tuple[str, int]) -> str | None:
    means = {
        label: estimate([r["final_loss"] for r in cells[place].records]).mean
        for label, cells in results.items()
    }
    finite = {label: mean for label, mean in means.items() if mean is not None}
    return min(finite, key=finite.__getitem__, default=None)


def _loss_text(cell: Cell, field: str, plain: bool) -> str:
    result = estimate([record[field] for record in cell.records])
    if result.mean is None:
        return (
            "diverged"
            if result.num_diverged == result.num_runs
            else (f"diverged ({result.num_diverged} of {result.num_runs})")
        )
    if result.standard_error is None:
        return _number_text(result.mean)
    return f"{_number_text(result.mean)} {'+-' if plain else '±'} {_number_text(result.standard_error)}"


def _number_text(value: float) -> str:
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def _validation_text(cell: Cell, plain: bool) -> str:
    text = _loss_text(cell, "validation_loss", plain)
    accuracy = estimate([record["validation_accuracy"] for record in cell.records]).mean
    return text if accuracy is None else f"{text} ({100 * accuracy:.1f} %)"


def _rate_text(cell: Cell) -> str:
    if cell.learning_rate is None:
        return "none"
    return f"{cell.learning_rate:g}{'*' if cell.at_edge else ''}"


_WHERE = {"each value": "each of them", "base value": "the base, once"}


def _notes(results: Results) -> list[str]:
    cells = {label: list(row.values()) for label, row in results.items()}
    notes = []
    for where in ("each value", "base value"):
        labels = [label for label, row in cells.items() if row[0].tuned_at == where]
        if labels:
            notes.append(f"{', '.join(labels)}: learning rate tuned at {_WHERE[where]}, on other seeds.")
    if any(cell.at_edge for row in cells.values() for cell in row):
        notes.append("* at the edge of the grid: the best learning rate may lie beyond it.")
    return notes
