"""Antithetic pairs of perturbed copies of theta."""

import jax
import jax.flatten_util
import jax.numpy as jnp

from mulo.optimizers.base import Theta


def draw_perturbations(key: jax.Array, theta: Theta, num_pairs: int, std: float) -> Theta:
    """One perturbation a pair, normal with standard deviation `std`. Leaves [P, ...], float32."""
    # One draw for all leaves: every draw is code to be compiled.
    flat, unravel = jax.flatten_util.ravel_pytree(theta)
    return jax.vmap(unravel)(std * jax.random.normal(key, (num_pairs, flat.size), jnp.float32))


def perturb(theta: Theta, perturbations: Theta) -> Theta:
    """Theta + perturbation first, theta - perturbation second. Leaves [2, P, ...]."""
    return jax.tree.map(lambda t, e: jnp.stack([t[None] + e, t[None] - e]), theta, perturbations)
