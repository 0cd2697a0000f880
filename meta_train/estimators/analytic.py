"""The analytic gradient: reverse mode through the inner steps of one truncation.

Without noise of perturbations and, like truncated ES, biased: nothing before the truncation depends on
theta. Over long truncations the gradient explodes where the inner dynamics are chaotic (Metz et al. 2019,
arXiv 1810.10180). For comparison, and for short truncations. Inner steps are computed again in the
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

        def meta_loss(theta: Theta) -> tuple[jax.Array, Any]:
            thetas = jax.tree.map(lambda t, e: jnp.broadcast_to(t, (1, *e.shape)), theta, perturbations)
            losses, left = unroll(thetas)
            return jnp.mean(losses), left

        gradient, left = jax.grad(meta_loss, has_aux=True)(theta)
        return gradient, perturbation_sum, left


ANALYTIC = Analytic()
