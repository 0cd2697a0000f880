"""Binds one checkpoint to optax: the learned optimizer as a gradient transformation."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mulo import _inputs, _tree
from mulo._arguments import explained
from mulo._decay import decayed_leaves, is_off, scale_and_decay
from mulo._types import Params, PyTree, Theta, Updates
from mulo.checkpoint_file import Checkpoint
from mulo.errors import InputError
from mulo.mup import MuP
from mulo.mup.forms import mup_form, step_in_mup_form, to_mup_form
from mulo.optimizers.base import LearnedOptimizer


class TransformState(NamedTuple):
    """State of `mulo.optimizer`."""

    count: jax.Array  # [], int32: updates made, for schedules
    past_end: jax.Array  # [], int32: how many of them beyond `num_steps`; 0 where there is none
    inner: PyTree  # state of the learned optimizer


@explained("mulo.optimizer")
def optimizer(
    source: Checkpoint | str | os.PathLike,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    mup: MuP | None = None,
    num_steps: int | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: PyTree | Callable[[Params], PyTree] | None = None,
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
      num_steps: length of the training run in updates, for learned optimizers that plan ahead. This one
        counts, also for a state that was made for another length: to go on for longer, restore it and give
        the new length of the whole run. Beyond it most of them stand still; `state.past_end` then says for
        how many updates. In `optax.MultiSteps` it is the number of updates that are made, not of the calls:
        micro-steps // every_k_schedule. With more the run ends before its plan does, unannealed.
      weight_decay: decoupled, as in `optax.adamw`: `learning_rate * weight_decay` times the parameter is
        taken off in every step; or a schedule. At the learning rate of 1 AdamW's 0.1 at 1e-3 is 1e-4 here. It
        comes beside what the learned optimizer itself decays (`DirectionFC`, `Celo2`), and has no muP
        multiplier and no plan: it is the same at every width, in either form, and to the end of the run.
      mask: which parameters decay: a tree of True and False like the parameters, or a prefix of it, or a
        function that makes one of them. All by default.

    Returns:
      A `GradientTransformationExtraArgs`. Its state is a NamedTuple of arrays: `count`, `past_end`, `inner`.
      It can be pickled where its schedules and mask can.

    Raises:
      InputError: no such checkpoint, or its theta is not of its optimizer; `mup` or `num_steps` is missing
        where it is needed, or is no such thing; a rate is negative or no number. In `init` and `update`: no
        parameters, others than `mup` is of, or the state of another kind of optimizer.

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
    checkpoint = _inputs.resolve(source)
    _inputs.check_rate(learning_rate, "learning_rate")
    _inputs.check_rate(weight_decay, "weight_decay")
    mup = _inputs.choose_mup(checkpoint, mup)
    _inputs.check_num_steps(checkpoint.optimizer, num_steps)
    bound = _Bound(
        checkpoint=checkpoint,
        learning_rate=learning_rate,
        mup=mup,
        num_steps=num_steps,
        weight_decay=weight_decay,
        mask=mask,
    )
    return optax.GradientTransformationExtraArgs(bound.init, bound.update)


@dataclasses.dataclass(frozen=True, eq=False)
class _Bound:
    """The two functions of the transform. Methods, and no closures, so that they can be pickled."""

    checkpoint: Checkpoint
    learning_rate: optax.ScalarOrSchedule
    mup: MuP
    num_steps: Any
    weight_decay: optax.ScalarOrSchedule
    mask: Any

    def init(self, params: Params) -> TransformState:
        """The state before the first update."""
        # Maps over the tree only: optax.tree.map_params calls this with a tree that has no leaves.
        learned, theta = self.checkpoint.optimizer, self.checkpoint.theta
        return TransformState(
            count=jnp.zeros([], jnp.int32),
            past_end=jnp.zeros([], jnp.int32),
            inner=learned_init(learned, theta, params, self.num_steps, self.mup),
        )

    def update(
        self,
        grads: Updates,
        state: TransformState,
        params: Params | None = None,
        *,
        value: Any = None,
        **_: Any,
    ) -> tuple[Updates, TransformState]:
        """The updates and the next state."""
        if params is None:
            raise InputError(
                "The update needs the parameters: call tx.update(grads, state, params). A learned optimizer "
                "looks at their values."
            )
        learned = self.checkpoint.optimizer
        if not isinstance(state, TransformState):
            raise InputError(
                f"The optimizer state is of type {type(state).__name__}; {learned.name} has TransformState. "
                f"{_RESTORE}"
            )
        _inputs.check_state(learned, state.inner, params, _RESTORE)
        # Behind the barrier theta is data, as it is in meta-training and in mulo.apply. As a constant it
        # would be folded into the arithmetic by the compiler, and the last bits would differ from theirs.
        theta = jax.lax.optimization_barrier(self.checkpoint.theta)
        inner = to_length(learned, state.inner, self.num_steps)
        updates, inner = learned_step(learned, theta, inner, grads, params, loss=value, mup=self.mup)
        rate, decay = (at(x, state.count) for x in (self.learning_rate, self.weight_decay))
        decayed = () if is_off(decay) else decayed_leaves(self.mask, params)
        count = optax.safe_increment(state.count)
        return scale_and_decay(updates, params, rate, decay, decayed), TransformState(
            count=count, past_end=count_past_end(state.past_end, count, self.num_steps), inner=inner
        )


_RESTORE = (
    "Begin with state = tx.init(params); one that was saved is restored onto that: "
    "flax.serialization.from_state_dict(state, saved), or restore(path, state) of Orbax."
)


def at(value: optax.ScalarOrSchedule, count: jax.Array) -> Any:
    """A scalar, or what a schedule gives after `count` updates."""
    return value(count) if callable(value) else value


def to_length(learned: LearnedOptimizer, inner: PyTree, num_steps: Any) -> PyTree:
    """The state with the length that was given, whatever the length that it was made for."""
    change = getattr(learned, "with_num_steps", None)
    return inner if num_steps is None or change is None else change(inner, num_steps)


def count_past_end(before: jax.Array, count: jax.Array, num_steps: Any) -> jax.Array:
    """How many of `count` updates lie beyond the end of the run, [], int32. before: [], the same so far."""
    if num_steps is None:
        return before
    # Zero, made of what was there: of a donated state JAX keeps what a program does not use.
    zero = jnp.minimum(before, 0)
    return jnp.maximum(zero, count - jnp.asarray(num_steps).astype(jnp.int32))


def learned_init(learned: LearnedOptimizer, theta: Theta, params: Params, num_steps: Any, mup: MuP) -> PyTree:
    """The first state of a learned optimizer for a model in either form of muP."""
    _tree.check_float_leaves(params)
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
