"""From the runs of results files to the numbers of a report, for each suite and size. Imports no JAX."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from eval_tasks.aggregates import (
    Estimate,
    Interval,
    estimate,
    has_learned,
    normalised_score,
    speed_up,
    task_interval,
)
from eval_tasks.result_lines import Record
from eval_tasks.results import Point, Results, part_name
from mulo.names import lookup

ADAM_LABELS = ("adamw-oracle", "muadamw", "adamw")
"""What others are measured against, unless told otherwise: the first that is there. The one that is tuned at
every task comes first, as in VeLO and Celo."""
ORACLE = "-oracle"
_CLEAR = 2.0  # standard errors of the difference, from which a win is called clear


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One optimizer at one point. What has no reference to be measured against is empty or `None`."""

    records: Sequence[Record]  # one a seed
    final_loss: Estimate
    mean_loss: Estimate
    validation_loss: Estimate
    validation_accuracy: Estimate
    scores: Sequence[float]  # of each seed's final loss, as in `normalised_score`
    validation_scores: Sequence[float]
    speed_ups: Sequence[float]
    step_ratio: float | None  # seconds of a step over Adam's
    state_ratio: float | None  # bytes of the state over Adam's
    at_edge: bool  # the learning rate is the smallest or the largest that was tried

    @property
    def num_diverged(self) -> int:
        """Runs that diverged."""
        return sum(record["diverged"] for record in self.records)


class Winner(NamedTuple):
    """Who has the lowest mean final loss at a point, oracles aside."""

    label: str | None  # `None`: everyone has a diverged run
    second: str | None
    is_clear: bool | None  # the lead is over two standard errors of it; `None`: not known
    is_tie: bool = False  # the two have the same loss, and nobody has won


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aggregate:
    """One optimizer over all points at which it was run."""

    num_points: int
    score: Interval | None
    validation_score: Interval | None
    speed_up: Interval | None
    num_won: int
    num_clearly_won: int
    num_diverged: int
    num_runs: int
    step_ratio: float | None  # median over the points
    state_ratio: float | None


class TuningCost(NamedTuple):
    """What the choice of a learning rate took."""

    num_runs: int
    num_steps: int  # inner steps of all of them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One suite in one size."""

    title: str  # as in `Point.part`
    suite: str
    size: str
    labels: Sequence[str]
    reference: str | None
    adam: str | None  # what seconds and bytes are compared with
    cells: Mapping[Point, Mapping[str, Cell]]
    winners: Mapping[Point, Winner]
    aggregates: Mapping[str, Aggregate]
    tuning: Mapping[str, TuningCost]
    notes: Sequence[str]

    @property
    def learned(self) -> frozenset[str]:
        """The labels of learned optimizers: those that have a provenance."""
        cells = [(label, cell) for row in self.cells.values() for label, cell in row.items()]
        return frozenset(label for label, cell in cells if cell.records[0]["provenance"])

    @property
    def lines(self) -> Mapping[tuple[str, str], Sequence[Point]]:
        """The points of each series and axis, in their order; an axis of tasks is one line."""
        lines: dict[tuple[str, str], list[Point]] = {}
        for point in self.cells:
            series = "tasks" if point.axis == "task" else point.series
            lines.setdefault((series, point.axis), []).append(point)
        return lines


def measure(results: Results, reference: str | None = None) -> list[Part]:
    """Measures every optimizer in every suite and size.

    Args:
      results: what was read.
      reference: label of the optimizer that scores and speed-ups are relative to; by default the first of
        `ADAM_LABELS` that a part has.

    Raises:
      InputError: no optimizer of the results has that label.
    """
    if reference is not None:
        lookup(dict.fromkeys(results.labels), reference, "optimizer of these results")
    titles = dict.fromkeys(point.part for point in results.cells)
    return [_measure_part(results, title, reference) for title in titles]


def _measure_part(results: Results, title: str, asked: str | None) -> Part:
    rows = {point: row for point, row in results.cells.items() if point.part == title}
    suite, size = next((point.suite, point.size) for point in rows)
    present = {label for row in rows.values() for label in row}
    labels = [label for label in results.labels if label in present]
    adam = next((label for label in ADAM_LABELS if label in present), None)
    reference = asked if asked in present else None if asked else adam
    adam = reference if reference in ADAM_LABELS else adam
    tuning = [r for r in results.tuning if part_name(r["suite"], r["size"], r["suite_changes"]) == title]
    notes = []
    if reference is None:
        wanted = asked or " or ".join(ADAM_LABELS)
        notes.append(f"{title}: no runs of {wanted}, so there are no scores and no speed-ups.")
    cells = {}
    for point, row in rows.items():
        targets = _targets(row.get(reference, ()))
        if reference in row:
            notes += _reference_notes(point, reference, row[reference], targets)
        cells[point] = {
            label: _measure_cell(runs, targets, row.get(adam, ()), _grid(tuning, point, runs[0]))
            for label, runs in row.items()
        }
    winners = {point: find_winner(row) for point, row in cells.items()}
    aggregates = {label: _aggregate(label, cells, winners) for label in labels}
    notes += _interval_notes(title, cells)
    return Part(
        title=title,
        suite=suite,
        size=size,
        labels=labels,
        reference=reference,
        adam=adam,
        cells=cells,
        winners=winners,
        aggregates=aggregates,
        tuning=_tuning_costs(tuning),
        notes=notes,
    )


class _Targets(NamedTuple):
    """What the reference did at a point."""

    guessing: float | None
    final_loss: float | None  # mean over the runs that did not diverge
    validation_loss: float | None
    curves: Sequence[Mapping[str, Sequence]]


def _targets(runs: Sequence[Record]) -> _Targets:
    runs = [record for record in runs if not record["diverged"]]
    if not runs:
        return _Targets(None, None, None, [])
    return _Targets(
        guessing=runs[0]["guessing_loss"],
        final_loss=_mean([record["final_loss"] for record in runs]),
        validation_loss=_mean([record["validation_loss"] for record in runs]),
        curves=[record["losses"] for record in runs],
    )


def _mean(values: Sequence[float | None]) -> float | None:
    return estimate(values).mean


def _reference_notes(point: Point, reference: str, runs: Sequence[Record], targets: _Targets) -> list[str]:
    diverged = sum(record["diverged"] for record in runs)
    where = f"{point.part}, {point}"
    if diverged == len(runs):
        return [f"{where}: every run of the reference {reference} diverged; no scores, no speed-ups there."]
    notes = []
    if diverged:
        notes.append(f"{where}: {diverged} of {len(runs)} runs of the reference {reference} diverged; the "
                     "others are the reference.")  # fmt: skip
    if targets.guessing is None:
        notes.append(f"{where}: guessing_loss is not given; no scores there.")
    elif not has_learned(targets.final_loss, targets.guessing):
        notes.append(
            f"{where}: the reference {reference} is hardly better than guessing; no scores, no speed-ups "
            "there."
        )
    return notes


def _interval_notes(title: str, cells: Mapping[Point, Mapping[str, Cell]]) -> list[str]:
    single: dict[str, list[Point]] = defaultdict(list)
    for point, row in cells.items():
        for label, cell in row.items():
            if len(cell.records) == 1:
                single[label].append(point)
    return [
        f"{title}: {label} has a single run at {len(points)} point{'s' if len(points) > 1 else ''} (first: "
        f"{points[0]}), so its aggregates have no interval."
        for label, points in single.items()
    ]


def _grid(tuning: Sequence[Record], point: Point, run: Record) -> set[float]:
    """The learning rates that were tried for a run."""
    return {
        record["learning_rate"]
        for record in tuning
        if (record["series"], record["optimizer"]) == (point.series, run["optimizer"])
        and (run["tuned_at"] != "each value" or record["value"] == point.value)
        and record["learning_rate"] is not None
    }


def _measure_cell(
    runs: Sequence[Record], targets: _Targets, adam: Sequence[Record], grid: set[float]
) -> Cell:
    return Cell(
        records=runs,
        **{
            field: estimate([record[field] for record in runs])
            for field in ("final_loss", "mean_loss", "validation_loss", "validation_accuracy")
        },
        scores=_scores(runs, "final_loss", targets.guessing, targets.final_loss),
        validation_scores=_scores(runs, "validation_loss", targets.guessing, targets.validation_loss),
        speed_ups=_speed_ups(runs, targets),
        step_ratio=_ratio(_step_seconds(runs), _step_seconds(adam)) if _same_device(runs, adam) else None,
        state_ratio=_ratio(_state_bytes(runs), _state_bytes(adam)),
        at_edge=len(grid) > 2 and runs[0]["learning_rate"] in (min(grid), max(grid)),
    )


def _scores(
    runs: Sequence[Record], field: str, guessing: float | None, target: float | None
) -> tuple[float, ...]:
    if guessing is None or target is None or not has_learned(target, guessing):
        return ()
    if any(record[field] is None and not record["diverged"] for record in runs):
        return ()
    return tuple(
        normalised_score(None if record["diverged"] else record[field], guessing, target) for record in runs
    )


def _speed_ups(runs: Sequence[Record], targets: _Targets) -> tuple[float, ...]:
    if targets.final_loss is None:
        return ()
    if targets.guessing is not None and not has_learned(targets.final_loss, targets.guessing):
        return ()
    ups = [
        speed_up(
            record["losses"],
            None if record["diverged"] else record["final_loss"],
            targets.curves,
            targets.final_loss,
            record["num_steps"],
        )
        for record in runs
    ]
    return () if None in ups else tuple(ups)


def _same_device(*sides: Sequence[Record]) -> bool:
    """Whether all were computed on one kind of device: times of others are no ratio."""
    return len({record["device"] for side in sides for record in side}) == 1


def _step_seconds(runs: Sequence[Record]) -> float | None:
    return _mean([record["step_seconds"] for record in runs if record["step_seconds"] > 0])


def _state_bytes(runs: Sequence[Record]) -> float | None:
    return _mean([record["state_bytes"] for record in runs])


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def find_winner(row: Mapping[str, Cell]) -> Winner:
    """The optimizer with the lowest mean final loss, and whether seeds alone could explain its lead."""
    finite = {label: cell.final_loss for label, cell in row.items() if cell.final_loss.mean is not None}
    rivals = {label: loss for label, loss in finite.items() if not label.endswith(ORACLE)}
    finite = rivals or finite  # an oracle is a bound, not a rival, unless there is nothing else
    ranked = sorted(finite, key=lambda label: finite[label].mean)
    if not ranked:
        return Winner(None, None, None)
    if len(ranked) == 1:
        return Winner(ranked[0], None, None)
    first, second = finite[ranked[0]], finite[ranked[1]]
    if first.mean == second.mean:
        return Winner(ranked[0], ranked[1], False, is_tie=True)
    if first.standard_error is None or second.standard_error is None:
        return Winner(ranked[0], ranked[1], None)
    error = np.hypot(first.standard_error, second.standard_error)
    return Winner(ranked[0], ranked[1], bool(second.mean - first.mean > _CLEAR * error))


def _aggregate(
    label: str, cells: Mapping[Point, Mapping[str, Cell]], winners: Mapping[Point, Winner]
) -> Aggregate:
    own = {point: row[label] for point, row in cells.items() if label in row}
    won = [point for point in own if winners[point].label == label and not winners[point].is_tie]
    intervals = {}
    for field, samples in (
        ("score", [cell.scores for cell in own.values()]),
        ("validation_score", [cell.validation_scores for cell in own.values()]),
        ("speed_up", [cell.speed_ups for cell in own.values()]),
    ):
        samples = [sample for sample in samples if sample]
        intervals[field] = task_interval(samples) if samples else None
    return Aggregate(
        num_points=len(own),
        num_won=len(won),
        num_clearly_won=sum(winners[point].is_clear is True for point in won),
        num_diverged=sum(cell.num_diverged for cell in own.values()),
        num_runs=sum(len(cell.records) for cell in own.values()),
        step_ratio=_median([cell.step_ratio for cell in own.values()]),
        state_ratio=_median([cell.state_ratio for cell in own.values()]),
        **intervals,
    )


def _median(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(np.median(found)) if found else None


def _tuning_costs(tuning: Sequence[Record]) -> dict[str, TuningCost]:
    steps: dict[str, dict[str, int]] = defaultdict(dict)  # a run that serves several points counts once
    for record in tuning:
        steps[record["optimizer"]][record["key"]] = record["num_steps"]
    return {label: TuningCost(len(runs), sum(runs.values())) for label, runs in steps.items()}
