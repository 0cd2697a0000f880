"""Binds one checkpoint to optax: the learned optimizer as a gradient transformation.

What a checkpoint, a muP and a number of steps must be to one another is decided here, for the
two-line form of `mulo._stateful` too.
"""

import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mulo._types import Params, PyTree, Theta, Updates
from mulo.checkpoint_file import Checkpoint, check_theta
from mulo.errors import InputError
from mulo.loading import load
from mulo.mup import STANDARD, MuP
from mulo.mup.forms import mup_form, step_in_mup_form, to_mup_form
from mulo.optimizers._schedule import missing_num_steps
from mulo.optimizers.base import LearnedOptimizer


class TransformState(NamedTuple):
    """State of `mulo.optimizer`."""

    count: jax.Array  # [], int32: updates made, for a learning-rate schedule
    inner: PyTree  # state of the learned optimizer


def optimizer(
    source: Checkpoint | str | os.PathLike,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    mup: MuP | None = None,
    num_steps: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A trained learned optimizer as an optax transform.

    The updates are `learning_rate` times the learned step, in the dtype of each parameter, to be
    added with `optax.apply_updates`. The statistics are float32 and follow the sharding of the
    parameters. `update` needs `params`, and takes the loss as `value`, for learned optimizers that
    look at it; other extra arguments are ignored.

    Args:
      source: a checkpoint, or the name or path of one, read with `mulo.load`.
      learning_rate: factor on the learned step, or a schedule of it, a function of the number of
        updates made. 1 is the optimizer as it was meta-trained: there is nothing to tune.
      mup: which dimensions of the parameters grow with width, from `mulo.mup.infer`; or
        `mulo.mup.STANDARD`, no multipliers. A checkpoint meta-trained in standard parametrization needs
        none.
      num_steps: length of the training run in updates, for learned optimizers that plan ahead.

    Returns:
      A `GradientTransformationExtraArgs`. Its state is a NamedTuple of arrays.

    Raises:
      InputError: no such checkpoint, or its theta is not of its optimizer; `mup` or `num_steps` is missing
        where it is needed, or is no such thing. In `update`: no parameters, or the state of another kind of
        optimizer.

    >>> import mulo
    >>> learned = mulo.SmallFC(hidden_size=4)
    >>> theta = learned.init_theta(jax.random.key(0))
    >>> checkpoint = mulo.Checkpoint(optimizer=learned, theta=theta, parametrization="sp")
    >>> tx = mulo.optimizer(checkpoint)
    >>> params = {"w": jnp.ones((2, 3))}
    >>> state = tx.init(params)
    >>> updates, state = tx.update(params, state, params)
    >>> params = optax.apply_updates(params, updates)
    """
    checkpoint = resolve(source)
    mup = choose_mup(checkpoint, mup)
    check_num_steps(checkpoint.optimizer, num_steps)
    learned = checkpoint.optimizer

    def init(params: Params) -> TransformState:
        # Maps over the tree only: optax.tree.map_params calls this with a tree that has no leaves.
        return TransformState(
            count=jnp.zeros([], jnp.int32),
            inner=learned_init(learned, checkpoint.theta, params, num_steps, mup),
        )

    @functools.cache
    def inner_type() -> type:
        return type(jax.eval_shape(init, {}).inner)

    def update(
        grads: Updates, state: TransformState, params: Params | None = None, *, value: Any = None, **_: Any
    ) -> tuple[Updates, TransformState]:
        if params is None:
            raise InputError(
                "The update needs the parameters: call tx.update(grads, state, params). A learned optimizer "
                "looks at their values."
            )
        is_ours = isinstance(state, TransformState)
        found, wanted = (type(state.inner), inner_type()) if is_ours else (type(state), TransformState)
        if found is not wanted:
            raise InputError(
                f"The optimizer state is of type {found.__name__}; {learned.name} has {wanted.__name__}. "
                "Begin with state = tx.init(params); one that was saved is restored onto that."
            )
        # Behind the barrier theta is data, as it is in meta-training and in mulo.apply. As a constant it
        # would be folded into the arithmetic by the compiler, and the last bits would differ from theirs.
        theta = jax.lax.optimization_barrier(checkpoint.theta)
        updates, inner = learned_step(learned, theta, state.inner, grads, params, loss=value, mup=mup)
        factor = learning_rate(state.count) if callable(learning_rate) else learning_rate
        return _scale(updates, factor), TransformState(count=optax.safe_increment(state.count), inner=inner)

    return optax.GradientTransformationExtraArgs(init, update)


def learned_init(learned: LearnedOptimizer, theta: Theta, params: Params, num_steps: Any, mup: MuP) -> PyTree:
    """The first state of a learned optimizer for a model in either form of muP."""
    in_form, params = mup_form(mup), to_mup_form(mup, params)
    return learned.init(theta, params, num_steps, in_form.rules(params))


def learned_step(
    learned: LearnedOptimizer,
    theta: Theta,
    inner: PyTree,
    grads: Updates,
    params: Params,
    *,
    loss: Any,
    mup: MuP,
) -> tuple[Updates, PyTree]:
    """One step of a learned optimizer on a model in either form of muP."""

    def step(mup: MuP, grads: Updates, params: Params) -> tuple[Updates, PyTree]:
        return learned.update(theta, inner, grads, params, loss=loss, mup=mup.rules(params))

    return step_in_mup_form(mup, step, grads, params)


def _scale(updates: Updates, factor: jax.typing.ArrayLike) -> Updates:
    """Updates times a scalar, the product taken in float32, in the dtype that each has."""
    factor = jnp.asarray(factor).astype(jnp.float32)
    return jax.tree.map(lambda u: (u.astype(jnp.float32) * factor).astype(u.dtype), updates)


def resolve(source: Checkpoint | str | os.PathLike) -> Checkpoint:
    """The checkpoint itself, or the one of that name or path.

    Raises:
      InputError: it is none of these, there is no such checkpoint, or its theta does not fit its optimizer.
    """
    if isinstance(source, Checkpoint):
        check_theta(source)
        return source
    if isinstance(source, str | os.PathLike):
        return load(source)
    raise InputError(
        f"The optimizer was given as {type(source).__name__}; wanted the name or path of a checkpoint, or a "
        "mulo.Checkpoint. The parameters come first in mulo.init, and in tx.init with mulo.optimizer."
    )


def choose_mup(checkpoint: Checkpoint, mup: MuP | None) -> MuP:
    """The muP to run with: `mup`, or `STANDARD` for a checkpoint meta-trained in standard parametrization.

    Raises:
      InputError: `mup` is no MuP, or is missing for a checkpoint that was meta-trained under muP.
    """
    if isinstance(mup, MuP):
        return mup
    if mup is not None:
        raise InputError(
            f"mup is of type {type(mup).__name__}; wanted what mulo.mup.infer returns, or mulo.mup.STANDARD."
        )
    if checkpoint.parametrization == "mup":
        raise InputError(
            "This learned optimizer was meta-trained under muP and needs to know which dimensions grow with "
            "width: pass mup=mulo.mup.infer(params, params_at_another_width), or mup=mulo.mup.STANDARD to "
            "run it without."
        )
    return STANDARD


def check_num_steps(learned: LearnedOptimizer, num_steps: int | None) -> None:
    """Refuses a length that is no length, or none where one is needed.

    Raises:
      InputError: see there.
    """
    if num_steps is None:
        if getattr(learned, "needs_num_steps", False):
            raise missing_num_steps(learned.name)
        return
    # optax.inject_hyperparams turns numbers into arrays, whose values cannot be looked at.
    if isinstance(num_steps, jax.Array):
        return
    if isinstance(num_steps, bool) or not isinstance(num_steps, int | np.integer) or num_steps < 1:
        raise InputError(f"num_steps is {num_steps!r}; wanted a whole number of updates, at least 1.")
