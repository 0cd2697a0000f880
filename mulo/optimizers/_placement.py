"""Where the arrays of a state live: on the devices, and in the types, of the parameters that they are for.

What optax has of `jnp.zeros_like`, for statistics that have fewer axes than their parameter too. A sharding
can be a property of a concrete array, or of its type (axes of the mesh of type Explicit), or be seen by XLA
alone (inside `jax.jit`, axes of type Auto), or be written into a box around the array
(`flax.linen.Partitioned`, a variable of `flax.nnx`), which says what it will be.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.core.meta import AxisMetadata
from jax.sharding import NamedSharding, PartitionSpec

from mulo._types import Params, PyTree
from mulo.optimizers._blocks import is_sharded
from mulo.optimizers._views import View

Groups = tuple[tuple[int, ...], ...]
"""For each axis of a statistic, the axes of its parameter that it is made of. The others are summed over."""


def zeros_like(params: Params) -> PyTree:
    """Float32 zeros for every leaf, of its shape."""
    return jax.tree.map(_zeros, params)


def zeros_over(params: Params, views: PyTree, groups_of: Callable[[View], Groups]) -> PyTree:
    """Float32 zeros for every leaf, with other axes; boxes around a leaf say how those are sharded.

    Args:
      params: the parameters.
      views: of every leaf, shaped like `params`.
      groups_of: view of a leaf -> what the axes of its statistic are made of.
    """

    def make(node: Any, view: Any) -> Any:
        boxed = _is_box(node)
        if boxed and len(jax.tree.leaves(node)) != 1:
            return jax.tree.map(lambda x, view: _zeros_over(x, groups_of(view)), node, view)
        (x,), (view,) = jax.tree.leaves(node), jax.tree.leaves(view)
        groups = groups_of(view)
        made = jax.tree.structure(node).unflatten([_zeros_over(x, groups)])
        return _annotate(made, groups, jnp.shape(x)) if boxed else made

    return jax.tree.map(make, params, views, is_leaf=_is_box)


def varying_like(tree: PyTree, params: PyTree) -> PyTree:
    """The arrays of a tree, of a type that varies over all axes of a mesh over which a leaf of `params` does.

    In `jax.shard_map` an array that is the same on all devices has another type than one that may not be.
    """
    axes = frozenset().union(*(varying_over(x) for x in jax.tree.leaves(params)))

    def cast(x: jax.Array) -> jax.Array:
        missing = tuple(axis for axis in axes if axis not in varying_over(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def varying_over(x: Any) -> frozenset[str]:
    """The axes of a mesh over which an array may vary in `jax.shard_map`."""
    kind = jax.typeof(x)
    return kind.mat.varying if hasattr(kind, "mat") else getattr(kind, "vma", frozenset())


def _zeros(x: jax.typing.ArrayLike) -> jax.Array:
    if isinstance(x, jax.core.Tracer):
        # Not jnp.zeros_like: a constant is on one device in what a jitted `init` gives. XLA gives to what is
        # computed from x the sharding of x.
        return (x != x).astype(jnp.float32) * 0.0
    return jnp.zeros_like(x, dtype=jnp.float32)


def _zeros_over(x: jax.typing.ArrayLike, groups: Groups) -> jax.Array:
    kept, shape = [axis for group in groups for axis in group], jnp.shape(x)
    zeros = jnp.sum(_zeros(x), axis=tuple(axis for axis in range(len(shape)) if axis not in kept))
    order = sorted(kept)
    zeros = jnp.transpose(zeros, [order.index(axis) for axis in kept])
    if all(len(group) == 1 for group in groups):
        return zeros
    sharding = None
    if is_sharded(zeros):  # JAX asks how axes that become one are to be sharded
        spread = jax.typeof(x).sharding
        sharding = NamedSharding(spread.mesh, PartitionSpec(*_merge(spread.spec, groups, shape)))
    lengths = [math.prod(shape[axis] for axis in group) for group in groups]
    return jnp.reshape(zeros, lengths, out_sharding=sharding)


def _is_box(node: Any) -> bool:
    # A variable of flax.nnx is known by what it can do: the import would take a second of everybody.
    return isinstance(node, AxisMetadata) or all(
        hasattr(type(node), name) for name in ("get_metadata", "set_metadata", "replace")
    )


def _annotate(box: Any, groups: Groups, shape: tuple[int, ...]) -> Any:
    """The box with a sharding of the axes that its array now has. shape: before."""
    if isinstance(box, AxisMetadata):
        names = getattr(box, "names", None)
        return box if names is None else box.replace(names=tuple(_merge(names, groups, shape)))
    metadata = box.get_metadata()
    changed = {
        name: _merge_sharding(metadata[name], groups, shape)
        for name in ("out_sharding", "optimizer_sharding")
        if metadata.get(name) is not None
    }
    if not changed:
        return box
    (value,) = jax.tree.leaves(box)
    return box.replace(value, **changed)


def _merge_sharding(sharding: Any, groups: Groups, shape: tuple[int, ...]) -> Any:
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*_merge(sharding.spec, groups, shape)))
    if isinstance(sharding, tuple | PartitionSpec):
        return PartitionSpec(*_merge(sharding, groups, shape))
    return None  # others, as those with a layout of memory, say nothing of an array of other axes


def _merge(names: Any, groups: Groups, shape: tuple[int, ...]) -> list[Any]:
    """The name of each axis of a statistic; none where several axes of the parameter became one."""
    names = [*names, *[None] * (len(shape) - len(names))]
    long = [[axis for axis in group if shape[axis] > 1 or len(group) == 1] for group in groups]
    return [names[axes[0]] if len(axes) == 1 else None for axes in long]
