"""A task: a network to be trained, its loss, its data and its muP."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eval_tasks.data import load_data
from eval_tasks.data.source import draw_batch
from eval_tasks.foreign_code import one_line_errors
from eval_tasks.models import MODELS, make_model
from eval_tasks.models.parametrization import PARAMETRIZATIONS, Model
from eval_tasks.names import TaskName, parse_task_name
from eval_tasks.objectives import OBJECTIVES, Objective
from eval_tasks.plugin_checks import check_plugin_task
from eval_tasks.plugins import is_plugin_task, load_plugin
from mulo.errors import InputError
from mulo.mup import STANDARD, Leaf, MuP, infer, residual_lr_multiplier
from mulo.names import lookup
from mulo.printing import quoted

DrawBatch = Callable[[Any, str, jax.Array, int], Any]
"""source, "train" or "validation", key, batch size -> batch; pure, for use inside jit."""


class Scores(NamedTuple):
    """How good a network is on a batch."""

    loss: jax.Array  # [], float32: mean over the batch
    accuracy: jax.Array  # [], float32: fraction right; NaN where there is nothing to count


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What an optimizer is given to train.

    The functions are pure and hold no data: close over them, and pass `source` to jitted functions as
    an argument, so that the data set is not compiled in. A batch norm uses the batch's own moments in
    `loss` and `accuracy`, so that training needs no running averages; `evaluate` uses the averages, which
    `loss_and_state` keeps.
    """

    name: str  # as in `eval_tasks.names`
    parametrization: str  # "mup" or "sp"
    init: Callable[[jax.Array], Any]  # key -> params
    # Both: params, key, batch -> float32 [], the mean over the batch: loss as in `eval_tasks.objectives`,
    # fraction right.
    loss: Callable[[Any, jax.Array, Any], jax.Array]
    accuracy: Callable[[Any, jax.Array, Any], jax.Array] | None  # `None` where there is nothing to count
    source: Any  # of the data sets here: an `eval_tasks.data.source.Source`; else any pytree of arrays
    mup: MuP  # `mulo.mup.STANDARD` in SP
    guessing_loss: float  # of a network that has learned nothing, as in `eval_tasks.objectives`
    draw_batch: DrawBatch = draw_batch
    # What follows need not be given by a task without running averages.
    init_state: Callable[[], Any] = dict  # -> state: running averages before training
    # params, state, key, batch -> loss, state after this step
    loss_and_state: Callable[[Any, Any, jax.Array, Any], tuple[jax.Array, Any]] | None = None
    # params, state, key, batch -> scores; each example is looked at by itself
    evaluate: Callable[[Any, Any, jax.Array, Any], Scores] | None = None
    # params, batch -> {layer: [B, ...] float32}, as in `eval_tasks.models.parametrization.Model`
    activations: Callable[[Any, Any], Mapping[str, jax.Array]] | None = None

    def __post_init__(self):
        """Fills in what a task without running averages leaves out."""
        if self.loss_and_state is None:
            object.__setattr__(self, "loss_and_state", self._loss_and_same_state)
        if self.evaluate is None:
            object.__setattr__(self, "evaluate", self._evaluate)

    def _loss_and_same_state(self, params: Any, state: Any, key: jax.Array, batch: Any) -> tuple:
        return self.loss(params, key, batch), state

    def _evaluate(self, params: Any, state: Any, key: jax.Array, batch: Any) -> Scores:
        del state
        right = jnp.float32(jnp.nan) if self.accuracy is None else self.accuracy(params, key, batch)
        return Scores(loss=self.loss(params, key, batch), accuracy=right)


def make_task(
    name: str | TaskName,
    parametrization: str,
    source: Any = None,
    base_width: int | None = None,
) -> Task:
    """Builds the task called `name`.

    Args:
      name: for example `mlp-w128-d3_cifar10-16`; or `NAME:ARGUMENT`, a task that another package offers under
        the entry point `mulo.tasks`: its function is called with the argument and the parametrization.
      parametrization: "mup" or "sp".
      source: its data, if already read; else it is read.
      base_width: the width that muP's Adam multipliers are relative to; by default the task's own.

    Raises:
      InputError: a wrong name, an unknown parametrization, data that cannot be read or are of another
        set, or a base width below 1.

    >>> task = make_task("mlp-w32-d2_digits", "mup")
    >>> params = task.init(jax.random.key(0))
    >>> jax.tree.leaves(task.mup.update_multipliers(params))
    [1.0, 1.0, 1.0, 0.03125, 1.0, 1.0]
    """
    lookup(PARAMETRIZATIONS, parametrization, "parametrization")
    if isinstance(name, str) and is_plugin_task(name):
        return _make_plugin_task(name, parametrization)
    parts = parse_task_name(name) if isinstance(name, str) else name
    source = load_data(parts.data_set) if source is None else source
    if source.name != parts.data_set:
        raise InputError(f"Task {parts} was given the data set {source.name!r}; wanted {parts.data_set!r}.")
    base = parts if base_width is None else dataclasses.replace(parts, width=base_width)
    objective = OBJECTIVES[MODELS[parts.model].objective]
    return Task(
        name=str(parts),
        parametrization=parametrization,
        source=source,
        mup=_infer_mup(parts, base, source) if parametrization == "mup" else STANDARD,
        guessing_loss=objective.guessing_loss(source),
        **_functions(_make_model(parts, parametrization, source), objective, objective.example(source)),
    )


def infer_roles(task: Task) -> MuP:
    """What each weight of a task's network is, in SP too; of a task of another package what its muP says."""
    if is_plugin_task(task.name):
        return task.mup
    parts = parse_task_name(task.name)
    return _infer_mup(parts, parts, task.source)


def _make_plugin_task(name: str, parametrization: str) -> Task:
    make, argument = load_plugin(name)
    what = f"The function of task {quoted(name)}"
    with one_line_errors(f"{what} fails"):
        task = make(argument, parametrization)
        is_task = isinstance(task, Task)
    if not is_task:
        raise InputError(f"{what} returned {quoted(task)}; wanted eval_tasks.Task.")
    check_plugin_task(task, f"Task {quoted(name)}", parametrization)
    return dataclasses.replace(task, name=name)


def _make_model(parts: TaskName, parametrization: str, source: Any) -> Model:
    return make_model(
        parts.model,
        width=parts.width,
        depth=parts.depth,
        heads=parts.heads,
        residual=parts.residual,
        num_outputs=OBJECTIVES[MODELS[parts.model].objective].num_outputs(source),
        parametrization=parametrization,
    )


def _functions(model: Model, objective: Objective, example: jax.ShapeDtypeStruct) -> dict[str, Callable]:
    """The functions of a task, by field; `example` stands for the inputs of one example."""

    def init(key: jax.Array) -> tuple[Any, Any]:
        return model.init(key, jnp.zeros(example.shape, example.dtype))

    def training_outputs(params: Any, state: Any, batch: Any) -> tuple[jax.Array, Any]:
        return model.apply(params, state, objective.inputs(batch), True)

    def loss_and_state(params: Any, state: Any, key: jax.Array, batch: Any) -> tuple[jax.Array, Any]:
        del key  # for models with dropout
        outputs, state = training_outputs(params, state, batch)
        return objective.loss(outputs, batch), state

    def accuracy(params: Any, key: jax.Array, batch: Any) -> jax.Array:
        del key
        return objective.accuracy(training_outputs(params, {}, batch)[0], batch)

    def evaluate(params: Any, state: Any, key: jax.Array, batch: Any) -> Scores:
        del key
        outputs, _ = model.apply(params, state, objective.inputs(batch), False)
        right = objective.accuracy(outputs, batch) if objective.accuracy else jnp.float32(jnp.nan)
        return Scores(loss=objective.loss(outputs, batch), accuracy=right)

    return {
        "init": lambda key: init(key)[0],
        "init_state": lambda: init(jax.random.key(0))[1],  # the same for every key
        "loss": lambda params, key, batch: loss_and_state(params, {}, key, batch)[0],
        "loss_and_state": loss_and_state,
        "accuracy": accuracy if objective.accuracy else None,
        "evaluate": evaluate,
        "activations": lambda params, batch: model.activations(params, objective.inputs(batch)),
    }


def _infer_mup(target: TaskName, base: TaskName, source: Any) -> MuP:
    # The third width makes growth visible where target and base width are the same.
    other = dataclasses.replace(target, width=target.width_multiple + max(target.width, base.width))
    example = OBJECTIVES[MODELS[target.model].objective].example(source)

    def shapes(parts: TaskName) -> Any:
        model = _make_model(parts, "mup", source)
        return jax.eval_shape(lambda key: model.init(key, jnp.zeros(example.shape, example.dtype))[0], key)

    key = jax.random.key(0)
    overrides = {}
    if target.residual is not None:
        factor = residual_lr_multiplier(target.depth, target.residual)
        overrides = {MODELS[target.model].branches: Leaf(lr_multiplier=factor)} if factor != 1 else {}
    return infer(*(shapes(parts) for parts in (target, base, other)), overrides=overrides)
