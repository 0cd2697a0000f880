"""The two-line form: a state that knows its weights, its muP and its parameters."""

import os
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mulo import _inputs, _tree
from mulo._arguments import explained
from mulo._decay import decayed_leaves, is_off, scale_and_decay
from mulo._transform import at, count_past_end, learned_init, learned_step, to_length
from mulo._types import Params, PyTree, Theta, Updates
from mulo.checkpoint_file import Checkpoint
from mulo.errors import InputError
from mulo.mup import MuP
from mulo.optimizers.base import LearnedOptimizer


@flax.struct.dataclass
class OptimizerState:
    """A pytree: it goes through `jax.jit`, can be donated, and saves with `flax.serialization` and Orbax.

    A run goes on for longer as `optimizer_state.replace(num_steps=400)`, or as one that is restored onto
    `mulo.init(..., num_steps=400)`.
    """

    params: Params  # the parameters after all updates so far; its own copy
    theta: Theta  # weights of the learned optimizer; its own copy
    inner: PyTree  # state of the learned optimizer
    count: jax.Array  # [], int32: updates made
    past_end: jax.Array  # [], int32: how many of them beyond `num_steps`; 0 where there is none
    optimizer: LearnedOptimizer = flax.struct.field(pytree_node=False)
    mup: MuP = flax.struct.field(pytree_node=False)
    num_steps: int | None = flax.struct.field(pytree_node=False)  # None: as the inner state has it
    weight_decay: optax.ScalarOrSchedule = flax.struct.field(pytree_node=False)
    decayed: tuple[bool, ...] = flax.struct.field(pytree_node=False)  # for each leaf, whether it decays


@explained("mulo.init")
def init(
    params: Params,
    source: Checkpoint | str | os.PathLike,
    *,
    mup: MuP | None = None,
    num_steps: int | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: PyTree | Callable[[Params], PyTree] | None = None,
) -> OptimizerState:
    """Starts a training run.

    Args:
      params: initial parameters, a tree of floating-point arrays; copied, so that they may be donated.
      source: a checkpoint, or the name or path of one, read with `mulo.load`.
      mup: see `mulo.optimizer`.
      num_steps: see `mulo.optimizer`.
      weight_decay: see `mulo.optimizer`; the learning rate is 1, so this share of each parameter is taken
        off in every step.
      mask: see `mulo.optimizer`.

    Returns:
      The state for `mulo.apply`.

    Raises:
      InputError: a leaf is not of a floating-point dtype, no such checkpoint, its theta is not of its
        optimizer, `mup` or `num_steps` is missing where it is needed, or the parameters are others than
        `mup` is of.

    >>> import mulo
    >>> learned = mulo.SmallFC(hidden_size=4)
    >>> theta = learned.init_theta(jax.random.key(0))
    >>> checkpoint = mulo.Checkpoint(optimizer=learned, theta=theta, parametrization="sp")
    >>> optimizer_state = mulo.init({"w": jnp.ones((2, 3))}, checkpoint)
    >>> updates, optimizer_state = mulo.apply(optimizer_state, {"w": jnp.ones((2, 3))})
    >>> optimizer_state.params["w"].shape
    (2, 3)
    """
    checkpoint = _inputs.resolve(source)
    _inputs.check_rate(weight_decay, "weight_decay")
    mup = _inputs.choose_mup(checkpoint, mup)
    _inputs.check_num_steps(checkpoint.optimizer, num_steps)
    _tree.check_float_leaves(params)
    # Copied: a donated state must take with it neither the user's parameters nor the checkpoint.
    params, theta = jax.tree.map(_copy, (params, checkpoint.theta))
    traced = isinstance(num_steps, jax.core.Tracer)
    return OptimizerState(
        params=params,
        theta=theta,
        inner=learned_init(checkpoint.optimizer, theta, params, num_steps, mup),
        count=jnp.zeros([], jnp.int32),
        past_end=jnp.zeros([], jnp.int32),
        optimizer=checkpoint.optimizer,
        mup=mup,
        num_steps=None if num_steps is None or traced else int(num_steps),
        weight_decay=weight_decay,
        decayed=() if is_off(weight_decay) else decayed_leaves(mask, params),
    )


@explained("mulo.apply")
def apply(
    optimizer_state: OptimizerState, grads: PyTree, *, value: Any = None
) -> tuple[Updates, OptimizerState]:
    """One step: the same updates as those of `mulo.optimizer` at learning rate 1.

    Args:
      optimizer_state: from `init` or the last `apply`.
      grads: shaped like the parameters.
      value: scalar, the loss that `grads` are of, for learned optimizers that look at it.

    Returns:
      The updates, in the dtype of each parameter, and the next state, whose `params` are the old ones
      with the updates added as `optax.apply_updates` adds them.

    Raises:
      InputError: `grads` have not the structure and shapes of the parameters, or the state is none of `init`.
    """
    if not isinstance(optimizer_state, OptimizerState):
        raise InputError(
            f"The optimizer state is of type {type(optimizer_state).__name__}; wanted what mulo.init "
            f"returned: mulo.apply(optimizer_state, grads). {_RESTORE}"
        )
    state, params = optimizer_state, optimizer_state.params
    _inputs.check_state(state.optimizer, state.inner, params, _RESTORE)
    inner = to_length(state.optimizer, state.inner, state.num_steps)
    updates, inner = learned_step(
        state.optimizer, state.theta, inner, grads, params, loss=value, mup=state.mup
    )
    if state.decayed:
        decay = at(state.weight_decay, state.count)
        updates = scale_and_decay(updates, params, 1.0, decay, state.decayed)
    count = optax.safe_increment(state.count)
    return updates, state.replace(
        params=optax.apply_updates(params, updates),
        inner=inner,
        count=count,
        past_end=count_past_end(state.past_end, count, state.num_steps),
    )


_RESTORE = (
    "Begin with optimizer_state = mulo.init(params, ...); one that was saved is restored onto that: "
    "flax.serialization.from_state_dict(optimizer_state, saved), or restore(path, optimizer_state) of Orbax."
)


def _copy(x: jax.typing.ArrayLike) -> jax.Array:
    # With the dtype given, the copy of a Python number is not weakly typed, and `apply` compiles once.
    return jnp.array(x, dtype=jnp.result_type(x), copy=True)
