"""How a leaf is stored, and the tensors that it is made of.

What an optimizer does with a tensor goes by the tensor, not by how a library stores it. A weight is a matrix
[fan_in, fan_out], whatever the order of its axes and whatever they are split into: heads, kernel positions. A
bias or a gain is a vector [n], a scalar [1]. Every position of stacked axes (layers of a scan) is a tensor of
its own. The muP record of the leaf says which axes are which; without one the shape is all that is known.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from mulo._types import Params, PyTree
from mulo.mup.roles import Role
from mulo.mup.shapes import LeafRule
from mulo.optimizers._blocks import is_sharded


def factored_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Axes (d1, d0) of the second largest and the largest length; `None` for rank 0 and 1.

    Of axes of equal length the later counts as the larger.

    >>> factored_axes((64, 3)), factored_axes((6, 6)), factored_axes((5,))
    ((1, 0), (0, 1), None)
    """
    if len(shape) < 2:
        return None
    order = sorted(range(len(shape)), key=shape.__getitem__)
    return order[-2], order[-1]


@dataclasses.dataclass(frozen=True)
class View:
    """Which axes of a leaf are which axes of its tensors."""

    shape: tuple[int, ...]  # of the leaf, as it is stored
    stacked: tuple[int, ...]  # its axes of which every position is a tensor of its own
    axes: tuple[tuple[int, ...], ...]  # for each axis of a tensor the axes of the leaf that it is made of

    @property
    def num_tensors(self) -> int:
        """How many tensors there are: none in a leaf without entries."""
        return self._length(self.stacked) if math.prod(self.shape) else 0

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Of each tensor; of rank 1 or more."""
        return tuple(self._length(axes) for axes in self.axes)

    @property
    def own_axes(self) -> tuple[int, ...]:
        """Axes of the leaf that are not stacked."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.stacked)

    @property
    def row_axes(self) -> tuple[tuple[int, ...], ...]:
        """For each axis of the factored rows the axes of the leaf that it is made of.

        Those of stacked axes first, then those of a tensor but for its largest axis. The rows of a vector are
        stored as it is.
        """
        axes = factored_axes(self.tensor_shape)
        return tuple((axis,) for axis in range(len(self.shape))) if axes is None else self._without(axes[1])

    @property
    def col_axes(self) -> tuple[tuple[int, ...], ...]:
        """The same of the columns, without the second largest axis. Those of a vector are one unused zero."""
        axes = factored_axes(self.tensor_shape)
        # Of length 1, not 0: Orbax refuses to save arrays of no size.
        return (*((axis,) for axis in self.stacked), ()) if axes is None else self._without(axes[0])

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of the factored rows of all tensors of the leaf, as they are kept."""
        return tuple(self._length(axes) for axes in self.row_axes)

    @property
    def col_shape(self) -> tuple[int, ...]:
        """The same of the columns."""
        return tuple(self._length(axes) for axes in self.col_axes)

    def split(self, x: jax.typing.ArrayLike) -> jax.Array:
        """An array stored as the leaf is -> [S, *tensor_shape], float32, of its S tensors."""
        x = jnp.asarray(x).astype(jnp.float32)
        if self._is_plain:
            return jnp.expand_dims(x, 0)
        order = (*self.stacked, *(axis for axes in self.axes for axis in axes))
        spec = None
        if is_sharded(x):  # JAX asks how axes that become one are to be sharded
            spread = jax.typeof(x).sharding
            names = [self._spread_over(axes, spread.spec) for axes in self.axes]
            spec = jax.sharding.NamedSharding(spread.mesh, jax.sharding.PartitionSpec(None, *names))
        lengths = tuple(map(self._length, (self.stacked, *self.axes)))
        return jnp.reshape(_gather(jnp.transpose(x, order), len(self.stacked)), lengths, out_sharding=spec)

    def join(self, x: jax.Array, sharding: jax.sharding.Sharding | None = None) -> jax.Array:
        """[S, *tensor_shape] -> stored as the leaf is; the reverse of `split`.

        Args:
          x: of the tensors.
          sharding: of the leaf, where its type has one.
        """
        if self._is_plain:
            return jnp.squeeze(x, 0)
        order = (*self.stacked, *(axis for axes in self.axes for axis in axes))
        back = tuple(sorted(range(len(order)), key=order.__getitem__))
        if sharding is not None:
            spec = jax.sharding.PartitionSpec(*(sharding.spec[axis] for axis in order))
            sharding = jax.sharding.NamedSharding(sharding.mesh, spec)
        stored = jnp.reshape(x, tuple(self.shape[axis] for axis in order), out_sharding=sharding)
        return jnp.transpose(stored, back)

    def split_factored(self, x: jax.Array) -> jax.Array:
        """Factored rows or columns [*stack, ...] -> [S, ...]."""
        x, rest = _gather(x, len(self.stacked)), x.shape[len(self.stacked) :]
        return jnp.reshape(x, (self.num_tensors, *rest)) if self.stacked else jnp.expand_dims(x, 0)

    def join_factored(self, x: jax.Array) -> jax.Array:
        """The reverse of `split_factored`."""
        stack = tuple(self.shape[axis] for axis in self.stacked)
        return jnp.reshape(x, (*stack, *x.shape[1:])) if self.stacked else jnp.squeeze(x, 0)

    @property
    def _is_plain(self) -> bool:
        return not self.stacked and self.axes == tuple((axis,) for axis in range(len(self.shape)))

    def _length(self, axes: tuple[int, ...]) -> int:
        return math.prod(self.shape[axis] for axis in axes)

    def _without(self, largest: int) -> tuple[tuple[int, ...], ...]:
        kept = self.axes[:largest] + self.axes[largest + 1 :]
        return (*((axis,) for axis in self.stacked), *kept)

    def _spread_over(self, axes: tuple[int, ...], spec: jax.sharding.PartitionSpec) -> object:
        """The axes of the mesh that what becomes of these axes is spread over: none where they are merged."""
        long = [axis for axis in axes if self.shape[axis] > 1]
        return spec[long[0]] if len(long) == 1 else None


def _gather(x: jax.Array, num_axes: int) -> jax.Array:
    """The array with its first axes on all devices: its tensors are computed side by side."""
    if not is_sharded(x):
        return x
    spread = jax.typeof(x).sharding
    spec = jax.sharding.PartitionSpec(*[None] * num_axes, *spread.spec[num_axes:])
    return jax.sharding.reshard(x, jax.sharding.NamedSharding(spread.mesh, spec))


def view_of(shape: tuple[int, ...], rule: LeafRule | None) -> View:
    """The tensors of a leaf.

    Without a record a leaf is one tensor with the leaf's own axes, as the references have it; of three axes
    and more, of which one at most is longer than 1, a vector.

    >>> view_of((12, 8, 4, 16), LeafRule.by_axes((12, 8, 4, 16), fan_in=(1,), stacked=(0,))).tensor_shape
    (8, 64)
    >>> view_of((64, 1, 1), None).tensor_shape, view_of((3, 3, 4, 8), None).tensor_shape
    ((64,), (3, 3, 4, 8))
    """
    if rule is None or rule.fan_in_axes is None:
        axes = tuple(range(len(shape)))
        return View(shape, (), (axes,) if _is_vector(shape, axes) else tuple((axis,) for axis in axes))
    own = tuple(axis for axis in range(len(shape)) if axis not in rule.stacked_axes)
    fan_out = tuple(axis for axis in own if axis not in rule.fan_in_axes)
    # A gain (1, 1, 32) reads as a kernel of one input.
    is_gain = rule.role not in (Role.HIDDEN, Role.OUTPUT) and len(own) > 2 and _is_vector(shape, own)
    is_matrix = bool(rule.fan_in_axes) and not is_gain
    return View(shape, rule.stacked_axes, (rule.fan_in_axes, fan_out) if is_matrix else (own,))


def _is_vector(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    return not axes or (len(axes) > 2 and sum(shape[axis] > 1 for axis in axes) <= 1)


def views_of(params: Params, mup: PyTree | None) -> list[View]:
    """The view of every leaf of `params`, in the order of the tree. mup: records, shaped like `params`."""
    inner = jax.tree.structure(params)
    return [
        view_of(tuple(jnp.shape(param)), rule)
        for param, rule in zip(inner.flatten_up_to(params), rules_of(params, mup), strict=True)
    ]


def rules_of(params: Params, mup: PyTree | None) -> list[LeafRule | None]:
    """The record of every leaf of `params`, in the order of the tree; `None` where there is none."""
    inner = jax.tree.structure(params)
    return [None] * inner.num_leaves if mup is None else inner.flatten_up_to(mup)
