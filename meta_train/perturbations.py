"""Antithetic pairs of perturbed copies of theta."""

from collections.abc import Sequence

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


def zero_frozen(tree: Theta, trained_keys: Sequence[str]) -> Theta:
    """A tree like theta with zeros under all keys at its top but these; no keys = nothing is frozen.

    >>> zero_frozen({"mlp": jnp.ones(1), "lstm": jnp.ones(1)}, ["mlp"])["lstm"].tolist()
    [0.0]
    """
    if not trained_keys:
        return tree
    return {
        key: part if key in trained_keys else jax.tree.map(jnp.zeros_like, part) for key, part in tree.items()
    }
