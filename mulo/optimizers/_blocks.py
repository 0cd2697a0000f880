"""Large tensors in parts, one after the other: what is made on the way stays as small as a part."""

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

import jax
import numpy as np

Carry = TypeVar("Carry")


MAX_INDEX = 2**31 - 1
"""Positions along an axis are int32; a longer axis is not cut."""


class Part(Protocol):
    """Cuts one part out of an array that has the tensor's axes after `leading` others."""

    def __call__(self, x: jax.Array, leading: int = 0) -> jax.Array: ...


class Put(Protocol):
    """Writes one part into an array of the tensor's shape."""

    def __call__(self, whole: jax.Array, part: jax.Array) -> jax.Array: ...


def fold_blocks(
    body: Callable[[Carry, Part, Put], Carry], carry: Carry, shape: tuple[int, ...], block_size: int
) -> Carry:
    """Carry after `body` has seen every part of a tensor once.

    Args:
      body: (carry, part, put) -> carry. Axes of length 1 where the tensor's are longer are not cut.
      carry: before the first part.
      shape: of the tensor; of rank 1 or more.
      block_size: parameters in a part, about.

    >>> x = jax.numpy.arange(10.0).reshape(5, 2)
    >>> float(fold_blocks(lambda total, part, put: total + part(x).sum(), 0.0, x.shape, block_size=4))
    45.0
    """
    size = math.prod(shape)
    # Rows of the first axis are contiguous; where they are too large, or too few, the longest axis is cut.
    axis = 0 if size <= block_size * shape[0] else int(np.argmax(shape))
    length = min(shape[axis], max(1, block_size * shape[axis] // size))
    if shape[axis] > MAX_INDEX:
        length = shape[axis]
    num_blocks, num_rest = divmod(shape[axis], length)

    def run(carry: Carry, start: jax.Array | int, length: int) -> Carry:
        def part(x: jax.Array, leading: int = 0) -> jax.Array:
            if x.shape[axis + leading] == 1 or length == shape[axis]:
                return x
            return jax.lax.dynamic_slice_in_dim(x, start, length, axis + leading)

        def put(whole: jax.Array, part: jax.Array) -> jax.Array:
            if length == shape[axis]:
                return part
            return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis)

        return body(carry, part, put)

    if num_blocks == 1:
        carry = run(carry, 0, length)
    else:
        carry = jax.lax.fori_loop(0, num_blocks, lambda i, carry: run(carry, i * length, length), carry)
    return run(carry, num_blocks * length, num_rest) if num_rest else carry


def choose_block_size(x: jax.Array, *, on_cpu: int, elsewhere: int) -> int:
    """Parameters in a part of x: one of the two sizes, or all of x where its type says that it is sharded.

    Sharding that the type does not show (axes of the mesh of type Auto) is not seen here. XLA then
    gathers a tensor larger than a part before it is cut: right, but slower than need be.
    """
    if is_sharded(x):
        return x.size
    return on_cpu if jax.default_backend() == "cpu" else elsewhere


def is_sharded(x: jax.Array) -> bool:
    """Whether the type of x says that one of its axes is spread over devices (axes of type Explicit)."""
    return any(axis is not None for axis in jax.typeof(x).sharding.spec)
