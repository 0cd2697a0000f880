"""Suites: what is run, as data; and what a suite takes from the checkpoints it evaluates. Needs no JAX."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eval_tasks.data import find_data_set
from eval_tasks.models import MODELS
from eval_tasks.names import TaskName, parse_task_name
from eval_tasks.tuning import MAX_TRIALS, NUM_TRIALS
from mulo.errors import InputError
from mulo.names import lookup

AXES = ("width", "depth", "num_steps")
SIZES = {
    "smoke": "a minute on two cores",
    "cpu": "about two hours on two cores, all baselines included",
    "gpu": "the size of the paper",
}


class Point(NamedTuple):
    """What one inner run trains, and for how long."""

    task: TaskName
    num_steps: int
    batch_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One training task, and one thing about it that is varied.

    Args:
      base: the task that baselines are tuned on before they are transferred.
      num_steps: inner steps of a run, at the base.
      batch_size: examples in each step.
      axis: what is varied: "width", "depth" or "num_steps".
      values: of it, ascending; the base's own need not be among them.

    Raises:
      InputError: a number is below 1, or one of the tasks cannot be.
    """

    base: TaskName
    num_steps: int
    batch_size: int
    axis: str
    values: tuple[int, ...]

    def __post_init__(self):
        """Refuses what cannot be run."""
        lookup(dict.fromkeys(AXES), self.axis, "axis of a series")
        for field in ("num_steps", "batch_size"):
            if getattr(self, field) < 1:
                raise InputError(f"--{field.replace('_', '-')} is {getattr(self, field)}; wanted at least 1.")
        if not self.values or list(self.values) != sorted(set(self.values)) or self.values[0] < 1:
            raise InputError(
                f"A series by {self.axis} has the values {self.values}; wanted ascending numbers from 1."
            )
        for value in self.values:
            self.point(value)

    @property
    def name(self) -> str:
        """What it is called in results."""
        return f"{self.base} by {self.axis}"

    @property
    def base_value(self) -> int:
        """The value at which baselines are tuned before they are transferred."""
        return self.num_steps if self.axis == "num_steps" else getattr(self.base, self.axis)

    def point(self, value: int) -> Point:
        """What is run at one value."""
        if self.axis == "num_steps":
            return Point(self.base, value, self.batch_size)
        return Point(dataclasses.replace(self.base, **{self.axis: value}), self.num_steps, self.batch_size)

    def changed(self, **fields: Any) -> "Series":
        """With another base; where that is what is varied, the values keep their ratio to it.

        Args:
          **fields: `width`, `depth`, `data_set`, `num_steps` or `batch_size`.

        Raises:
          InputError: a value would not be whole, or cannot be run.
        """
        own = {field: fields.pop(field) for field in ("num_steps", "batch_size") if field in fields}
        values = self.values
        wanted = {**own, **fields}.get(self.axis)
        if wanted is not None:
            rest = [value for value in values if value * wanted % self.base_value]
            if rest:
                raise InputError(
                    f"{rest[0]}/{self.base_value} of the base {self.axis} {wanted} is no whole number; give "
                    "another."
                )
            values = tuple(value * wanted // self.base_value for value in values)
        return dataclasses.replace(self, base=dataclasses.replace(self.base, **fields), values=values, **own)


_BOUNDS = {"num_seeds": 10_000, "num_tuning_seeds": 10_000, "num_trials": MAX_TRIALS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """One comparison: the same optimizers on some series.

    Raises:
      InputError: a number is out of its range.
    """

    name: str
    size: str
    series: tuple[Series, ...]
    num_seeds: int
    num_tuning_seeds: int
    num_trials: int = NUM_TRIALS  # learning rates that are tried at each place where one is tuned
    seed: int = 0  # the first one
    changes: str = ""  # what was asked for in place of what the suite is defined as

    def __post_init__(self):
        """Refuses what cannot be run."""
        for field, bound in _BOUNDS.items():
            if not 1 <= getattr(self, field) <= bound:
                wanted = "at least 1" if getattr(self, field) < 1 else f"at most {bound}"
                flag = f"--{field.replace('_', '-')}"
                raise InputError(f"{flag} is {getattr(self, field)}; wanted {wanted}.")
        largest = max(self.num_seeds, self.num_tuning_seeds)
        if not 0 <= self.seed < 2**32 - largest:
            raise InputError(f"--seed is {self.seed}; wanted a whole number from 0, below 2**32.")

    def seeds(self, purpose: str) -> tuple[int, ...]:
        """The seeds of the runs made for "tune" or "evaluate"; the keys of the two differ all the same."""
        number = self.num_tuning_seeds if purpose == "tune" else self.num_seeds
        return tuple(range(self.seed, self.seed + number))


class Spec(NamedTuple):
    """A suite of one size before it is fitted to what is evaluated."""

    series: tuple[Series, ...]
    num_seeds: int
    num_tuning_seeds: int
    follows: tuple[str, ...] = ()  # of the base: taken from the checkpoints, where they say it


def _series(task: str, num_steps: int, batch_size: int, axis: str, *values: int) -> Series:
    return Series(
        base=parse_task_name(task), num_steps=num_steps, batch_size=batch_size, axis=axis, values=values
    )


_TEXT_TASK = "transformer-w256-d4-h8_tinyshakespeare-128"

SUITES: Mapping[str, Mapping[str, Spec]] = {
    "wide": {
        "smoke": Spec(
            (_series("mlp-w32-d2_digits", 200, 128, "width", 32, 128, 256, 512),), 3, 3, ("width", "depth")
        ),
        "cpu": Spec(
            (
                _series("mlp-w32-d3_digits", 500, 128, "width", 32, 128, 512, 1024),
                _series("mlp-w32-d3_cifar10-16", 500, 128, "width", 32, 128, 512, 1024),
            ),
            3, 1, ("width", "depth"),
        ),
        "gpu": Spec(
            (
                _series("mlp-w64-d3_cifar10", 1000, 4096, "width", 64, 256, 1024, 2048, 4096, 8192),
                _series("mlp-w64-d3_imagenet32", 1000, 4096, "width", 64, 256, 1024, 2048, 4096, 8192),
                _series("mlp-w64-d3_imagenet64", 1000, 4096, "width", 64, 256, 1024, 2048, 4096, 8192),
                _series(
                    "transformer-w64-d3-h4_tinyshakespeare", 1000, 128, "width", 64, 256, 1024, 2048, 3072
                ),
            ),
            5, 1, ("width", "depth"),
        ),
    },
    "deep": {
        "smoke": Spec((_series("mlp-w32-d3_digits", 100, 64, "depth", 3, 8),), 3, 1, ("width",)),
        "cpu": Spec(
            (
                _series("mlp-w64-d3_digits", 500, 128, "depth", 3, 6, 12, 16, 24),
                _series("mlp-w64-d3_cifar10-16", 500, 128, "depth", 3, 6, 12, 16, 24),
            ),
            3, 1, ("width",),
        ),
        "gpu": Spec(
            (
                _series("mlp-w128-d3_imagenet32", 1000, 4096, "depth", 3, 6, 12, 16, 32, 64),
                _series(_TEXT_TASK, 1000, 128, "depth", 4, 8, 16, 32),
            ),
            5, 1, ("width",),
        ),
    },
    "long": {
        "smoke": Spec((_series("mlp-w32-d2_digits", 100, 64, "num_steps", 100, 500),), 3, 1, ("depth",)),
        "cpu": Spec(
            (
                _series("mlp-w64-d3_digits", 400, 128, "num_steps", 400, 2000, 10000),
                _series("mlp-w64-d3_cifar10-16", 400, 128, "num_steps", 400, 2000, 10000),
            ),
            3, 1, ("depth", "num_steps"),
        ),
        "gpu": Spec(
            (
                _series("mlp-w256-d3_imagenet32", 1000, 4096, "num_steps", 1000, 5000, 25000),
                _series(_TEXT_TASK, 1000, 128, "num_steps", 1000, 5000, 25000),
            ),
            5, 1, ("depth", "num_steps"),
        ),
    },
    "arch": {
        "smoke": Spec(
            (
                _series("autoencoder-w16-d1_digits", 50, 32, "width", 32),
                _series("rnn-w16-d1_pydoc-16", 50, 8, "width", 32),
            ),
            3, 1,
        ),
        "cpu": Spec(
            (
                _series("convnet-w8-d3_cifar10-16", 200, 32, "width", 16),
                _series("resnet-w4-d3_cifar10-8", 150, 32, "width", 16),
                _series("vit-w32-d3-h4_cifar10-16", 300, 32, "width", 64),
                _series("transformer-w32-d2-h4_pydoc-32", 400, 16, "width", 128),
                _series("autoencoder-w32-d2_digits", 500, 128, "width", 256),
                _series("rnn-w32-d1_pydoc-32", 400, 16, "width", 128),
            ),
            3, 1,
        ),
        "gpu": Spec(
            (
                _series("convnet-w32-d4_imagenet32", 2000, 512, "width", 64, 256),
                _series("resnet-w16-d9_imagenet32", 2000, 512, "width", 32, 128),
                _series("vit-w64-d6-h4_imagenet32", 2000, 512, "width", 128, 512),
                _series("transformer-w128-d6-h8_tinyshakespeare-128", 2000, 128, "width", 256, 1024),
                _series("autoencoder-w64-d3_imagenet32", 2000, 512, "width", 256, 1024),
                _series("rnn-w128-d2_tinyshakespeare-128", 2000, 128, "width", 256, 1024),
            ),
            5, 1,
        ),
    },
}  # fmt: skip
"""The suites, by name and size."""


def make_suite(
    name: str, size: str, options: Mapping[str, Any], provenances: Mapping[str, Mapping[str, Any]]
) -> Suite:
    """Builds the suite called `name`.

    Args:
      name: a key of `SUITES`.
      size: a key of `SIZES`.
      options: what was given and overrides all else: of the base `width`, `depth`, `data_set`, `num_steps`,
        `batch_size`; of the suite `num_seeds`, `num_tuning_seeds`, `num_trials`, `seed`. `None` means not
        given. Series whose model is not for data of the kind of `data_set` are left out, if there are others.
      provenances: of each checkpoint, by what it is called. From the widest of its `tasks` come the fields
        of the base that the suite follows.

    Raises:
      InputError: unknown name or size; the checkpoints disagree on what was not given; or the suite cannot be
        run.
    """
    spec = lookup(lookup(SUITES, name, "suite"), size, "size of a suite")
    given = {field: value for field, value in options.items() if value is not None}
    changes = ", ".join(
        f"{field}={value}" for field, value in sorted(given.items()) if _is_new(spec, field, value)
    )
    own = ("num_seeds", "num_tuning_seeds", "num_trials", "seed")
    numbers = {"num_seeds": spec.num_seeds, "num_tuning_seeds": spec.num_tuning_seeds}
    numbers |= {field: given.pop(field) for field in own if field in given}
    for field in spec.follows:
        found = _agreed(field, provenances) if field not in given else None
        if found is not None:
            given[field] = found  # no change: the suite is defined in units of it
    series = tuple(dict.fromkeys(series.changed(**given) for series in _fitting(spec, given)))
    return Suite(name=name, size=size, series=series, changes=changes, **numbers)


def _fitting(spec: Spec, given: Mapping[str, Any]) -> Sequence[Series]:
    """The series that can have the data set that was given; all of them where none can, or none was."""
    if "data_set" not in given:
        return spec.series
    kind = find_data_set(given["data_set"]).kind
    return [series for series in spec.series if MODELS[series.base.model].data == kind] or spec.series


def _is_new(spec: Spec, field: str, value: Any) -> bool:
    """Whether a suite with this value is another one than it is defined as."""
    own = {**spec._asdict(), "num_trials": NUM_TRIALS, "seed": 0}
    if field in own:
        return own[field] != value
    bases = [one if field in ("num_steps", "batch_size") else one.base for one in spec.series]
    return any(getattr(base, field) != value for base in bases)


def _agreed(field: str, provenances: Mapping[str, Mapping[str, Any]]) -> Any:
    """What the checkpoints' widest tasks say; `None` where none says it."""
    values = {label: _widest(provenance, field) for label, provenance in provenances.items()}
    values = {label: value for label, value in values.items() if value is not None}
    if len(set(values.values())) > 1:
        said = ", ".join(f"{label}: {value}" for label, value in values.items())
        flag = "--base-width" if field == "width" else f"--{field.replace('_', '-')}"
        raise InputError(
            f"The learned optimizers were meta-trained on different tasks ({said}); give {flag}."
        )
    return next(iter(values.values()), None)


def _widest(provenance: Mapping[str, Any], field: str) -> Any:
    if field == "num_steps":  # of meta-training's longest inner runs
        horizon = (provenance.get("config") or {}).get("max_horizon")
        return horizon if type(horizon) is int and horizon > 0 else None
    names: Sequence[Any] = provenance.get("tasks") or ()
    tasks = []
    for name in names if isinstance(names, list) else ():
        try:
            tasks.append(parse_task_name(name))
        except (InputError, TypeError):  # a task of another package, or of another version
            continue
    return getattr(max(tasks, key=lambda task: task.width), field) if tasks else None
