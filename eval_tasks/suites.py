"""Suites: what is varied, as data; and what a suite takes from the checkpoints that it evaluates."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from eval_tasks.names import TaskName, parse_task_name
from mulo.errors import InputError
from mulo.names import lookup


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """One comparison: the same training at several widths.

    Raises:
      InputError: a number is below 1, or a task of it cannot be.
    """

    name: str
    multiples: tuple[int, ...]  # widths, in units of the base width
    base_width: int
    depth: int
    data_set: str
    num_steps: int
    batch_size: int
    num_seeds: int
    seed: int  # the first one
    model: str = "mlp"

    def __post_init__(self):
        """Refuses what cannot be run."""
        for field in ("num_steps", "batch_size", "num_seeds"):
            if getattr(self, field) < 1:
                raise InputError(f"--{field.replace('_', '-')} is {getattr(self, field)}; wanted at least 1.")
        if not 0 <= self.seed < 2**32 - self.num_seeds:
            raise InputError(f"--seed is {self.seed}; wanted a whole number from 0, below 2**32.")
        for width in (self.base_width, *self.widths):
            self.task_name(width)

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of the networks, narrowest first."""
        return tuple(multiple * self.base_width for multiple in self.multiples)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(range(self.seed, self.seed + self.num_seeds))

    def task_name(self, width: int) -> TaskName:
        """The task at one width."""
        return TaskName(self.model, width, self.depth, self.data_set)


SUITES: Mapping[str, Mapping[str, Any]] = {
    "wide": {"multiples": (1, 4, 8, 16), "num_steps": 1000, "batch_size": 128, "num_seeds": 3, "seed": 0},
}
"""The fields of each suite that have a default; the others come from the checkpoints."""


def make_suite(name: str, options: Mapping[str, Any], provenances: Mapping[str, Mapping[str, Any]]) -> Suite:
    """Builds the suite called `name`.

    Args:
      name: a key of `SUITES`.
      options: fields of `Suite` that were given; they override all else. `None` means not given.
      provenances: of each checkpoint, by what it is called. Its `tasks` give the base width (the largest),
        and the depth and data set of that task.

    Raises:
      InputError: unknown name; the checkpoints do not say, or disagree on, what was not given; or the
        suite cannot be run.
    """
    fields = {"name": name, **lookup(SUITES, name, "suite")}
    fields.update({field: value for field, value in options.items() if value is not None})
    missing = [field for field in ("base_width", "depth", "data_set") if field not in fields]
    if missing:
        widest = {
            label: _widest_task(label, provenance, missing) for label, provenance in provenances.items()
        }
        if not widest:
            raise InputError(
                f"No learned optimizer says what to run; give {', '.join(_flag(field) for field in missing)}."
            )
        for field in missing:
            fields[field] = _agreed(field, widest)
    return Suite(**fields)


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _widest_task(label: str, provenance: Mapping[str, Any], missing: Sequence[str]) -> TaskName:
    names = provenance.get("tasks")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"The checkpoint {label} does not say which tasks it was meta-trained on; give "
            f"{', '.join(_flag(field) for field in missing)}."
        )
    return max((parse_task_name(name) for name in names), key=lambda task: task.width)


def _agreed(field: str, widest: Mapping[str, TaskName]) -> Any:
    values = {
        label: getattr(task, "width" if field == "base_width" else field) for label, task in widest.items()
    }
    if len(set(values.values())) > 1:
        said = ", ".join(f"{label}: {value}" for label, value in values.items())
        raise InputError(
            f"The learned optimizers were meta-trained on different tasks ({said}); give {_flag(field)}."
        )
    return next(iter(values.values()))
