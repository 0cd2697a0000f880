"""Decoupled weight decay, the same for both forms."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mulo._types import Params, PyTree, Updates
from mulo.errors import InputError


def is_off(weight_decay: Any) -> bool:
    """Whether there is nothing to do, and that can be told."""
    return isinstance(weight_decay, int | float) and weight_decay == 0


def decayed_leaves(mask: PyTree | Callable[[Params], PyTree] | None, params: Params) -> tuple[bool, ...]:
    """Which leaves decay, in the order of the tree.

    Args:
      mask: as of `mulo.optimizer`.
      params: the parameters.

    Raises:
      InputError: the mask is no tree of truth values in the structure of the parameters, or a prefix of it.
    """
    structure = jax.tree.structure(params)
    if mask is None:
        return (True,) * structure.num_leaves
    tree = mask(params) if callable(mask) else mask
    try:
        spread = jax.tree.map(lambda kept, part: jax.tree.map(lambda _: kept, part), tree, params)
    except ValueError as error:
        raise InputError(
            f"mask does not fit the parameters: its structure is {jax.tree.structure(tree)}, theirs is "
            f"{structure}. Wanted True or False for each parameter, or for a part of the tree, or a function "
            "that gives this."
        ) from error
    leaves = structure.flatten_up_to(spread)
    for leaf in leaves:
        if not isinstance(leaf, bool | np.bool):
            raise InputError(f"mask has {leaf!r} for a parameter; wanted True, which decays, or False.")
    return tuple(bool(leaf) for leaf in leaves)


def scale_and_decay(
    updates: Updates, params: Params, factor: Any, weight_decay: Any, decayed: tuple[bool, ...]
) -> Updates:
    """Gives factor * (update - weight_decay * parameter), taken in float32, in the dtype of each update.

    Args:
      updates: of the learned optimizer.
      params: before the step.
      factor: scalar.
      weight_decay: scalar.
      decayed: for each leaf, whether it decays; empty where none does.
    """
    factor, weight_decay = (jnp.asarray(x).astype(jnp.float32) for x in (factor, weight_decay))
    structure = jax.tree.structure(params)
    decayed = decayed or (False,) * structure.num_leaves

    def step(update: jax.Array, param: jax.Array, decays: bool) -> jax.Array:
        wide = update.astype(jnp.float32)
        if decays:
            wide -= weight_decay * jnp.asarray(param).astype(jnp.float32)
        return (wide * factor).astype(update.dtype)

    rows = zip(structure.flatten_up_to(updates), jax.tree.leaves(params), decayed, strict=True)
    return structure.unflatten([step(*row) for row in rows])
