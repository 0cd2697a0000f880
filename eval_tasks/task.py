"""A task: a network to be trained, its loss, its data and its muP."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eval_tasks.data import load_data
from eval_tasks.data.source import Batch, DataSource, draw_batch
from eval_tasks.models import make_model
from eval_tasks.models.parametrization import PARAMETRIZATIONS
from eval_tasks.names import TaskName, parse_task_name
from eval_tasks.plugins import is_plugin_task, load_plugin
from mulo.errors import InputError
from mulo.mup import STANDARD, MuP, infer
from mulo.names import lookup

DrawBatch = Callable[[Any, str, jax.Array, int], Any]
"""source, "train" or "validation", key, batch size -> batch; pure, for use inside jit."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What an optimizer is given to train.

    The functions are pure and hold no data: close over them, and pass `source` to jitted functions as
    an argument, so that the data set is not compiled in.
    """

    name: str  # as in `eval_tasks.names`
    parametrization: str  # "mup" or "sp"
    init: Callable[[jax.Array], Any]  # key -> params
    # Both: params, key, batch -> float32 [], the mean over the batch: cross entropy in nats, fraction right.
    loss: Callable[[Any, jax.Array, Any], jax.Array]
    accuracy: Callable[[Any, jax.Array, Any], jax.Array] | None  # `None` where there is nothing to count
    source: Any  # of the data sets here: a `DataSource`; of another package's task: any pytree of arrays
    mup: MuP  # `mulo.mup.STANDARD` in SP
    guessing_loss: float  # of a network that has learned nothing: log(number of classes)
    draw_batch: DrawBatch = draw_batch


def make_task(
    name: str | TaskName,
    parametrization: str,
    source: DataSource | None = None,
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
    base = dataclasses.replace(parts, width=parts.width if base_width is None else base_width)
    init, apply = _functions(parts, parametrization, source)

    def loss(params: Any, key: jax.Array, batch: Batch) -> jax.Array:
        del key  # for models with dropout
        logits = apply(params, batch.image)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch.label))

    def accuracy(params: Any, key: jax.Array, batch: Batch) -> jax.Array:
        del key
        right = jnp.argmax(apply(params, batch.image), axis=-1) == batch.label
        return jnp.mean(right.astype(jnp.float32))

    return Task(
        name=str(parts),
        parametrization=parametrization,
        init=init,
        loss=loss,
        accuracy=accuracy,
        source=source,
        mup=_infer_mup(parts, base, source) if parametrization == "mup" else STANDARD,
        guessing_loss=math.log(source.num_classes),
    )


def _make_plugin_task(name: str, parametrization: str) -> Task:
    make, argument = load_plugin(name)
    task = make(argument, parametrization)
    if not isinstance(task, Task):
        raise InputError(
            f"The function of task {name!r} returned {type(task).__name__}; wanted eval_tasks.Task."
        )
    return dataclasses.replace(task, name=name)


def _functions(parts: TaskName, parametrization: str, source: DataSource) -> tuple[Callable, Callable]:
    """(key -> params; params, images -> logits)."""
    model = make_model(
        parts.model,
        width=parts.width,
        depth=parts.depth,
        num_classes=source.num_classes,
        parametrization=parametrization,
    )
    image_shape = source.image_shape  # not `source`: a closure must not keep the arrays

    def init(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros((1, *image_shape), jnp.float32))

    return init, model.apply


def _infer_mup(target: TaskName, base: TaskName, source: DataSource) -> MuP:
    # The third width makes growth visible where target and base width are the same.
    other = dataclasses.replace(target, width=1 + max(target.width, base.width))
    inits = [_functions(parts, "mup", source)[0] for parts in (target, base, other)]
    return infer(*(jax.eval_shape(init, jax.random.key(0)) for init in inits))
