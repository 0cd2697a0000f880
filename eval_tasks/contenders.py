"""What takes part in an evaluation: baselines and learned optimizers, made alike."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from eval_tasks.baselines import BASELINES, Baseline, make_adamw
from eval_tasks.task import Task
from eval_tasks.training import InnerOptimizer
from mulo.checkpoint_file import Checkpoint, load, theta_digest


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Contender:
    """An optimizer to be evaluated."""

    label: str
    parametrization: str  # "mup" or "sp"
    config: Mapping[str, Any]  # JSON values: with the learning rate, all that decides its steps
    program: str  # contenders with the same program differ in their settings only
    make: Callable[[Task], InnerOptimizer]
    make_setting: Callable[[Sequence[float | None]], Any]  # learning rate of each run -> setting(s)
    map_settings: bool  # whether the settings have a leading axis, one for each run
    learning_rate: float | None = None  # fixed, or `None`
    tuned_at: str = ""  # "each width", "base width", or "" where not tuned
    provenance: Mapping[str, Any] | None = None  # of a learned optimizer


def make_contenders(sources: Sequence[str]) -> list[Contender]:
    """Contenders from names of baselines, names of released optimizers, and checkpoint paths.

    With no baseline among them, all baselines are added.

    Raises:
      CheckpointError: neither a baseline nor a checkpoint that can be read.
    """
    sources = list(dict.fromkeys(sources))
    names = [source for source in sources if source in BASELINES] or list(BASELINES)
    learned: list[Contender] = []
    for source in sources:
        if source not in BASELINES:
            learned.append(_learned(source, load(source), taken=[*names, *(c.label for c in learned)]))
    return [*learned, *(baseline_contender(name, BASELINES[name]) for name in names)]


def baseline_contender(name: str, baseline: Baseline) -> Contender:
    """A contender called `name`, from a baseline of the table or from one of your own."""

    def make_setting(rates: Sequence[float | None]) -> Any:
        decays = [baseline.weight_decay] * len(rates)
        return {
            "learning_rate": jnp.asarray(rates, jnp.float32),
            "weight_decay": jnp.asarray(decays, jnp.float32),
        }

    numbers = {key: getattr(baseline, key) for key in ("b1", "b2", "eps", "weight_decay")}
    return Contender(
        label=name,
        parametrization=baseline.parametrization,
        config={"name": "adamw", **numbers},
        program=f"adamw {baseline.b1} {baseline.b2} {baseline.eps}",
        make=lambda task: make_adamw(baseline, task),
        make_setting=make_setting,
        map_settings=True,
        learning_rate=baseline.learning_rate,
        tuned_at=baseline.tuned_at,
    )


def _learned(source: str, checkpoint: Checkpoint, taken: Sequence[str]) -> Contender:
    optimizer, digest = checkpoint.optimizer, theta_digest(checkpoint.theta)
    label = str(checkpoint.provenance.get("name") or _name_of(source))
    if label in taken:
        label = f"{label} ({digest[:6]})"

    def make(task: Task) -> InnerOptimizer:
        def update(theta: Any, state: Any, grads: Any, params: Any, loss: Any) -> tuple[Any, Any]:
            multipliers = task.mup.update_multipliers(params)
            return optimizer.update(theta, state, grads, params, loss, multipliers)

        return InnerOptimizer(init=optimizer.init, update=update)

    return Contender(
        label=label,
        parametrization=checkpoint.parametrization,
        config={"name": optimizer.name, **optimizer.config(), "theta": digest},
        program=f"{optimizer.name} {sorted(optimizer.config().items())}",
        make=make,
        make_setting=lambda _: checkpoint.theta,
        map_settings=False,
        provenance=checkpoint.provenance,
    )


def _name_of(source: str) -> str:
    """A released name as it is; a run directory's name; a file's name, or its folder's for `theta.mulo`."""
    path = Path(source).resolve() if Path(source).exists() else Path(source)
    return path.parent.name if path.name == "theta.mulo" else path.stem if path.is_file() else path.name
