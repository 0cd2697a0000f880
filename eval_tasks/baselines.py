"""The optimizers that learned ones are compared with, tuned and not. The table needs no JAX.

Each is one family with one protocol:

- NAME is tuned at the base of a series and used with that learning rate at all of its values: what somebody
  gets who tunes once, on a small network.
- NAME-oracle is tuned anew at each value: a bound that costs a search for every network, not a rival.

Learned optimizers of others, `RELEASED`, are not tuned.

The grid is fixed and logarithmic, with the same number of trials for every family (`eval_tasks.tuning`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from eval_tasks.tuning import DEFAULT_CENTRE

if TYPE_CHECKING:
    from eval_tasks.task import Task
    from eval_tasks.training import InnerOptimizer


class Family(NamedTuple):
    """Optimizers that differ in the learning rate only."""

    parametrization: str  # "mup" or "sp"
    function: str  # of this module: task, learning rate (or a schedule), config -> optax transform
    config: Mapping[str, Any]  # JSON values
    centre: float = DEFAULT_CENTRE  # of the learning rates that are tried
    schedule: str = "constant"  # or "cosine": down to zero over the run


_ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
FAMILIES: Mapping[str, Family] = {
    "adamw": Family("sp", "_adamw", {**_ADAM, "weight_decay": 1e-4}),
    "muadamw": Family("mup", "_adamw", {**_ADAM, "weight_decay": 1e-4}),
    "adamw-cosine": Family("sp", "_adamw", {**_ADAM, "weight_decay": 1e-4}, schedule="cosine"),
    "muadamw-cosine": Family("mup", "_adamw", {**_ADAM, "weight_decay": 1e-4}, schedule="cosine"),
    "adam": Family("sp", "_adamw", {**_ADAM, "weight_decay": 0.0}),
    "sgd": Family("sp", "_sgd", {"momentum": 0.9}, centre=6.4e-2),
    "muon": Family(
        "sp", "_muon", {"beta": 0.95, "weight_decay": 1e-4, "consistent_rms": 0.2, "adam_weight_decay": 1e-4}
    ),
    "schedule-free": Family("sp", "_schedule_free", {"b1": 0.9, "b2": 0.999, "weight_decay": 1e-4}),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """A family with its protocol."""

    family: Family
    learning_rate: float | None = None  # `None`: tuned
    tuned_at: str = ""  # "each value", "base value" (and used at all of them), or "" where not tuned


BASELINES: Mapping[str, Baseline] = {
    **{
        name + ending: Baseline(family=FAMILIES[name], tuned_at=tuned_at)
        for name in ("muadamw", "muadamw-cosine", "adamw", "adamw-cosine", "sgd", "muon", "schedule-free")
        for ending, tuned_at in (("", "base value"), ("-oracle", "each value"))
    },
    # What most people do.
    "adam-1e-3": Baseline(family=FAMILIES["adam"], learning_rate=1e-3),
}
RELEASED: Mapping[str, str] = {
    "velo": "hf://amoudgl/velo-4000/theta.state",
    "celo": "hf://amoudgl/celo/theta.state",
}
"""Learned optimizers that others have released: name -> file on the Hugging Face hub."""

DEFAULT_BASELINES = ("adamw-oracle", "adamw", "muadamw", "adam-1e-3")
"""Those that take part where none is named."""


def make_baseline(family: Family, task: "Task", num_steps: int) -> "InnerOptimizer":
    """The family's optimizer for a task and a length of the run; its setting is {"learning_rate"}."""
    from optax import contrib, cosine_decay_schedule

    from eval_tasks.training import InnerOptimizer

    make: Callable[..., Any] = globals()[family.function]

    def transform(setting: Any) -> Any:
        rate = setting["learning_rate"]
        if family.schedule == "cosine":
            rate = cosine_decay_schedule(rate, num_steps)
        return make(task, rate, family.config)

    def init(setting: Any, params: Any, num_steps: int) -> Any:
        del num_steps
        return transform(setting).init(params)

    def update(setting: Any, state: Any, grads: Any, params: Any, loss: Any) -> tuple[Any, Any]:
        del loss
        return transform(setting).update(grads, state, params)

    def averaged(setting: Any, state: Any, params: Any) -> Any:
        del setting
        return contrib.schedule_free_eval_params(state, params)

    is_averaged = family.function == _schedule_free.__name__
    return InnerOptimizer(init=init, update=update, evaluated_params=averaged if is_averaged else None)


def _adamw(task: "Task", learning_rate: Any, config: Mapping[str, Any]) -> Any:
    """Under muP the learning rate of a leaf is multiplied, and with it the whole step, weight decay too."""
    import optax

    from mulo.mup import scale_by_mup

    return optax.chain(optax.adamw(learning_rate, **config), scale_by_mup(task.mup, "adam"))


def _sgd(task: "Task", learning_rate: Any, config: Mapping[str, Any]) -> Any:
    import optax

    from mulo.mup import scale_by_mup

    return optax.chain(optax.sgd(learning_rate, **config), scale_by_mup(task.mup, "sgd"))


def _muon(task: "Task", learning_rate: Any, config: Mapping[str, Any]) -> Any:
    """Muon for the weights inside the network, Adam for its input, output and vectors.

    As its author recommends. Steps have the root mean square that Adam's have (`consistent_rms`, Liu et al.
    2025, arXiv 2502.16982), so that the two share one learning rate.
    """
    from optax import contrib

    from eval_tasks.task import infer_roles
    from mulo.mup import Role

    roles = infer_roles(task)

    def dimensions(leaf: Any, param: Any) -> Any:
        if leaf.role is not Role.HIDDEN:
            return None  # Adam
        outputs = tuple(axis for axis in range(param.ndim) if axis not in leaf.fan_in_axes)
        return contrib.MuonDimensionNumbers(reduction_axis=leaf.fan_in_axes, output_axis=outputs)

    return contrib.muon(
        learning_rate,
        muon_weight_dimension_numbers=lambda params: roles.map_leaves(dimensions, params),
        **config,
    )


def _schedule_free(task: "Task", learning_rate: Any, config: Mapping[str, Any]) -> Any:
    from optax import contrib

    del task
    return contrib.schedule_free_adamw(learning_rate, **config)
