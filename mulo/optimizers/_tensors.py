"""A tree of parameters as a list of tensors, those of one shape computed together.

A network's compile time then does not grow with its number of layers.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mulo import _tree
from mulo._types import Params, PyTree, Updates
from mulo.optimizers._accumulators import STRUCTURE, Accumulators

MAX_AT_ONCE = 16384
"""Tensors of up to so many parameters are computed side by side; larger ones one after the other."""


class Tensor(NamedTuple):
    """One tensor and its statistics, float32; a scalar as a vector of one."""

    param: jax.Array  # [*shape]
    grad: jax.Array  # [*shape]
    accumulators: Accumulators


def take_apart(accumulators: Accumulators, grads: PyTree, params: Params) -> list[Tensor]:
    """The leaves that have entries, each with its gradient and statistics, in the order of the tree.

    Raises:
      InputError: `grads` or `accumulators` have not the structure and shapes of `params`.
    """
    _tree.check_same_shapes(grads, params)
    _tree.check_statistics(accumulators.second_moment, params)
    inner = jax.tree.structure(params)
    rows = zip(
        inner.flatten_up_to(params),
        inner.flatten_up_to(grads),
        _tree.split_leaves(accumulators, STRUCTURE, inner),
        strict=True,
    )
    return [Tensor(*jax.tree.map(_at_least_vector, row)) for row in rows if jnp.size(row[0])]


def _at_least_vector(x: jax.typing.ArrayLike) -> jax.Array:
    x = jnp.asarray(x).astype(jnp.float32)
    return jnp.reshape(x, (1,)) if x.ndim == 0 else x


def count_tensors(params: Params) -> int:
    """How many leaves have entries."""
    return sum(jnp.size(leaf) > 0 for leaf in jax.tree.leaves(params))


def flat_multipliers(mup: PyTree | None, params: Params) -> jax.Array:
    """The factor on the step of each of the tensors that `take_apart` gives, [N], float32."""
    inner = jax.tree.structure(params)
    if mup is None:
        return jnp.ones(count_tensors(params), jnp.float32)
    leaves = zip(inner.flatten_up_to(params), inner.flatten_up_to(mup), strict=True)
    kept = [jnp.asarray(multiplier, jnp.float32) for leaf, multiplier in leaves if jnp.size(leaf)]
    return jnp.stack(kept) if kept else jnp.zeros(0, jnp.float32)


def put_together(
    results: Sequence[tuple[jax.Array, Accumulators]], accumulators: Accumulators, params: Params
) -> tuple[Updates, Accumulators]:
    """Updates in each leaf's shape and dtype, and statistics.

    Args:
      results: update and statistics of each of the tensors that `take_apart` gives.
      accumulators: before the step; leaves without entries keep theirs.
      params: as they are given to the optimizer.
    """
    inner, remaining = jax.tree.structure(params), iter(results)
    updates, kept = [], []
    for param, before in zip(
        inner.flatten_up_to(params), _tree.split_leaves(accumulators, STRUCTURE, inner), strict=True
    ):
        update, after = next(remaining) if jnp.size(param) else (jnp.zeros_like(param), before)
        updates.append(jnp.reshape(update, jnp.shape(param)).astype(jnp.result_type(param)))
        kept.append(jax.tree.map(lambda new, old: jnp.reshape(new, old.shape), after, before))
    return inner.unflatten(updates), _tree.join_leaves(kept, STRUCTURE, accumulators)


def map_tensors(fn: Callable[..., Any], tensors: Sequence[Tensor], *trees: PyTree) -> list[Any]:
    """What `fn` gives for each tensor.

    Args:
      fn: takes a tensor and its row of each of the trees.
      tensors: N of them.
      trees: leaves [N, ...].
    """
    results: list[Any] = [None] * len(tensors)
    for places in group_by_shape([tensor.param for tensor in tensors]):
        rows = jax.tree.map(lambda x, places=places: x[np.array(places)], trees)
        together = _map_group(fn, tensors[places[0]].param.size, _stack([tensors[i] for i in places]), *rows)
        for row, place in enumerate(places):
            results[place] = jax.tree.map(lambda x, row=row: x[row], together)
    return results


def group_by_shape(tensors: Sequence[jax.Array]) -> list[tuple[int, ...]]:
    """Places of the tensors that have a shape, and a sharding that their types show, in common.

    >>> group_by_shape([jnp.ones((2, 3)), jnp.ones(4), jnp.ones((2, 3))])
    [(0, 2), (1,)]
    """
    groups: dict[Any, list[int]] = {}
    for place, tensor in enumerate(tensors):
        kind = (tensor.shape, str(jax.typeof(tensor).sharding.spec))
        groups.setdefault(kind, []).append(place)
    return [tuple(places) for places in groups.values()]


def _map_group(fn: Callable[..., Any], size: int, *trees: PyTree) -> Any:
    """What `fn` gives for each of a group of tensors of `size` parameters. trees: leaves [G, ...]."""
    (num_tensors,) = {len(x) for x in jax.tree.leaves(trees)}
    if num_tensors == 1:
        return _stack([fn(*jax.tree.map(lambda x: jnp.squeeze(x, 0), trees))])
    if size <= MAX_AT_ONCE:
        return jax.vmap(fn)(*trees)
    return jax.lax.map(lambda row: fn(*row), trees)


def _stack(rows: Sequence[PyTree]) -> PyTree:
    """Trees of equal shapes as one tree, with a leading axis over them."""
    if len(rows) == 1:
        return jax.tree.map(lambda x: jnp.expand_dims(x, 0), rows[0])
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)
