"""Reads results files, ours or another's: keeps all that is good, and names what is not. Imports no JAX.

The schema is published in docs/results-schema.md.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval_tasks.result_lines import Record, parse_line
from mulo.errors import InputError
from mulo.printing import shown
from mulo.safe_files import open_file

FILE_NAME = "results.jsonl"
_MAX_LISTED = 6  # line numbers or places in one note


class Point(NamedTuple):
    """What optimizers are compared at: one task, trained for one number of steps."""

    suite: str
    size: str
    series: str  # the base task of which one property is varied
    axis: str  # which: "width", "depth", "num_steps" or "task"
    value: float | str
    suite_changes: str = ""  # what is not as the suite defines it

    @property
    def part(self) -> str:
        """The comparison that it belongs to, as in "wide (cpu)" or "wide (cpu, changed: num_steps=10)"."""
        return part_name(self.suite, self.size, self.suite_changes)

    def __str__(self) -> str:
        """As in "mlp-d3_digits at width 128"; of an axis of tasks the task alone."""
        if self.axis == "task":
            return self.value if isinstance(self.value, str) else self.series
        return f"{self.series_name} at {self.place}"

    @property
    def series_name(self) -> str:
        """The series without the axis at its end, as in "mlp-w32-d3_digits by width"."""
        return self.series.removesuffix(f" by {self.axis}")

    @property
    def place(self) -> str:
        """As in "width 128"."""
        value = self.value if isinstance(self.value, str) else f"{self.value:,.12g}"
        return f"{self.axis.replace('num_steps', 'steps').replace('_', ' ')} {value}"

    @property
    def order(self) -> tuple:
        """What points are sorted by."""
        number = math.inf if isinstance(self.value, str) else self.value
        return (self.suite, self.size, self.suite_changes, self.series, self.axis, number, str(self.value))


def part_name(suite: str, size: str, changes: str) -> str:
    """What a comparison is called; trials with a changed suite are one of their own."""
    return f"{suite} ({size}, changed: {changes})" if changes else f"{suite} ({size})"


class File(NamedTuple):
    """A results file that was read."""

    path: str
    digest: str  # SHA-256 of its bytes, hexadecimal
    num_lines: int
    num_used: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """The good part of some results files, and what is wrong with the rest."""

    cells: Mapping[Point, Mapping[str, Sequence[Record]]]  # by optimizer; sorted by seed, one record each
    tuning: Sequence[Record]  # purpose "tune"
    files: Sequence[File]
    notes: Sequence[str]  # one line for each gap

    @property
    def labels(self) -> list[str]:
        """The optimizers, in the order in which they were first seen."""
        return list(dict.fromkeys(label for row in self.cells.values() for label in row))


def read_results(sources: Sequence[Path]) -> Results:
    """Reads results files, or folders that hold one called `results.jsonl`.

    A line that is not whole, is of another schema or breaks it is left out and named in the notes; fields
    that the schema does not have are ignored. Runs are grouped by suite, size, series, value and optimizer.

    Raises:
      InputError: a file is missing or cannot be read, or no line of any of them can be used.
    """
    records: list[Record] = []
    files, notes = [], []
    for source in sources:
        file, found, said = _read_file(source)
        files.append(file)
        notes += said
        records += found
    if not any(record["purpose"] == "evaluate" for record in records):
        where = ", ".join(file.path for file in files)
        why = notes[0] if notes else f"there are no finished runs in {where}."
        raise InputError(f"Nothing to report on: {why if why.endswith('.') else why + '.'}")
    cells, said = _group(records)
    tuning = {(*_point(record), record["optimizer"], record["key"]): record for record in records
              if record["purpose"] == "tune"}  # fmt: skip
    notes = [*notes, *said, *_mixtures(cells), *_gaps(cells)]
    return Results(cells=cells, tuning=tuple(tuning.values()), files=tuple(files), notes=tuple(notes))


def _read_file(source: Path) -> tuple[File, list[Record], list[str]]:
    is_folder = os.path.isdir(source)  # noqa: PTH112 (False for too long a name)
    path = source / FILE_NAME if is_folder else source
    if is_folder and not os.path.lexists(path):
        raise InputError(
            f"{shown(source)} is a folder without {FILE_NAME}; wanted one that has it, or files: DIR/*.jsonl."
        )
    try:
        with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
            content = file.read()
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read: {error.strerror}.") from error
    records: list[Record] = []
    faults: dict[str, list[int]] = defaultdict(list)
    lines = content.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(parse_line(line))
        except InputError as error:
            faults[str(error)].append(number)
    notes = [
        f"{shown(path)}: {_listed('line', numbers)} left out: {fault}." for fault, numbers in faults.items()
    ]
    file = File(shown(path), hashlib.sha256(content).hexdigest(), len(lines), len(records))
    return file, records, notes


def _listed(what: str, items: Sequence[Any]) -> str:
    """As in "lines 3, 7 and 8"; of many only the first are named."""
    texts = [str(item) for item in items[:_MAX_LISTED]]
    if len(items) > _MAX_LISTED:
        texts.append(f"{len(items) - _MAX_LISTED} more")
    what = f"{what} " if len(texts) == 1 else f"{what}s "
    return what + (texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}")


def _point(record: Record) -> Point:
    return Point(*(record[field] for field in Point._fields))


def _group(records: Iterable[Record]) -> tuple[dict[Point, dict[str, tuple[Record, ...]]], list[str]]:
    """The evaluation runs of each label at each point, all of one setting: that of the last line there is."""
    found: dict[Point, dict[str, dict[str, dict[int, Record]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    last: dict[tuple[Point, str], str] = {}
    others: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        if record["purpose"] != "evaluate":
            continue
        point, label, setting = _point(record), record["optimizer"], _setting_of(record)
        earlier = found[point][label][setting].get(record["seed"])
        if earlier is not None and earlier["key"] != record["key"]:
            others[label][str(point)] += 1
        found[point][label][setting][record["seed"]] = record
        last[point, label] = setting
    ordered = {}
    for point in sorted(found, key=lambda point: point.order):
        ordered[point] = {}
        for label, settings in found[point].items():
            by_seed = settings[last[point, label]]
            ordered[point][label] = tuple(by_seed[seed] for seed in sorted(by_seed))
            left_out = sum(map(len, settings.values())) - len(by_seed)
            if left_out:
                others[label][str(point)] += left_out
    notes = [
        f"{label}: {sum(places.values())} runs left out that have this label but are not the last of "
        f"their kind or settings ({_listed('place', list(places))})."
        for label, places in others.items()
    ]
    return ordered, notes


_DECIDING = (
    *("optimizer_config", "learning_rate", "parametrization", "num_steps", "batch_size", "data_digest"),
    *("jax_version", "software", "platform", "device"),
)


def _setting_of(record: Record) -> str:
    """All that decides a run but its seed."""
    return json.dumps([record[field] for field in _DECIDING], sort_keys=True)


_ALIKE = {
    "num_steps": "numbers of steps",
    "batch_size": "batch sizes",
    "data_digest": "data",
    "unit": "units of the loss",
    "device": "devices",
    "software": "software",
}


def _mixtures(cells: Mapping[Point, Mapping[str, Sequence[Record]]]) -> list[str]:
    """What is put together here but was not run alike."""
    notes = []
    parts = sorted({point.part for point in cells})
    if len(parts) > 1:
        notes.append(f"Several suites or sizes: {', '.join(parts)}. Each is aggregated for itself.")
    for field, words in _ALIKE.items():
        places = [
            str(point)
            for point, row in cells.items()
            if len({_comparable(record, field) for runs in row.values() for record in runs}) > 1
        ]
        if places:
            notes.append(f"Runs with different {words} are compared: {_listed('place', places)}.")
    thetas, codes = defaultdict(set), defaultdict(set)
    for row in cells.values():
        for label, runs in row.items():
            thetas[label].update(str(record["optimizer_config"].get("theta", "")) for record in runs)
            whose = label if runs[0]["provenance"] else "the baselines"
            codes[whose].update(str(record["software"].get("code", "")) for record in runs)
    notes += [f"{label} stands for different thetas at different places." for label in _mixed(thetas)]
    return [
        *notes,
        *(f"The runs of {whose} are of different versions of mulo's code." for whose in _mixed(codes)),
    ]


def _missing_labels(
    cells: Mapping[Point, Mapping[str, Sequence[Record]]], labels: Mapping[str, Iterable[str]]
) -> list[str]:
    """One note for each optimizer that has no runs somewhere; of many places the first are named."""
    points = defaultdict(list)
    for point in cells:
        points[point.part].append(point)
    counts = Counter((point.part, label) for point, row in cells.items() for label in row)
    notes = []
    for part, there in points.items():
        for label in labels[part]:
            num_missing = len(there) - counts[part, label]
            gaps = (str(point) for point in there if label not in cells[point])
            places = list(itertools.islice(gaps, _MAX_LISTED if num_missing > _MAX_LISTED else num_missing))
            if num_missing:
                more = f" and {num_missing - len(places)} more places" if num_missing > len(places) else ""
                notes.append(f"{part}: {label} has no runs for {', '.join(places)}{more}.")
    return notes


def _mixed(found: Mapping[str, set[str]]) -> list[str]:
    return [label for label, values in found.items() if len(values) > 1]


def _comparable(record: Record, field: str) -> str:
    """A field as text. The digest of code is left out of the software: each optimizer has its own."""
    value = record[field]
    if field == "software":
        value = {name: version for name, version in value.items() if name != "code"}
    return json.dumps(value, sort_keys=True)


_FEWEST = {"cpu": 3, "gpu": 5}
"""Seeds that a size has at least, to be believed."""


def _gaps(cells: Mapping[Point, Mapping[str, Sequence[Record]]]) -> list[str]:
    """The seeds and the optimizers that are missing."""
    labels, seeds = defaultdict(dict), defaultdict(set)
    for point, row in cells.items():
        for label, runs in row.items():
            labels[point.part][label] = True
            seeds[point.part].update(record["seed"] for record in runs)
    notes = _missing_labels(cells, labels)
    for point, row in cells.items():
        part = point.part
        for label, runs in row.items():
            have = {record["seed"] for record in runs}
            wanted = max(record["num_seeds"] for record in runs)
            if len(have) < wanted:
                missing = sorted(seeds[part] - have)[: wanted - len(have)]
                which = f" (missing: {_listed('seed', missing)})" if missing else ""
                found = f"{label} has {len(have)} of {wanted} seeds for {point}{which}"
                notes.append(f"{part}: {found}.")
    few = {
        point.part: _FEWEST[point.size]
        for point, row in cells.items()
        if any(run["num_seeds"] < _FEWEST.get(point.size, 0) for runs in row.values() for run in runs)
    }
    return [
        *notes,
        *(f"{part}: results of fewer seeds than the {wanted} of this size." for part, wanted in few.items()),
    ]
