"""The two-line form: a state that knows its weights, its muP and its parameters."""

import os
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mulo import _tree
from mulo._transform import check_num_steps, choose_mup, learned_init, learned_step, resolve
from mulo._types import Params, PyTree, Theta, Updates
from mulo.checkpoint_file import Checkpoint
from mulo.errors import InputError
from mulo.mup import MuP
from mulo.optimizers.base import LearnedOptimizer


@flax.struct.dataclass
class OptimizerState:
    """A pytree: it goes through `jax.jit`, can be donated, and saves with `flax.serialization` and Orbax."""

    params: Params  # the parameters after all updates so far; its own copy
    theta: Theta  # weights of the learned optimizer; its own copy
    inner: PyTree  # state of the learned optimizer
    optimizer: LearnedOptimizer = flax.struct.field(pytree_node=False)
    mup: MuP = flax.struct.field(pytree_node=False)


def init(
    params: Params,
    source: Checkpoint | str | os.PathLike,
    *,
    mup: MuP | None = None,
    num_steps: int | None = None,
) -> OptimizerState:
    """Starts a training run.

    Args:
      params: initial parameters, a tree of floating-point arrays; copied, so that they may be donated.
      source: a checkpoint, or the name or path of one, read with `mulo.load`.
      mup: see `mulo.optimizer`.
      num_steps: see `mulo.optimizer`.

    Returns:
      The state for `mulo.apply`.

    Raises:
      InputError: a leaf is not of a floating-point dtype, no such checkpoint, its theta is not of its
        optimizer, or `mup` or `num_steps` is missing where it is needed.

    >>> import mulo
    >>> learned = mulo.SmallFC(hidden_size=4)
    >>> theta = learned.init_theta(jax.random.key(0))
    >>> checkpoint = mulo.Checkpoint(optimizer=learned, theta=theta, parametrization="sp")
    >>> optimizer_state = mulo.init({"w": jnp.ones((2, 3))}, checkpoint)
    >>> updates, optimizer_state = mulo.apply(optimizer_state, {"w": jnp.ones((2, 3))})
    >>> optimizer_state.params["w"].shape
    (2, 3)
    """
    checkpoint = resolve(source)
    mup = choose_mup(checkpoint, mup)
    check_num_steps(checkpoint.optimizer, num_steps)
    _tree.check_float_leaves(params)
    # Copied: a donated state must take with it neither the user's parameters nor the checkpoint.
    params, theta = jax.tree.map(_copy, (params, checkpoint.theta))
    return OptimizerState(
        params=params,
        theta=theta,
        inner=learned_init(checkpoint.optimizer, theta, params, num_steps, mup),
        optimizer=checkpoint.optimizer,
        mup=mup,
    )


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
            "returned: mulo.apply(optimizer_state, grads)."
        )
    updates, inner = learned_step(
        optimizer_state.optimizer,
        optimizer_state.theta,
        optimizer_state.inner,
        grads,
        optimizer_state.params,
        loss=value,
        mup=optimizer_state.mup,
    )
    params = optax.apply_updates(optimizer_state.params, updates)
    return updates, optimizer_state.replace(params=params, inner=inner)


def _copy(x: jax.typing.ArrayLike) -> jax.Array:
    # With the dtype given, the copy of a Python number is not weakly typed, and `apply` compiles once.
    return jnp.array(x, dtype=jnp.result_type(x), copy=True)
