"""The tables of a report as data; the page, the CSV files and the terminal show the same ones."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eval_tasks.aggregates import Estimate, Interval
from eval_tasks.comparison import Comparison, Difference
from eval_tasks.measures import Cell, Part
from eval_tasks.results import Point


class Value(NamedTuple):
    """One cell of a table."""

    text: str
    number: float | None = None  # what it is sorted by; `None`: by the text, or nothing is there
    is_best: bool = False


class Table(NamedTuple):
    """A table: what it is called, what it says, its columns, and its rows."""

    name: str
    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    text_columns: Sequence[int] = (0,)  # their places; the others are numbers


_NOTHING = Value("–")


def series_tables(part: Part) -> list[Table]:
    """What each optimizer reached in every series: final training loss, validation loss, learning rate.

    A series with several values has a table for each of the three, with a column for each value; one with a
    single value has one table, with a column for each of the three.
    """
    tables: list[Table] = []
    for (_, axis), points in part.lines.items():
        if axis == "task" or len(points) == 1:
            tables += [_point_table(part, point) for point in points]
        else:
            tables += _value_tables(part, points)
    return tables


def _value_tables(part: Part, points: Sequence[Point]) -> list[Table]:
    places = [point.place for point in points]
    all_cells = _by_label(part, points)
    tables = []
    for words, about, value_of in (
        ("final training loss", _settings_text(all_cells), _final_loss),
        ("validation loss (accuracy)", "After the last step.", _validation),
    ):
        rows = [[Value(label), *map(value_of, cells)] for label, cells in all_cells.items()]
        rows = _mark_best(rows, dict.fromkeys(range(1, len(places) + 1), min))
        title = f"{points[0].series_name}, {words}"
        tables.append(Table("series", title, about, ["optimizer", *places], rows))
    rows = [[Value(label), _tuned(cells), *map(_rate, cells)] for label, cells in all_cells.items()]
    title, columns = f"{points[0].series_name}, learning rate", ["optimizer", "tuned at", *places]
    tables.append(Table("series", title, _rates_text(all_cells), columns, rows, text_columns=(0, 1)))
    return tables


def _point_table(part: Part, point: Point) -> Table:
    columns = ["optimizer", "final training loss", "validation loss (accuracy)", "learning rate", "tuned at"]
    all_cells = _by_label(part, [point])
    rows = [
        [Value(label), _final_loss(cell), _validation(cell), _rate(cell), _tuned([cell])]
        for label, (cell,) in all_cells.items()
    ]
    about = f"{_settings_text(all_cells)} {_rates_text(all_cells)}".strip()
    return Table(
        "series", str(point), about, columns, _mark_best(rows, {1: min, 2: min}), text_columns=(0, 4)
    )


_Cells = Mapping[str, Sequence[Cell | None]]


def _by_label(part: Part, points: Sequence[Point]) -> _Cells:
    """The cells of every optimizer at some points; of one that has none there, nothing."""
    found = {label: [part.cells[point].get(label) for point in points] for label in part.labels}
    return {label: cells for label, cells in found.items() if any(cells)}


def _settings_text(all_cells: _Cells) -> str:
    """How what stands in the tables was run."""
    cells = [cell for row in all_cells.values() for cell in row if cell]
    runs = [run for cell in cells for run in cell.records]
    steps = {run["num_steps"] for run in runs}
    sizes = {run["batch_size"] for run in runs} - {None}
    seeds = {len(cell.records) for cell in cells}
    return (
        f"Mean of the last 1 % of {_range(steps)} steps, over {_range(seeds)} seed{'s' * (max(seeds) > 1)}"
        + (f", batch size {_range(sizes)}" if sizes else "")
        + (". ± is one standard error." if max(seeds) > 1 else ".")
    )


def _range(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _rates_text(all_cells: _Cells) -> str:
    cells = [cell for row in all_cells.values() for cell in row if cell]
    texts = []
    if any(cell.records[0]["tuned_at"] == "base value" for cell in cells):
        texts.append("Base value: tuned there once, and transferred.")
    if any(cell.records[0]["tuned_at"] == "each value" for cell in cells):
        texts.append("Each value: tuned anew at each, an oracle.")
    if any(cell.at_edge for cell in cells):
        texts.append("* at the edge of the grid: the best learning rate may lie beyond it.")
    return " ".join(texts)


def _final_loss(cell: Cell | None) -> Value:
    return _estimate(cell and cell.final_loss)


def _validation(cell: Cell | None) -> Value:
    if cell is None:
        return _NOTHING
    loss, accuracy = _estimate(cell.validation_loss, cell.num_diverged), cell.validation_accuracy.mean
    return loss if accuracy is None else loss._replace(text=f"{loss.text} ({100 * accuracy:.1f} %)")


def _rate(cell: Cell | None) -> Value:
    if cell is None:
        return _NOTHING
    rate = cell.records[0]["learning_rate"]
    return Value("none") if rate is None else Value(f"{rate:g}{'*' if cell.at_edge else ''}", rate)


def _tuned(cells: Sequence[Cell | None]) -> Value:
    where = sorted({cell.records[0]["tuned_at"] for cell in cells if cell})
    return Value(" and ".join(filter(None, where)) or "not tuned")


def aggregate_table(part: Part) -> Table:
    """One row for each optimizer, over all tasks of a part."""
    columns = [
        "optimizer", "tasks", "score", "validation score", "speed-up", "tasks won", "won clearly",
        "runs diverged", "step time", "state", "tuning runs",
    ]  # fmt: skip
    rows = []
    for label in part.labels:
        found = part.aggregates[label]
        tuning = part.tuning.get(label)
        rows.append([
            Value(label),
            _count(found.num_points),
            _interval(found.score),
            _interval(found.validation_score),
            _interval(found.speed_up, "×"),
            _share(found.num_won, found.num_points),
            _share(found.num_clearly_won, found.num_points),
            _share(found.num_diverged, found.num_runs),
            _times(found.step_ratio),
            _times(found.state_ratio),
            _count(tuning.num_runs if tuning else 0),
        ])  # fmt: skip
    rows = _mark_best(rows, {2: max, 3: max, 4: max, 5: max, 6: max})
    about = (
        f"Score: 0 for guessing, 1 for {part.reference}; speed-up: in steps, over {part.reference}. Both are "
        "interquartile means over tasks with 95 % intervals from resampled seeds. "
        if part.reference
        else ""
    ) + f"Step time and state: median over tasks, relative to {part.adam or 'AdamW (not in these results)'}."
    return Table("aggregate", "Over all tasks", about, columns, rows)


def winner_table(part: Part) -> Table:
    """One row for each task: who has the lowest final training loss."""
    columns = ["task", "winner", "runner-up", "loss of the winner", "loss of the runner-up", "lead", "clear"]
    rows = []
    for point, winner in part.winners.items():
        row = part.cells[point]
        first = row[winner.label].final_loss if winner.label else None
        second = row[winner.second].final_loss if winner.second else None
        lead = (second.mean - first.mean) / second.mean if second and second.mean else None
        clear = {True: "yes", False: "no", None: "not known"}[winner.is_clear]
        rows.append([
            Value(str(point)),
            Value("a tie" if winner.is_tie else winner.label or "all diverged"),
            Value(winner.second or "–"),
            _estimate(first),
            _estimate(second),
            _NOTHING if lead is None else Value(f"{100 * lead:.1f} %", lead),
            Value(clear, {"yes": 2, "no": 1, "not known": 0}[clear]),
        ])  # fmt: skip
    about = (
        "By mean final training loss; an optimizer with a diverged run cannot win, and an oracle, tuned at "
        "each task, only where there is nothing else. Clear: the lead is more than two standard errors of it."
    )
    return Table("winners", "Winners", about, columns, rows, text_columns=(0, 1, 2))


def divergence_table(part: Part) -> Table:
    """One row for each optimizer: how many of its runs diverged, and where."""
    rows = []
    for label in part.labels:
        found = part.aggregates[label]
        places = [
            f"{point} ({row[label].num_diverged} of {len(row[label].records)})"
            for point, row in part.cells.items()
            if label in row and row[label].num_diverged
        ]
        shown = places[:8] + ([f"{len(places) - 8} more tasks"] if len(places) > 8 else [])
        rows.append([
            Value(label),
            _count(found.num_runs),
            _count(found.num_diverged),
            _share(found.num_diverged, found.num_runs),
            Value("; ".join(shown) or "nowhere"),
        ])  # fmt: skip
    about = "A run has diverged where a loss or its validation loss is not finite."
    columns = ["optimizer", "runs", "diverged", "share", "where"]
    return Table("divergence", "Divergence", about, columns, rows, text_columns=(0, 4))


def tuning_table(part: Part) -> Table:
    """One row for each optimizer: what finding its learning rate took."""
    rows = []
    for label in part.labels:
        runs = [run for row in part.cells.values() if label in row for run in row[label].records]
        where = " and ".join(sorted({run["tuned_at"] for run in runs if run["tuned_at"]}))
        cost = part.tuning.get(label)
        rates = sorted({run["learning_rate"] for run in runs if run["learning_rate"] is not None})
        edges = sum(row[label].at_edge for row in part.cells.values() if label in row)
        own = sum({run["key"]: run["num_steps"] for run in runs}.values())
        if not rates:
            shown = "has none"
        else:
            shown = f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g}"
        rows.append([
            Value(label),
            Value(f"at {where}" if where else "not tuned"),
            Value(shown),
            _count(cost.num_runs if cost else 0),
            _count(cost.num_steps if cost else 0),
            _times(cost.num_steps / own if cost else 0.0),
            Value(f"at {edges} tasks", edges) if edges else Value("–", 0),
        ])  # fmt: skip
    columns = [
        "optimizer", "tuned", "learning rate", "tuning runs", "inner steps of them", "over its own runs",
        "edge of the grid",
    ]  # fmt: skip
    about = (
        "Runs with other seeds, made only to choose a learning rate; a run that served several tasks counts "
        "once. Edge of the grid: the best rate was the smallest or the largest tried, so a better one may "
        "lie beyond."
    )
    return Table("tuning", "Tuning cost", about, columns, rows, text_columns=(0, 1, 2))


def results_table(part: Part) -> Table:
    """One row for each optimizer at each task: every number there is."""
    columns = [
        "task", "optimizer", "learning rate", "seeds", "final loss", "validation loss", "accuracy",
        "mean loss", "score", "speed-up", "diverged", "ms a step", "state",
    ]  # fmt: skip
    rows = []
    for point, row in part.cells.items():
        group = [_result_row(point, label, cell) for label, cell in row.items()]
        rows += _mark_best(group, {4: min, 5: min, 6: max, 7: min, 8: max, 9: max})
    about = (
        "Losses: mean over seeds ± one standard error; a diverged run leaves no mean. Mean loss: over all "
        "steps, the area under the curve divided by their number."
    )
    return Table("results", "Every result", about, columns, rows, text_columns=(0, 1))


def _result_row(point: Point, label: str, cell: Cell) -> list[Value]:
    seconds = [run["step_seconds"] for run in cell.records if run["step_seconds"] > 0]
    milliseconds = 1000 * sum(seconds) / len(seconds) if seconds else None
    accuracy = cell.validation_accuracy
    return [
        Value(str(point)),
        Value(label),
        _rate(cell),
        _count(len(cell.records)),
        _estimate(cell.final_loss),
        _estimate(cell.validation_loss, cell.num_diverged),
        _NOTHING if accuracy.mean is None else Value(f"{100 * accuracy.mean:.1f} %", accuracy.mean),
        _estimate(cell.mean_loss, cell.num_diverged),
        _mean(cell.scores),
        _mean(cell.speed_ups, "×"),
        _count(cell.num_diverged),
        _NOTHING if milliseconds is None else Value(f"{milliseconds:.3g}", milliseconds),
        _bytes(cell.records[0]["state_bytes"]),
    ]


def comparison_table(found: Comparison, tolerance: float) -> Table:
    """One row for each optimizer that A and B share, and one for all that differ."""
    columns = ["optimizer", "tasks", "loss ratio B/A", "validation ratio B/A", "more diverge", "verdict"]
    differences = [*found.differences, *([found.overall] if found.overall else [])]
    rows = [
        [
            Value(difference.label),
            _count(difference.num_points),
            _interval(difference.loss_ratio),
            _interval(difference.validation_ratio),
            _count(len(difference.newly_diverged)),
            Value(_verdict(difference, tolerance)),
        ]
        for difference in differences
    ]
    about = (
        "Ratio of mean final losses, geometric mean over tasks, with 95 % intervals from resampled seeds; "
        f"below 1 B is better. Worse: the whole interval is above {1 + tolerance:g}, or more runs diverge."
    )
    return Table("comparison", "B against A", about, columns, rows, text_columns=(0, 5))


def _verdict(difference: Difference, tolerance: float) -> str:
    if difference.is_same:
        return "the same runs"
    if difference.is_regression(tolerance):
        return "worse"
    ratio = difference.loss_ratio
    if ratio is None or ratio.low is None:
        return "cannot be judged"
    return "better" if ratio.high < 1 else "no clear difference"


def _mark_best(rows: Sequence[Sequence[Value]], choose: Mapping[int, Any]) -> list[list[Value]]:
    """The best number of some columns is marked, unless all are equal."""
    rows = [list(row) for row in rows]
    for column, pick in choose.items():
        numbers = [row[column].number for row in rows if row[column].number is not None]
        if len(set(numbers)) > 1:
            for row in rows:
                row[column] = row[column]._replace(is_best=row[column].number == pick(numbers))
    return rows


def number_text(value: float) -> str:
    """Four decimals, or a power of ten for what is very small or very large."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"


def _estimate(found: Estimate | None, num_diverged: int | None = None) -> Value:
    if found is None:
        return _NOTHING
    if found.mean is None:
        diverged = found.num_diverged if num_diverged is None else num_diverged
        if not diverged:
            return _NOTHING
        return Value(
            "diverged" if diverged == found.num_runs else f"diverged ({diverged} of {found.num_runs})"
        )
    error = "" if found.standard_error is None else f" ± {number_text(found.standard_error)}"
    return Value(number_text(found.mean) + error, found.mean)


def _interval(found: Interval | None, unit: str = "") -> Value:
    if found is None:
        return _NOTHING
    limits = "" if found.low is None else f" [{found.low:.3f}, {found.high:.3f}]"
    return Value(f"{found.value:.3f}{unit}{limits}", found.value)


def _mean(values: Sequence[float], unit: str = "") -> Value:
    if not values:
        return _NOTHING
    mean = sum(values) / len(values)
    return Value(f"{mean:.3f}{unit}", mean)


def _count(number: int) -> Value:
    return Value(f"{number:,}", number)


def _share(number: int, total: int) -> Value:
    return Value(f"{number} ({100 * number / total:.0f} %)", number / total) if total else _NOTHING


def _times(ratio: float | None) -> Value:
    return _NOTHING if ratio is None else Value(f"{ratio:.2f}×", ratio)


def _bytes(number: int | None) -> Value:
    if number is None:
        return _NOTHING
    size, units = float(number), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return Value(f"{size:.3g} {units[0]}", number)


def aggregates_csv(parts: Sequence[Part]) -> str:
    """The aggregates of all parts, numbers in full."""
    rows = []
    for part in parts:
        for label, found in part.aggregates.items():
            cost = part.tuning.get(label)
            row = {"suite": part.suite, "size": part.size, "optimizer": label, "reference": part.reference}
            for field in ("score", "validation_score", "speed_up"):
                interval = getattr(found, field) or Interval(None, None, None)
                row.update(
                    {field: interval.value, f"{field}_low": interval.low, f"{field}_high": interval.high}
                )
            counts = ("num_points", "num_won", "num_clearly_won", "num_diverged", "num_runs")
            row.update({field: getattr(found, field) for field in (*counts, "step_ratio", "state_ratio")})
            row.update(tuning_runs=cost.num_runs if cost else 0, tuning_steps=cost.num_steps if cost else 0)
            rows.append(row)
    return _csv(rows)


def results_csv(parts: Sequence[Part]) -> str:
    """Every optimizer at every point of all parts, numbers in full."""
    rows = []
    for part in parts:
        for point, cells in part.cells.items():
            for label, cell in cells.items():
                rows.append({**point._asdict(), "optimizer": label, **_csv_numbers(cell)})
    return _csv(rows)


def _csv_numbers(cell: Cell) -> dict[str, Any]:
    first = cell.records[0]
    row = {field: first[field] for field in ("task", "unit", "learning_rate", "tuned_at", "num_steps")}
    row["seeds"] = " ".join(str(record["seed"]) for record in cell.records)
    for field in ("final_loss", "mean_loss", "validation_loss", "validation_accuracy"):
        found = getattr(cell, field)
        row.update({field: found.mean, f"{field}_standard_error": found.standard_error})
    for field in ("scores", "validation_scores", "speed_ups"):
        values = getattr(cell, field)
        row[field.removesuffix("s")] = sum(values) / len(values) if values else None
    row.update(num_diverged=cell.num_diverged, step_ratio=cell.step_ratio, state_ratio=cell.state_ratio)
    return row


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([_csv_safe(value) for value in row.values()])
    return buffer.getvalue()


def _csv_safe(value: Any) -> Any:
    # A spreadsheet takes a text that begins so for a formula.
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
    return f"'{value}" if is_formula else value
