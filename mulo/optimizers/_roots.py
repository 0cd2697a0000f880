"""One over roots of numbers that may be next to zero, with derivatives that are finite all the same.

The derivative of x**-0.5 is infinite in float32 from about 1e-26 down, and the chain rule makes NaN of that
where it is multiplied with zero: in tensors without gradients, and in biases that are zero. Below `SMALLEST`
it counts as 0: what is divided by the root then goes on as if it were divided by a constant.
"""

import jax
import jax.numpy as jnp

SMALLEST = 1e-24
"""Of what the derivative is taken."""


@jax.custom_jvp
def inverse_root(x: jax.Array) -> jax.Array:
    """x**-0.5, of x above zero.

    >>> float(jax.grad(inverse_root)(1.0)), float(jax.grad(inverse_root)(1e-30))
    (-0.5, 0.0)
    """
    return x**-0.5


@jax.custom_jvp
def safe_rsqrt(x: jax.Array) -> jax.Array:
    """The same by `jax.lax.rsqrt`: another rounding."""
    return jax.lax.rsqrt(x)


def _derivative(x: jax.Array, root: jax.Array, tangent: jax.Array) -> jax.Array:
    counts = x > SMALLEST
    return jnp.where(counts, -0.5 * root / jnp.where(counts, x, 1.0), 0.0) * tangent


@inverse_root.defjvp
def _inverse_root_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    root = inverse_root(*primals)
    return root, _derivative(*primals, root, *tangents)


@safe_rsqrt.defjvp
def _safe_rsqrt_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    root = safe_rsqrt(*primals)
    return root, _derivative(*primals, root, *tangents)
