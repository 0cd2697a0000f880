"""What takes part in an evaluation: baselines, learned optimizers and those of others, made alike."""

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eval_tasks.baselines import BASELINES, DEFAULT_BASELINES, RELEASED, Baseline, make_baseline
from eval_tasks.code_versions import code_version
from eval_tasks.foreign_code import one_line_errors
from eval_tasks.result_lines import MAX_TEXT
from eval_tasks.sources import External, Learned, find_checkpoint, parse_source
from eval_tasks.task import Task
from eval_tasks.training import InnerOptimizer
from eval_tasks.tuning import DEFAULT_CENTRE
from eval_tasks.user_modules import import_user_module
from mulo.checkpoint_file import Checkpoint, theta_digest
from mulo.errors import InputError
from mulo.importers.hub import is_hub_name, parse_hub_name
from mulo.loading import load
from mulo.optimizers.schedules import SCHEDULES
from mulo.printing import printable


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Contender:
    """An optimizer to be evaluated."""

    label: str
    parametrization: str  # "mup" or "sp"
    config: Mapping[str, Any]  # JSON values: with the learning rate, all that decides its steps
    program: str  # contenders with the same program differ in their settings only
    make: Callable[[Task, int], InnerOptimizer]  # task, inner steps
    make_setting: Callable[[Sequence[float | None]], Any]  # learning rate of each run -> setting(s)
    map_settings: bool  # whether the settings have a leading axis, one for each run
    learning_rate: float | None = None  # fixed, or `None`
    tuned_at: str = ""  # "each value", "base value", or "" where not tuned
    centre: float = DEFAULT_CENTRE  # of the learning rates to tune over
    provenance: Mapping[str, Any] | None = None  # of a learned optimizer
    is_external: bool = False  # code of others: its errors are answered in one line
    module: str = ""  # of a learned optimizer: where its class is


def make_contenders(sources: Sequence[str]) -> list[Contender]:
    """Contenders from what `eval_tasks.sources.parse_source` takes, the learned ones first.

    With no baseline among them, `DEFAULT_BASELINES` are added.

    Raises:
      CheckpointError: not a checkpoint that can be read.
      InputError: a function that is not there, or does not return an optax transform.
    """
    parsed = [parse_source(source) for source in dict.fromkeys(sources)]
    names = [one for one in parsed if isinstance(one, str)] or list(DEFAULT_BASELINES)
    others: list[Contender] = []
    for one in parsed:
        taken = [*names, *(contender.label for contender in others)]
        if isinstance(one, Learned):
            others.append(_learned(one, load(find_checkpoint(one.path)), taken))
        elif isinstance(one, External):
            external = _external(one)
            if external.label not in taken:  # the same, written otherwise
                others.append(external)
    return [*others, *(baseline_contender(name, BASELINES[name]) for name in names)]


def _rates(rates: Sequence[float | None]) -> dict[str, jax.Array]:
    return {"learning_rate": jnp.asarray(rates, jnp.float32)}


def baseline_contender(name: str, baseline: Baseline) -> Contender:
    """A contender called `name`, from a baseline of the table or from one of your own."""
    family = baseline.family
    config = {"name": family.function.lstrip("_"), **family.config, "schedule": family.schedule}
    return Contender(
        label=name,
        parametrization=family.parametrization,
        config=config,
        program=str(sorted(config.items())),
        make=functools.partial(make_baseline, family),
        make_setting=_rates,
        map_settings=True,
        learning_rate=baseline.learning_rate,
        tuned_at=baseline.tuned_at,
        centre=family.centre,
    )


class VariantState(NamedTuple):
    """State of a learned optimizer with a schedule."""

    count: jax.Array  # [], int32: updates made
    inner: Any  # state of the learned optimizer


def _learned(source: Learned, checkpoint: Checkpoint, taken: Sequence[str]) -> Contender:
    optimizer, digest = checkpoint.optimizer, theta_digest(checkpoint.theta)
    label = printable(str(checkpoint.provenance.get("name") or _name_of(source.path)), MAX_TEXT)
    label += f"@{source.variant}" if source.variant else ""
    if label in taken:
        label = f"{label} ({digest[:6]})"
    variant: dict[str, Any] = {}
    if source.variant:
        variant = {"schedule": source.schedule, "weight_decay": source.weight_decay}
    if source.learning_rate != 1:
        variant["learning_rate"] = source.learning_rate

    def make(task: Task, num_steps: int) -> InnerOptimizer:
        def init(theta: Any, params: Any, num_steps: int) -> VariantState:
            inner = optimizer.init(theta, params, num_steps, task.mup.rules(params))
            return VariantState(jnp.zeros([], jnp.int32), inner)

        def update(theta: Any, state: VariantState, grads: Any, params: Any, loss: Any) -> tuple[Any, Any]:
            rules = task.mup.rules(params)
            updates, inner = optimizer.update(theta, state.inner, grads, params, loss, rules)
            if source.variant:
                factor = SCHEDULES[source.schedule](state.count.astype(jnp.float32) / num_steps)
                factor = source.learning_rate * factor
                updates = jax.tree.map(
                    lambda u, p: (factor * (u - source.weight_decay * p)).astype(u.dtype), updates, params
                )
            return updates, VariantState(state.count + 1, inner)

        return InnerOptimizer(init=init, update=update)

    return Contender(
        label=label,
        parametrization=checkpoint.parametrization,
        config={"name": optimizer.name, **optimizer.config(), "theta": digest, **variant},
        program=f"{optimizer.name} {sorted(optimizer.config().items())} {sorted(variant.items())}",
        make=make,
        make_setting=lambda _: checkpoint.theta,
        map_settings=False,
        module=type(optimizer).__module__,
        # NaN and infinities are no JSON.
        provenance=json.loads(json.dumps(checkpoint.provenance), parse_constant=lambda _: None),
    )


def _name_of(source: str) -> str:
    """A released name as it is; a run directory's name; a file's name, or its folder's for `theta.mulo`.

    Of a file on the hub, the repository's name without its owner's.
    """
    if is_hub_name(source):
        return parse_hub_name(source).repository.partition("/")[2]
    if source in RELEASED:
        return source
    path = Path(source).resolve() if Path(source).exists() else Path(source)
    return path.parent.name if path.name == "theta.mulo" else path.stem if path.is_file() else path.name


def _external(source: External) -> Contender:
    """A function of another package: what it is given follows from the names of its parameters.

    `learning_rate` without a default that is not given is tuned at the base value, and is a traced array;
    `num_steps` is the number of inner steps; `mup` asks for muP, and is the task's.
    """
    function, accepted = _import(source)
    needs_rate = "learning_rate" in accepted and (
        "learning_rate" not in source.arguments
        and accepted["learning_rate"].default is inspect.Parameter.empty
    )

    def make(task: Task, num_steps: int) -> InnerOptimizer:
        offered = {"num_steps": num_steps, "mup": task.mup}
        given = {**{name: value for name, value in offered.items() if name in accepted}, **source.arguments}

        def transform(setting: Any) -> optax.GradientTransformationExtraArgs:
            rate = {"learning_rate": setting["learning_rate"]} if needs_rate else {}
            made = function(**given, **rate)
            if not isinstance(made, optax.GradientTransformation):
                kind = printable(type(made).__name__, 80)
                raise InputError(
                    f"{printable(source.label, 200)} returned {kind}; wanted an optax.GradientTransformation."
                )
            return optax.with_extra_args_support(made)

        def init(setting: Any, params: Any, num_steps: int) -> Any:
            del num_steps
            return transform(setting).init(params)

        def update(setting: Any, state: Any, grads: Any, params: Any, loss: Any) -> tuple[Any, Any]:
            return transform(setting).update(grads, state, params, value=loss)

        return InnerOptimizer(init=init, update=update, evaluated_params=_averaged)

    with one_line_errors(f"{source.module}.{source.function} cannot be used"):
        config = {"name": f"{source.module}.{source.function}", **code_version(source.module)}
    config["arguments"] = repr(sorted(source.arguments.items()))
    return Contender(
        label=source.label,
        parametrization="mup" if "mup" in accepted else "sp",
        config=config,
        program=str(sorted(config.items())),
        make=make,
        make_setting=_rates if needs_rate else lambda rates: jnp.zeros(len(rates)),
        map_settings=True,
        is_external=True,
        tuned_at="base value" if needs_rate else "",
    )


def _averaged(setting: Any, state: Any, params: Any) -> Any:
    """What schedule-free optimizers are evaluated at; of others what is trained."""
    del setting
    if isinstance(state, optax.contrib.ScheduleFreeState):
        return optax.contrib.schedule_free_eval_params(state, params)
    return params


def _import(source: External) -> tuple[Callable[..., Any], Mapping[str, inspect.Parameter]]:
    what = f"{source.module}.{source.function}"
    with one_line_errors(f"{what} cannot be used"):
        function = getattr(import_user_module(source.module), source.function)
        accepted = inspect.signature(function).parameters
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in accepted.values())
    unknown = [name for name in source.arguments if name not in accepted and not takes_all]
    if unknown:
        raise InputError(
            f"{what} takes no argument {unknown[0]!r}; it takes {', '.join(accepted) or 'none'}."
        )
    return function, accepted
