"""A tree of parameters as its tensors, those of one shape computed together.

A network's compile time then does not grow with its number of layers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mulo import _tree
from mulo._types import Params, PyTree, Updates
from mulo.errors import InputError
from mulo.optimizers._accumulators import STRUCTURE, Accumulators, Decays, accumulate
from mulo.optimizers._blocks import is_sharded
from mulo.optimizers._placement import varying_over
from mulo.optimizers._views import View, rules_of, views_of

MAX_AT_ONCE = 16384
"""Tensors of up to so many parameters are computed side by side; larger ones one after the other."""

MAX_COUNT = 2**31 - 1
"""At which counts stand still."""


class Tensor(NamedTuple):
    """One tensor and its statistics, float32; or all tensors of a leaf, with a leading axis over them."""

    param: jax.Array  # [*shape], a matrix [fan_in, fan_out] where the leaf's record says so
    grad: jax.Array  # [*shape]
    accumulators: Accumulators


def take_apart(accumulators: Accumulators, grads: PyTree, params: Params, mup: PyTree | None) -> list[Tensor]:
    """The tensors of each leaf that has entries, with a leading axis, in the order of the tree.

    Args:
      accumulators: of the state.
      grads: shaped like `params`.
      params: as they are given to the optimizer.
      mup: records of the leaves, shaped like `params`; `None` without muP.

    Raises:
      InputError: `grads` or `accumulators` have not the structure and shapes of `params`.
    """
    _tree.check_same_shapes(grads, params)
    _tree.check_statistics(accumulators.second_moment, params)
    inner = jax.tree.structure(params)
    leaves = zip(
        views_of(params, mup),
        inner.flatten_up_to(params),
        inner.flatten_up_to(grads),
        _tree.split_leaves(accumulators, STRUCTURE, inner),
        strict=True,
    )
    return [
        Tensor(view.split(param), view.split(grad), _split_statistics(view, statistics))
        for view, param, grad, statistics in leaves
        if view.num_tensors
    ]


def _split_statistics(view: View, statistics: Accumulators) -> Accumulators:
    for name, vectors, shape in (
        ("rows", statistics.rows, view.row_shape),
        ("columns", statistics.cols, view.col_shape),
    ):
        if any(jnp.shape(x) != shape for x in vectors):
            raise InputError(
                f"The optimizer state was initialised with another muP: of a parameter of shape {view.shape} "
                f"its factored {name} have shape {jnp.shape(vectors[0])}; wanted {shape}. Initialise it with "
                "the muP, and the parameters, that are used for the updates."
            )
    split, split_rows = view.split, view.split_factored
    if len(view.axes) == 1:
        split_rows = split  # of a vector they are stored as it is
    return Accumulators(
        momenta=tuple(map(split, statistics.momenta)),
        second_moment=split(statistics.second_moment),
        rows=tuple(map(split_rows, statistics.rows)),
        cols=tuple(map(view.split_factored, statistics.cols)),
    )


def count_tensors(params: Params, mup: PyTree | None) -> int:
    """How many tensors there are, in leaves that have entries."""
    return sum(view.num_tensors for view in views_of(params, mup))


def for_each_tensor(
    of_leaf: Callable[[Any], Any], params: Params, mup: PyTree | None, dtype: Any
) -> np.ndarray:
    """What is said of a leaf, for each of its tensors: [N]. of_leaf: record or `None` -> number."""
    rules, counts = rules_of(params, mup), [view.num_tensors for view in views_of(params, mup)]
    return np.repeat(np.array([of_leaf(rule) for rule in rules], dtype), counts)


def flat_multipliers(params: Params, mup: PyTree | None) -> np.ndarray:
    """The factor on the learned step of each tensor, [N], float32."""
    return for_each_tensor(
        lambda rule: 1.0 if rule is None else rule.update_multiplier, params, mup, np.float32
    )


def flat_decay_multipliers(params: Params, mup: PyTree | None) -> np.ndarray:
    """The factor on the weight decay of each tensor, [N], float32: that of the user alone."""
    return for_each_tensor(lambda rule: 1.0 if rule is None else rule.lr_multiplier, params, mup, np.float32)


def put_together(
    results: Sequence[tuple[jax.Array, Accumulators]],
    accumulators: Accumulators,
    params: Params,
    mup: PyTree | None,
) -> tuple[Updates, Accumulators]:
    """Updates in each leaf's shape and dtype, and statistics.

    Args:
      results: update and statistics of the tensors of each of the leaves that `take_apart` gives.
      accumulators: before the step; leaves without entries keep theirs.
      params: as they are given to the optimizer.
      mup: as for `take_apart`.
    """
    inner, remaining = jax.tree.structure(params), iter(results)
    updates, kept = [], []
    for view, param, before in zip(
        views_of(params, mup),
        inner.flatten_up_to(params),
        _tree.split_leaves(accumulators, STRUCTURE, inner),
        strict=True,
    ):
        if view.num_tensors:
            update, after = next(remaining)
            update, after = _join_leaf(view, param, update, after, before)
            after = jax.tree.map(_of_type, after, before)
        else:
            update, after = jnp.zeros_like(param), before
        updates.append(update.astype(jnp.result_type(param)))
        kept.append(after)
    return inner.unflatten(updates), _tree.join_leaves(kept, STRUCTURE, accumulators)


def _join_leaf(
    view: View, param: Any, update: jax.Array, after: Accumulators, before: Accumulators
) -> tuple[jax.Array, Accumulators]:
    is_vector = len(view.axes) == 1
    sharding = jax.typeof(param).sharding if is_sharded(param) else None

    def join(x: jax.Array) -> jax.Array:
        return view.join(x, sharding)

    return join(update), Accumulators(
        momenta=tuple(map(join, after.momenta)),
        second_moment=join(after.second_moment),
        rows=tuple(map(join if is_vector else view.join_factored, after.rows)),
        # What is unused stays outside of the program.
        cols=before.cols if is_vector else tuple(map(view.join_factored, after.cols)),
    )


def _of_type(x: jax.Array, before: jax.Array) -> jax.Array:
    """The array with the sharding that the type of another says."""
    sharding = jax.typeof(before).sharding
    return x if jax.typeof(x).sharding == sharding else jax.sharding.reshard(x, sharding)


def update_tensors(
    fn: Callable[..., Any], leaves: Sequence[Tensor], *trees: PyTree
) -> tuple[list[Any], jax.Array]:
    """`map_tensors`, but that tensors whose gradient has no finite entry get no step.

    Args:
      fn: as for `map_tensors`; gives the update and what else there is, such as `next_statistics`.
      leaves: as `take_apart` gives them.
      trees: as for `map_tensors`.

    Returns:
      What `fn` gives, for the tensors of each leaf; how many entries of gradients were not finite, [].
    """

    def update_tensor(tensor: Tensor, *rows: Any) -> tuple[Any, jax.Array]:
        update, *others = fn(tensor, *rows)
        some, count = look_at(tensor.grad)
        return (some.astype(jnp.float32) * update, *others), count

    results = map_tensors(update_tensor, leaves, *trees)
    return [result for result, _ in results], sum_counts([count for _, count in results])


def next_statistics(decays: Decays, tensor: Tensor, grad: jax.Array) -> Accumulators:
    """Statistics of one tensor after one more gradient; the same as before where that has no finite entry.

    All that an optimizer does is to follow from these, not from others: what the compiler makes of numbers
    that are computed twice may differ in the last bit.

    Args:
      decays: see `Decays`.
      tensor: with the statistics before, and the gradient as it came.
      grad: the same gradient, bounded.
    """
    some, _ = look_at(tensor.grad)
    # Products of finite numbers with 1 and 0, exact: JAX does not map a choice over sharded tensors.
    new, old = some.astype(jnp.float32), (~some).astype(jnp.float32)
    after = accumulate(decays, tensor.accumulators, grad)
    return jax.tree.map(lambda x, before: new * x + old * before, after, tensor.accumulators)


def look_at(grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether the gradient of a tensor has a finite entry, [], bool; how many are not, [], int32."""
    finite = jnp.isfinite(grad)
    count = _count(~finite)
    return (count < grad.size if grad.size <= MAX_COUNT else jnp.any(finite)), count


def look_at_leaf(view: View, grad: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The same of the tensors of a leaf, stored as it is: [*stack] with length 1 along other axes; []."""
    finite = jnp.isfinite(grad)
    return jnp.any(finite, axis=view.own_axes, keepdims=True), _count(~finite)


def _count(these: jax.Array) -> jax.Array:
    """How many of an array are true, or `MAX_COUNT`: [], int32."""
    if these.size <= MAX_COUNT:
        return jnp.sum(these, dtype=jnp.int32)
    return sum_counts([jnp.minimum(jnp.sum(these, axis=-1, dtype=jnp.uint32), MAX_COUNT).astype(jnp.int32)])


def sum_counts(counts: Sequence[jax.Array]) -> jax.Array:
    """The sum of all counts, or `MAX_COUNT`. counts: int32 -> [], int32."""
    if not counts:
        return jnp.zeros([], jnp.int32)
    whole = jnp.concatenate([jnp.ravel(x) for x in counts])
    count = jnp.sum(whole, dtype=jnp.int32)
    return jnp.where(jnp.sum(whole.astype(jnp.float32)) < 2.0**31, count, jnp.int32(MAX_COUNT))


def add_count(total: jax.Array, count: jax.Array) -> jax.Array:
    """The sum of two counts, or `MAX_COUNT`."""
    return total + jnp.minimum(count, MAX_COUNT - total)


def map_tensors(fn: Callable[..., Any], leaves: Sequence[Tensor], *trees: PyTree) -> list[Any]:
    """What `fn` gives for each tensor, in a list over the leaves with a leading axis over their tensors.

    Args:
      fn: takes a tensor and its row of each of the trees.
      leaves: with N tensors together.
      trees: leaves [N, ...].
    """
    results: list[Any] = [None] * len(leaves)
    counts = [len(leaf.param) for leaf in leaves]
    starts = np.cumsum([0, *counts])
    for places in group_by_shape([leaf.param for leaf in leaves]):
        chosen = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in places])
        rows = jax.tree.map(lambda x, chosen=chosen: x[chosen], trees)
        together = _map_group(fn, _concatenate([leaves[i] for i in places]), *rows)
        begin = 0
        for place in places:
            end = begin + counts[place]
            results[place] = jax.tree.map(lambda x, begin=begin, end=end: x[begin:end], together)
            begin = end
    return results


def group_by_shape(leaves: Sequence[jax.Array]) -> list[tuple[int, ...]]:
    """Places of the leaves whose tensors have a shape, and what types say of devices, in common.

    >>> group_by_shape([jnp.ones((1, 2, 3)), jnp.ones((1, 4)), jnp.ones((5, 2, 3))])
    [(0, 2), (1,)]
    """
    groups: dict[Any, list[int]] = {}
    for place, leaf in enumerate(leaves):
        kind = (leaf.shape[1:], str(jax.typeof(leaf).sharding.spec), varying_over(leaf))
        groups.setdefault(kind, []).append(place)
    return [tuple(places) for places in groups.values()]


def _map_group(fn: Callable[..., Any], tensors: Tensor, *trees: PyTree) -> Any:
    """What `fn` gives for each of a group of tensors of one shape. Leaves: [G, ...]."""
    num_tensors, *shape = tensors.param.shape
    if num_tensors == 1:
        return _add_axis(fn(*jax.tree.map(lambda x: jnp.squeeze(x, 0), (tensors, *trees))))
    if math.prod(shape) <= MAX_AT_ONCE:
        return jax.vmap(fn)(tensors, *trees)
    return jax.lax.map(lambda row: fn(*row), (tensors, *trees))


def _add_axis(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.expand_dims(x, 0), tree)


def _concatenate(leaves: Sequence[Tensor]) -> Tensor:
    return leaves[0] if len(leaves) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *leaves)
