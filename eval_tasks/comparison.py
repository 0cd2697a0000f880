"""Two sets of results against one another: is B worse than A by more than other seeds would explain?"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from eval_tasks.aggregates import Interval, bootstrap_interval
from eval_tasks.result_lines import Record
from eval_tasks.results import Point, Results
from mulo.errors import InputError
from mulo.names import lookup

_ALIKE = ("num_steps", "batch_size", "data_digest", "unit")
"""What must be the same where losses are compared."""

_TOLD = ("device", "software")
"""What may differ, and is said."""

Row = Mapping[Point, tuple[Sequence[Record], Sequence[Record]]]  # the runs of A and of B


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """One optimizer in B against the same in A."""

    label: str  # of A, and of B where it is another: "a -> b"
    num_points: int
    loss_ratio: Interval | None  # final training loss, B over A; geometric mean over the points
    validation_ratio: Interval | None
    newly_diverged: Sequence[Point]  # where more runs of B diverge than of A
    no_longer_diverged: Sequence[Point]
    is_same: bool  # every run is the same one in A and in B

    def is_regression(self, tolerance: float) -> bool:
        """The whole interval of the loss ratio is above 1 + tolerance, or more runs diverge."""
        low = self.loss_ratio.low if self.loss_ratio else None
        return bool(self.newly_diverged) or (low is not None and low > 1 + tolerance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """All optimizers that A and B share, each for itself and together."""

    differences: Sequence[Difference]
    overall: Difference | None  # without those that are the same; `None`: all are
    notes: Sequence[str]
    is_complete: bool = True  # B has every task of A, run alike


def compare(a: Results, b: Results, pairs: Mapping[str, str] | None = None) -> Comparison:
    """Compares the final losses of B with those of A, at the points that both have.

    Args:
      a: what is compared with.
      b: what may be better or worse.
      pairs: labels of A -> labels of B, of optimizers that are called differently. Others are compared by
        their label; if then one label is left over in A and one in B, these two are compared.

    Raises:
      InputError: an unknown label; nothing to compare; or no optimizer has two seeds at any point of both,
        so that nothing can be judged.
    """
    named = _pair_labels(a, b, pairs or {})
    notes = [f"Only in {name}: {', '.join(labels)}." for name, labels in _left_over(a, b, named) if labels]
    rows: dict[str, Row] = {}
    is_complete = True
    for label_a, label_b in named.items():
        label = label_a if label_a == label_b else f"{label_a} -> {label_b}"
        row, is_whole = _pair_runs(label, (a, label_a), (b, label_b), notes)
        rows[label], is_complete = row, is_complete and is_whole
    rows = {label: row for label, row in rows.items() if row}
    if not rows:
        found = f" ({' '.join(notes)})" if notes else ""
        raise InputError(
            f"A and B share no optimizer at any task, run alike{found}, so there is nothing to compare. Use "
            "the same suite and size; optimizers that are called differently are named with --match A=B."
        )
    differences = [_difference(label, list(row.values()), list(row), notes) for label, row in rows.items()]
    changed = [difference.label for difference in differences if not difference.is_same]
    pooled = [(point, runs) for label in changed for point, runs in rows[label].items()]
    overall = None
    if pooled:
        overall = _difference("all that differ", [runs for _, runs in pooled], [p for p, _ in pooled], [])
        judged = [overall, *differences]
        if (
            all(d.loss_ratio is None or d.loss_ratio.low is None for d in judged)
            and not overall.newly_diverged
        ):
            raise InputError(
                "Nothing can be judged: at no task do A and B both have two seeds that did not diverge."
            )
    return Comparison(differences=differences, overall=overall, notes=notes, is_complete=is_complete)


def _pair_runs(
    label: str, side_a: tuple[Results, str], side_b: tuple[Results, str], notes: list[str]
) -> tuple[Row, bool]:
    """The runs at the points that both have, run alike; and whether those are all that A has."""
    (a, label_a), (b, label_b) = side_a, side_b
    points = [point for point, row in a.cells.items() if label_a in row]
    there = [point for point in points if label_b in b.cells.get(point, {})]
    if not there:
        notes.append(f"{label}: A and B have no task in common.")
    elif len(there) < len(points):
        absent = next(point for point in points if point not in there)
        number = f"{len(points) - len(there)} of {len(points)}"
        notes.append(f"{label}: {number} tasks of A are not in B (first: {absent}).")
    row = {}
    for point in there:
        pair = a.cells[point][label_a], b.cells[point][label_b]
        differing = [field for field in _ALIKE if pair[0][0][field] != pair[1][0][field]]
        if differing:
            notes.append(f"{label}: {point} is left out; A and B differ in {', '.join(differing)}.")
        else:
            row[point] = pair
    unlike = [field for field in _TOLD if any(a[0][field] != b[0][field] for a, b in row.values())]
    if unlike:
        notes.append(f"{label}: A and B differ in {', '.join(unlike)}.")
    short = [point for point, (a, b) in row.items() if {r["seed"] for r in a} - {r["seed"] for r in b}]
    if short:
        notes.append(
            f"{label}: seeds of A are not in B at {len(short)} of {len(row)} tasks (first: {short[0]})."
        )
    return row, len(row) == len(points) and not short


def _pair_labels(a: Results, b: Results, pairs: Mapping[str, str]) -> dict[str, str]:
    for label_a, label_b in pairs.items():
        lookup(dict.fromkeys(a.labels), label_a, "optimizer of A")
        lookup(dict.fromkeys(b.labels), label_b, "optimizer of B")
    taken = set(pairs.values())
    named = {label: pairs.get(label, label) for label in a.labels}
    named = {
        label: other
        for label, other in named.items()
        if label in pairs or (other in b.labels and other not in taken)
    }
    (_, only_a), (_, only_b) = _left_over(a, b, named)
    if len(only_a) == len(only_b) == 1:
        named[only_a[0]] = only_b[0]
    return named


def _left_over(a: Results, b: Results, named: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    return [
        ("A", [label for label in a.labels if label not in named]),
        ("B", [label for label in b.labels if label not in named.values()]),
    ]


def _difference(
    label: str,
    runs: Sequence[tuple[Sequence[Record], Sequence[Record]]],
    points: Sequence[Point],
    notes: list[str],
) -> Difference:
    diverged = [tuple(_diverged_share(side) for side in pair) for pair in runs]
    left_out = sum(not all(map(_can_be_judged, _sides(pair, "final_loss"))) for pair in runs)
    if left_out:
        notes.append(
            f"{label}: {left_out} of {len(runs)} tasks are not in the loss ratio; there A or B has fewer "
            "than two runs that did not diverge, or a loss that is not positive."
        )
    return Difference(
        label=label,
        num_points=len(runs),
        loss_ratio=_ratio(runs, "final_loss"),
        validation_ratio=_ratio(runs, "validation_loss"),
        newly_diverged=[point for point, (a, b) in zip(points, diverged, strict=True) if b > a],
        no_longer_diverged=[point for point, (a, b) in zip(points, diverged, strict=True) if b < a],
        is_same=all([run["key"] for run in a] == [run["key"] for run in b] for a, b in runs),
    )


def _diverged_share(runs: Sequence[Record]) -> float:
    return sum(run["diverged"] for run in runs) / len(runs)


def _ratio(runs: Sequence[tuple[Sequence[Record], Sequence[Record]]], field: str) -> Interval | None:
    """Geometric mean over tasks of B's mean loss over A's, of the seeds that did not diverge.

    Tasks at which one side has fewer than two such seeds, or a loss that is not positive, do not count.
    """
    samples = []
    for pair in runs:
        sides = _sides(pair, field)
        if all(map(_can_be_judged, sides)):
            samples += sides
    return bootstrap_interval(samples, _mean_ratio) if samples else None


def _sides(pair: tuple[Sequence[Record], Sequence[Record]], field: str) -> list[list[float]]:
    return [[run[field] for run in side if run[field] is not None] for side in pair]


def _can_be_judged(losses: Sequence[float]) -> bool:
    return len(losses) > 1 and min(losses) > 0


def _mean_ratio(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Samples of A and B, in turn, each [..., seeds] -> [...]."""
    logs = [np.log(sample.mean(axis=axis)) for sample in samples]
    return np.exp(np.mean([b - a for a, b in zip(logs[::2], logs[1::2], strict=True)], axis=0))
