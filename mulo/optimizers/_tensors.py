"""Tensors of one shape together, so that a network's compile time does not grow with its number of layers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mulo._types import PyTree

MAX_AT_ONCE = 16384
"""Tensors of up to so many parameters are computed side by side; larger ones one after the other."""


def group_by_shape(tensors: Sequence[jax.Array]) -> list[tuple[int, ...]]:
    """Places of the tensors that have a shape, and a sharding that their types show, in common.

    In order of first appearance; tensors without entries are in no group.

    >>> group_by_shape([jnp.ones((2, 3)), jnp.ones(4), jnp.ones((2, 3)), jnp.ones((0, 3))])
    [(0, 2), (1,)]
    """
    groups: dict[Any, list[int]] = {}
    for place, tensor in enumerate(tensors):
        if tensor.size:
            kind = (tensor.shape, str(jax.typeof(tensor).sharding.spec))
            groups.setdefault(kind, []).append(place)
    return [tuple(places) for places in groups.values()]


def stack(rows: Sequence[PyTree]) -> PyTree:
    """Trees of equal shapes as one tree, with a leading axis over them."""
    if len(rows) == 1:
        return jax.tree.map(lambda x: jnp.expand_dims(x, 0), rows[0])
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)


def unstack(tree: PyTree, num_rows: int) -> list[PyTree]:
    """The rows of what `stack` made."""
    return [jax.tree.map(lambda x, row=row: x[row], tree) for row in range(num_rows)]


def map_tensors(fn: Callable[..., PyTree], size: int, *trees: PyTree) -> PyTree:
    """What `fn` gives for each tensor of a group, stacked.

    Args:
      fn: takes what belongs to one tensor.
      size: parameters in one tensor.
      trees: arguments of `fn`, with a leading axis over the tensors.
    """
    (num_tensors,) = {len(x) for x in jax.tree.leaves(trees)}
    if num_tensors == 1:
        return stack([fn(*jax.tree.map(lambda x: jnp.squeeze(x, 0), trees))])
    if size <= MAX_AT_ONCE:
        return jax.vmap(fn)(*trees)
    return jax.lax.map(lambda row: fn(*row), trees)
