"""Looks at a task of another package before it is trained on: traces its functions, and computes nothing."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from eval_tasks.foreign_code import one_line_errors
from mulo.errors import InputError
from mulo.mup import MuP
from mulo.printing import printable, quoted

if TYPE_CHECKING:
    from eval_tasks.task import Task

_FUNCTIONS = ("init", "loss", "draw_batch", "init_state", "loss_and_state", "evaluate")
_BATCH_SIZE = 2


def check_plugin_task(task: "Task", what: str, parametrization: str) -> None:
    """Refuses a task whose parts are not what `eval_tasks.Task` says they are.

    Args:
      task: as the function of the other package returned it.
      what: that function, for the error.
      parametrization: that was asked for.

    Raises:
      InputError: a part is of another kind, or one of its functions fails or returns something else.
    """
    what = printable(what, 200)
    for name in _FUNCTIONS:
        if not callable(getattr(task, name)):
            raise _wrong(what, name, getattr(task, name), "a function")
    for name in ("accuracy", "activations"):
        if getattr(task, name) is not None and not callable(getattr(task, name)):
            raise _wrong(what, name, getattr(task, name), "a function or None")
    if not isinstance(task.mup, MuP):
        raise _wrong(what, "mup", task.mup, "a mulo.mup.MuP")
    if task.parametrization != parametrization:
        raise _wrong(what, "parametrization", task.parametrization, repr(parametrization))
    _check_guess(task, what)
    with one_line_errors(f"{what} fails"):
        _trace(task, what)


def _check_guess(task: "Task", what: str) -> None:
    with one_line_errors(f"{what}: its guessing_loss is no number"):
        guess = float(task.guessing_loss)
    if not math.isfinite(guess):
        raise _wrong(what, "guessing_loss", guess, "a finite number")


def _trace(task: "Task", what: str) -> None:
    def step(key: jax.Array, source: Any) -> tuple[Any, Any, Any, Any]:
        params, state = task.init(key), task.init_state()
        batch = task.draw_batch(source, "train", key, _BATCH_SIZE)
        task.draw_batch(source, "validation", key, _BATCH_SIZE)
        loss, _ = task.loss_and_state(params, state, key, batch)
        return params, task.loss(params, key, batch), loss, task.evaluate(params, state, key, batch).loss

    params, *losses = jax.eval_shape(step, jax.random.key(0), task.source)
    leaves = jax.tree.leaves(params)
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in leaves})) or "no arrays"
        raise InputError(f"{what}: init gives parameters of {dtypes}; wanted arrays of floats.")
    for loss in losses:
        if not _is_scalar(loss):
            raise InputError(
                f"{what}: its loss is {quoted(loss)}; wanted one float, the mean over the batch."
            )


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, Mapping) and getattr(value, "shape", None) == () and (
        jnp.issubdtype(value.dtype, jnp.floating)
    )  # fmt: skip


def _wrong(what: str, field: str, found: Any, wanted: str) -> InputError:
    return InputError(f"{what}: its {field} is {quoted(found)}; wanted {wanted}.")
