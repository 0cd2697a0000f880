"""The analytic gradient: reverse mode through the inner steps of one truncation.

Without noise of perturbations and, like truncated ES, biased: nothing before the truncation depends on
theta. Over long truncations the gradient explodes where the inner dynamics are chaotic (Metz et al. 2019,
arXiv 1810.10180); an inner run whose gradient is not finite counts as zero, as one does whose losses are
clipped. For comparison, and for short truncations. Inner steps are computed again in the
backward pass, so that memory holds one state a step and nothing inside of it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from meta_train.estimators.base import UnrollFn
from mulo.optimizers.base import Theta


class Analytic(NamedTuple):
    """The mean over `P` unperturbed inner runs; see `GradientEstimator`."""

    num_copies: int = 1
    redraw: bool = True
    lockstep: bool = False
    differentiates: bool = True

    def estimate(
        self, unroll: UnrollFn, theta: Theta, perturbation_sum: Theta, perturbations: Theta, std: float
    ) -> tuple[Theta, Theta, Any]:
        """See `GradientEstimator`; perturbations are not used."""
        del std

        def sum_of_means(thetas: Theta) -> tuple[jax.Array, Any]:
            losses, left = unroll(thetas)
            return jnp.sum(jnp.mean(losses, axis=0)), left

        # A theta for each run, [1, P, ...], so that each run has a gradient of its own.
        thetas = jax.tree.map(lambda t, e: jnp.broadcast_to(t, (1, *e.shape)), theta, perturbations)
        gradients, left = jax.grad(sum_of_means, has_aux=True)(thetas)
        gradients = jax.tree.map(lambda g: g[0], gradients)
        return _mean_of_finite(gradients), perturbation_sum, left


def _mean_of_finite(gradients: Theta) -> Theta:
    """Mean over runs; those with an entry that is not finite count as zero. Leaves [P, ...] -> [...]."""

    def over_entries(leaf: jax.Array) -> jax.Array:
        return jnp.all(jnp.isfinite(leaf.reshape(len(leaf), -1)), axis=1)

    finite = jnp.all(jnp.stack([over_entries(leaf) for leaf in jax.tree.leaves(gradients)]), axis=0)
    return jax.tree.map(
        lambda g: jnp.mean(jnp.where(finite.reshape(-1, *[1] * (g.ndim - 1)), g, 0.0), axis=0), gradients
    )


ANALYTIC = Analytic()
