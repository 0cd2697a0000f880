"""What decides the result of meta-training: one frozen record, refused when built. Imports no JAX."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from eval_tasks.plugins import check_task_name
from mulo.errors import InputError
from mulo.names import lookup
from mulo.optimizers import OPTIMIZERS
from mulo.optimizers.descriptions import FIELDS, MAX_SIZE, PARTS
from mulo.printing import printable

PARAMETRIZATIONS = {"mup": "maximal update parametrization", "sp": "standard parametrization"}
META_OBJECTIVES = {
    "mean_loss": "mean training loss over the truncation",
    "final_loss": "training loss at the last step of the truncation",
    "validation_loss": "mean loss on other batches, of a fifth of the training split that is not trained on",
}
LOSS_SCALES = {
    "none": "losses as they are",
    "log": "logarithm of the loss: halving it counts the same early and late",
    "initial": "loss over the loss before the first step",
}
ESTIMATORS = {
    "pes": "persistent evolution strategies: fresh perturbations at every truncation",
    "nres": "noise-reuse evolution strategies: one perturbation for each inner run",
    "es_single": "the same with all inner runs in step",
    "es": "truncated evolution strategies: biased",
    "analytic": "reverse mode through one truncation: biased",
}
ALL = "all"
"""`trained_part` of a configuration that trains all of theta."""

_RENAMED = {
    "weight_decay": "inner_weight_decay",
    "max_global_norm": "inner_max_global_norm",
    "schedule": "inner_schedule",
    "epsilon": "inner_epsilon",
}
"""Fields of learned optimizers whose names are those of the meta-optimizer or could be taken for its."""

OWN_FIELDS: Mapping[str, Mapping[str, Any]] = {
    optimizer: {_RENAMED.get(name, name): default for name, default in fields.items()}
    for optimizer, fields in FIELDS.items()
}
"""The fields of a configuration that are each learned optimizer's own, with the defaults of its class."""

_DEFAULTS = {**OWN_FIELDS, "small_fc": {**OWN_FIELDS["small_fc"], "step_mult": 0.01}}  # as muLO has it

_CAME_LATER = {
    "inner_max_global_norm": 0.0,
    "trained_part": ALL,
    "initial_theta": "",
    "decay_steps": 0.0,
    "growth": 0.0,
    "overshoot": 0.2,
    "inner_epsilon": 0.0,
}
"""Fields that runs of before do not have, with the value that says the same as leaving them out."""

_CAME_LATER_TO = {"direction_fc": {"newton_schulz": False}}
"""The same of fields that another learned optimizer had before."""


def _field(default: Any, help_text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help_text})


def _own_field(name: str, help_text: str) -> Any:
    """A field that some learned optimizers have; `None` is the optimizer's default, or no such field."""
    having = {optimizer: fields[name] for optimizer, fields in _DEFAULTS.items() if name in fields}
    (kind,) = {type(default) for default in having.values()}
    defaults = ", ".join(f"{optimizer} {json.dumps(default)}" for optimizer, default in having.items())
    return dataclasses.field(default=None, metadata={"help": f"{help_text} ({defaults})", "kind": kind})


def field_kind(field: dataclasses.Field) -> type:
    """The type of a field's values."""
    return field.metadata.get("kind", type(field.default))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaTrainConfig:
    """Everything that decides theta. Each field is a flag of `mulo-meta-train`.

    The defaults are the recipe of muLO_S (arXiv 2406.00153, appendix C). Two things differ on
    purpose: the meta-gradient is clipped before AdamW sees it (the authors' code clips AdamW's step),
    and an inner run is a whole number of truncations.

    The fields from `hidden_size` to `adam_names` belong to learned optimizers, not all to each: those that
    `optimizer` has and that are not given take its defaults, the others are `None` and cannot be given.

    Raises:
      InputError: a field has a value that cannot be used.
    """

    tasks: tuple[str, ...] = _field(
        ("mlp-w128-d3_imagenet32",), "tasks to meta-train on, such as mlp-w32-d2_digits; each gets num-pairs"
    )
    task_weights: tuple[float, ...] = _field((), "weight of each task in the meta-gradient; none = all alike")
    parametrization: str = _field("mup", "of the tasks: mup or sp")
    augmentation: float = _field(
        1.0,
        "each leaf of an inner run's parameters is rescaled by a random factor from 1/x to x; 1 = off (the "
        "authors of Celo: one factor for all leaves)",
    )
    batch_size: int = _field(4096, "examples in each inner step")
    optimizer: str = _field("small_fc", f"learned optimizer to train: {', '.join(OPTIMIZERS)}")
    hidden_size: int | None = _own_field("hidden_size", "hidden units of its network for each parameter")
    step_mult: float | None = _own_field("step_mult", "size of its steps; of small_fc in SP 0.001 is usual")
    exp_mult: float | None = _own_field("exp_mult", "weight of its magnitude output")
    scale_free: bool | None = _own_field(
        "scale_free", "its features do not depend on the scale of a tensor's gradients"
    )
    inner_max_global_norm: float | None = _own_field(
        "inner_max_global_norm", "it clips the gradients of inner steps to this norm; 0 = off"
    )
    lstm_hidden_size: int | None = _own_field("lstm_hidden_size", "units of its LSTM")
    num_banks: int | None = _own_field("num_banks", "networks that it mixes for each tensor")
    interp_mult: float | None = _own_field("interp_mult", "factor on the mixture")
    param_scale: bool | None = _own_field("param_scale", "its steps are in proportion to the tensor's size")
    learned_rate: bool | None = _own_field(
        "learned_rate", "its schedule counts; off in the first of its authors' two phases"
    )
    inner_weight_decay: float | None = _own_field("inner_weight_decay", "of inner parameters")
    decay_steps: float | None = _own_field("decay_steps", "inner runs shorter than this decay less")
    growth: float | None = _own_field(
        "growth", "how readily steps of a tensor grow unless its gradients turn around; 0 = never"
    )
    overshoot: float | None = _own_field("overshoot", "by how much they may turn around while steps grow")
    newton_schulz: bool | None = _own_field(
        "newton_schulz", "directions of matrices are made near orthogonal"
    )
    inner_epsilon: float | None = _own_field(
        "inner_epsilon", "its steps become smaller where momentum is below this share of gradients; 0 = never"
    )
    normalised: bool | None = _own_field(
        "normalised", "its directions have root mean square 1 in each tensor"
    )
    inner_schedule: str | None = _own_field(
        "inner_schedule", "of its steps over an inner run: linear, cosine or constant"
    )
    adam_names: str | None = _own_field(
        "adam_names", "last names, separated by commas, of parameters that Adam updates instead"
    )
    trained_part: str = _field(
        ALL, "part of theta that is perturbed and trained: all; for celo also mlp or scheduler"
    )
    initial_theta: str = _field(
        "", "checkpoint, run or released optimizer whose theta is the first; none = random weights"
    )
    estimator: str = _field("pes", "of the meta-gradient")
    truncation_length: int = _field(50, "inner steps between two meta-gradients")
    min_horizon: int = _field(100, "shortest inner run, in inner steps")
    max_horizon: int = _field(1000, "longest inner run; lengths are log-uniform in between")
    num_pairs: int = _field(8, "antithetic pairs of perturbed inner runs, for each task")
    pairs_per_slot: int = _field(8, "pairs advanced together; they share the position in their run")
    perturbation_std: float = _field(0.01, "standard deviation of the perturbations of theta")
    meta_objective: str = _field(
        "mean_loss", "what a truncation is judged by: mean_loss, final_loss or validation_loss"
    )
    loss_scale: str = _field("none", "none, log or initial: puts tasks of different losses on one scale")
    loss_bound: float = _field(1.5, "inner losses are clipped to this times that of guessing")
    meta_steps: int = _field(5000, "updates of theta")
    learning_rate: float = _field(3e-3, "of meta-training, at its peak")
    end_learning_rate: float = _field(1e-3, "of meta-training, after the last meta-step")
    warmup_steps: int = _field(100, "meta-steps until the peak")
    weight_decay: float = _field(1e-4, "of the meta-optimizer, AdamW")
    max_global_norm: float = _field(1.0, "meta-gradients are clipped to this norm")
    validation_tasks: tuple[str, ...] = _field(
        (), "tasks that theta is scored on, wider than those above; none = no validation"
    )
    validation_interval: int = _field(200, "meta-steps between two validations")
    validation_steps: int = _field(200, "inner steps of each validation run")
    validation_seeds: int = _field(2, "validation runs on each task")
    seed: int = _field(0, "of everything random")

    def __post_init__(self):
        """Refuses what cannot be run, before anything is compiled."""
        for field in dataclasses.fields(self):
            value = check_field(field, getattr(self, field.name))
            _check_number(field.name, value)
            object.__setattr__(self, field.name, value)
        if not self.tasks:
            raise InputError("tasks is empty; wanted at least one, such as mlp-w32-d2_digits.")
        for name in (*self.tasks, *self.validation_tasks):
            check_task_name(name)
        for name in set(self.validation_tasks) & set(self.tasks):
            raise InputError(f"validation_tasks has {name}, which is trained on; wanted a wider one.")
        self._check_weights()
        lookup(PARAMETRIZATIONS, self.parametrization, "parametrization")
        self._complete_optimizer()
        lookup(ESTIMATORS, self.estimator, "gradient estimator")
        lookup(META_OBJECTIVES, self.meta_objective, "meta-objective")
        lookup(LOSS_SCALES, self.loss_scale, "loss scale")
        if self.augmentation < 1:
            raise InputError(f"augmentation is {self.augmentation}; wanted at least 1, which is none.")
        if self.num_pairs % self.pairs_per_slot:
            raise InputError(
                f"num_pairs {self.num_pairs} is not a multiple of pairs_per_slot {self.pairs_per_slot}."
            )
        if not self.truncation_length <= self.min_horizon <= self.max_horizon:
            raise InputError(
                f"truncation_length {self.truncation_length}, min_horizon {self.min_horizon}, max_horizon "
                f"{self.max_horizon}: wanted each to be at least as large as the one before."
            )
        if self.warmup_steps > self.meta_steps:
            # A short trial of a long recipe: all of it is warm-up.
            object.__setattr__(self, "warmup_steps", self.meta_steps)

    def _complete_optimizer(self) -> None:
        """Gives the learned optimizer's fields their defaults; refuses those that it does not have."""
        name = self.optimizer
        lookup(OPTIMIZERS, name, "learned optimizer")
        for field in dataclasses.fields(self):
            if "kind" not in field.metadata:
                continue
            given = getattr(self, field.name) is not None
            if given and field.name not in OWN_FIELDS[name]:
                raise InputError(
                    f"{field.name} is given, and the learned optimizer {name} has no such field. It has: "
                    f"{', '.join(OWN_FIELDS[name])}."
                )
            if not given:
                object.__setattr__(self, field.name, _DEFAULTS[name].get(field.name))
            value = getattr(self, field.name)
            if type(value) is int and value > MAX_SIZE:
                raise InputError(f"{field.name} is {value}; wanted a whole number from 1 to {MAX_SIZE}.")
        parts = {ALL: (), **PARTS.get(name, {})}
        lookup(parts, self.trained_part, f"part of the theta of {name}")
        if self.learned_rate is False and self.trained_part != "mlp":
            raise InputError(
                f"trained_part is {self.trained_part} and learned_rate is false, with which the scheduler "
                "decides nothing; wanted trained_part mlp, or learned_rate."
            )

    def _check_weights(self) -> None:
        if len(set(self.tasks)) < len(self.tasks):
            raise InputError(f"tasks has a task twice: {', '.join(self.tasks)}. Give it a weight instead.")
        if len(self.task_weights) not in (0, len(self.tasks)):
            raise InputError(
                f"task_weights has {len(self.task_weights)} entries for {len(self.tasks)} tasks; "
                "wanted one for each, or none."
            )
        for weight in self.task_weights:
            _check_number("task_weights", weight)

    def relative_weights(self) -> tuple[float, ...]:
        """The weight of each task over the mean weight: 1 for all where none is given."""
        mean = sum(self.task_weights) / len(self.tasks)
        return tuple(w / mean for w in self.task_weights) or (1.0,) * len(self.tasks)

    def replace(self, **changes: Any) -> "MetaTrainConfig":
        """The same with other fields.

        With another learned optimizer, what is its own is as by default where the changes do not say: its
        fields, the part that is trained, and the theta to begin with. With other tasks so are their weights.

        >>> MetaTrainConfig(hidden_size=16).replace(optimizer="muvelo", step_mult=0.01).hidden_size
        4
        """
        if changes.get("optimizer", self.optimizer) != self.optimizer:
            own = [field.name for field in dataclasses.fields(self) if "kind" in field.metadata]
            changes = {**dict.fromkeys(own), "trained_part": ALL, "initial_theta": "", **changes}
        if changes.get("tasks", self.tasks) != self.tasks:
            changes = {"task_weights": (), **changes}
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, without those that the learned optimizer does not have."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def to_json(self) -> str:
        """The fields as JSON text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "MetaTrainConfig":
        """Reads what `to_json` wrote.

        Raises:
          InputError: not JSON, or not these fields; `where` names the file in the message.
        """
        try:
            fields = json.loads(text)
            lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
            return cls(**{**fields, "tasks": tuple(fields["tasks"]), **lists})
        except InputError:
            raise
        except RecursionError as error:
            raise InputError(f"{where} is not a configuration: it is nested too deeply.") from error
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            what = printable(str(error))[:300]
            raise InputError(f"{where} is not a configuration of this version of mulo: {what}") from error

    def digest(self) -> str:
        """SHA-256 of the fields, hexadecimal."""
        came_later = {**_CAME_LATER, **_CAME_LATER_TO.get(self.optimizer, {})}
        fields = {key: value for key, value in self.to_dict().items() if came_later.get(key) != value}
        canonical = json.dumps(fields, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def slots(self) -> tuple[str, ...]:
        """The task of each slot: `num_pairs / pairs_per_slot` slots for each task, in order."""
        shards = self.num_pairs // self.pairs_per_slot
        return tuple(task for task in self.tasks for _ in range(shards))

    def trained_keys(self) -> tuple[str, ...]:
        """The keys at the top of theta that are trained; none = all."""
        return PARTS.get(self.optimizer, {}).get(self.trained_part, ())

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """The learned optimizer's own fields, as its class calls them."""
        return {name: getattr(self, _RENAMED.get(name, name)) for name in FIELDS[self.optimizer]}


# fmt: off
_POSITIVE = frozenset((
    "batch_size", "hidden_size", "truncation_length", "min_horizon", "max_horizon", "num_pairs",
    "validation_interval", "validation_steps", "validation_seeds", "pairs_per_slot", "perturbation_std",
    "task_weights", "loss_bound", "meta_steps", "max_global_norm", "lstm_hidden_size", "num_banks",
))
# fmt: on


_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def check_field(field: dataclasses.Field, value: Any) -> Any:
    """The value of a field in its own type: whole numbers become floats where floats are wanted.

    Raises:
      InputError: a value of another type.
    """
    if value is None and field.default is None:
        return None
    if isinstance(field.default, tuple):
        of_text = field.name != "task_weights"
        right = isinstance(value, tuple) and all(_is_a(str if of_text else float, item) for item in value)
        wanted = f"a list of {'texts' if of_text else 'numbers'}"
        value = tuple(item if of_text else float(item) for item in value) if right else value
    else:
        kind = field_kind(field)
        right, wanted = _is_a(kind, value), _KINDS[kind]
        value = float(value) if right and kind is float else value
    if not right:
        raise InputError(f"{field.name} is {value!r}; wanted {wanted}.")
    return value


def _is_a(kind: type, value: Any) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)


def _check_number(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    low = 1 if name in _POSITIVE and isinstance(value, int) else 0
    if not math.isfinite(value) or value < low or (value == 0 and name in _POSITIVE):
        wanted = f"at least {low}" if low or name not in _POSITIVE else "above 0"
        raise InputError(f"{name} is {value}; wanted a finite number {wanted}.")
    if name == "seed" and value >= 2**32:
        raise InputError(f"seed is {value}; wanted less than 2**32.")
