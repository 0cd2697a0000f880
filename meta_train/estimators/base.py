"""What a gradient estimator is: when it draws, and what loss differences are multiplied with."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from mulo.optimizers.base import Theta


class GradientEstimator(NamedTuple):
    """An antithetic estimator; the functions are of perturbation sum and perturbations, leaves [P, ...]."""

    redraw: bool  # fresh perturbations at every truncation; otherwise once for each inner run
    directions: (
        Callable  # perturbation_sum before, perturbations -> what loss differences are multiplied with
    )
    next_sum: Callable  # perturbation_sum before, perturbations -> perturbation_sum after


def antithetic_gradient(differences: jax.Array, directions: Theta, std: float) -> Theta:
    """The meta-gradient of one slot.

    mean over pairs of difference * direction / (2 std^2)

    Args:
      differences: [P], float32, finite: meta-loss of the plus half less that of the minus half.
      directions: leaves [P, ...].
      std: of the perturbations.

    Returns:
      Leaves [...], shaped like theta.
    """
    weights = differences / (2 * std**2 * len(differences))
    return jax.tree.map(lambda d: (weights @ d.reshape(len(weights), -1)).reshape(d.shape[1:]), directions)
