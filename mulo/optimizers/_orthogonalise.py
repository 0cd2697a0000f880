"""Matrices made orthogonal, as Muon does it (https://kellerjordan.github.io/posts/muon)."""

import jax
import jax.numpy as jnp

from mulo.optimizers._blocks import is_sharded

NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
"""Coefficients of x, x x^T x and (x x^T)^2 x."""


def orthogonalise(x: jax.Array, num_iterations: int) -> jax.Array:
    """Newton-Schulz iterations on the last two axes: singular values come near 1.

    With the coefficients of Muon, which takes five of them; after fewer, small singular values stay smaller.
    x: [..., m, n] -> the same shape.

    >>> singular = jnp.linalg.svd(orthogonalise(jnp.diag(jnp.array([3.0, 1.0])), 5), compute_uv=False)
    >>> bool(jnp.all(jnp.abs(singular - 1) < 0.35))
    True
    """
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[-2] > x.shape[-1]
    x = jnp.swapaxes(x, -1, -2) if tall else x
    # No root of zero: its derivative would be NaN.
    squares = jnp.maximum(jnp.sum(jnp.square(x), axis=(-1, -2), keepdims=True), 1e-36)
    x = x / (jnp.sqrt(squares) + 1e-8)
    spread = whole = None
    if is_sharded(x):
        spread = jax.typeof(x).sharding
        spec = jax.sharding.PartitionSpec(*spread.spec[:-2], None, None)
        whole = jax.sharding.NamedSharding(spread.mesh, spec)
    for _ in range(num_iterations):
        gram = _matmul(x, jnp.swapaxes(x, -1, -2), whole)
        x = a * x + _matmul(b * gram + c * _matmul(gram, gram, whole), x, spread)
    return jnp.swapaxes(x, -1, -2) if tall else x


def orthogonalise_kernel(x: jax.Array, num_iterations: int) -> jax.Array:
    """`orthogonalise`, but of a tensor of rank 4 or more, as kernels of convolutions are, as one matrix.

    x: [..., m, n], or [*summed_over, n] of rank 4 or more -> the same shape.
    """
    if x.ndim < 4:
        return orthogonalise(x, num_iterations)
    spread = whole = None
    if is_sharded(x):  # JAX asks how axes that become one are to be sharded
        spread = jax.typeof(x).sharding
        whole = jax.sharding.NamedSharding(spread.mesh, jax.sharding.PartitionSpec(None, spread.spec[-1]))
    matrix = jnp.reshape(x, (-1, x.shape[-1]), out_sharding=whole)
    return jnp.reshape(orthogonalise(matrix, num_iterations), x.shape, out_sharding=spread)


def _matmul(x: jax.Array, y: jax.Array, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """The product; `sharding` is its own, where the types of its factors have one."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST, out_sharding=sharding)
