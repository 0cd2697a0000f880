"""What a gradient estimator is, and what all estimators by antithetic pairs share."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from meta_train.objectives import loss_differences
from meta_train.perturbations import perturb
from mulo.optimizers.base import Theta

UnrollFn = Callable[[Theta], tuple[jax.Array, Any]]
"""thetas, leaves [C, P, ...] -> (meta-losses [K, C, P], whatever else the truncation leaves)."""


class GradientEstimator(Protocol):
    """The contract. `C` copies of each of the `P` inner runs of a slot are advanced together."""

    @property
    def num_copies(self) -> int:
        """C: 2 for antithetic pairs, plus half first; 1 where theta is not perturbed."""
        ...

    @property
    def redraw(self) -> bool:
        """Fresh perturbations at every truncation; otherwise once for each inner run."""
        ...

    @property
    def lockstep(self) -> bool:
        """All slots begin their inner runs together; otherwise each slot has its own horizons."""
        ...

    @property
    def differentiates(self) -> bool:
        """`estimate` differentiates through the truncation, whose inner steps are then recomputed."""
        ...

    def estimate(
        self, unroll: UnrollFn, theta: Theta, perturbation_sum: Theta, perturbations: Theta, std: float
    ) -> tuple[Theta, Theta, Any]:
        """The meta-gradient of one truncation.

        Args:
          unroll: advances all copies by one truncation; to be called once.
          theta: unperturbed.
          perturbation_sum: leaves [P, ...]: what earlier truncations of these inner runs left.
          perturbations: leaves [P, ...], normal with standard deviation `std`.
          std: see there.

        Returns:
          The gradient, shaped like theta; the next perturbation sum; what `unroll` left.
        """
        ...


class EvolutionStrategy(NamedTuple):
    """An estimator by antithetic pairs.

    gradient = mean over pairs of (meta-loss of plus - of minus) * direction / (2 std^2)
    """

    directions: Callable  # perturbation_sum before, perturbations -> what loss differences multiply
    next_sum: Callable  # perturbation_sum before, perturbations -> perturbation_sum after
    redraw: bool
    lockstep: bool = False
    num_copies: int = 2
    differentiates: bool = False

    def estimate(
        self, unroll: UnrollFn, theta: Theta, perturbation_sum: Theta, perturbations: Theta, std: float
    ) -> tuple[Theta, Theta, Any]:
        """See `GradientEstimator`."""
        meta_losses, left = unroll(perturb(theta, perturbations))
        directions = self.directions(perturbation_sum, perturbations)
        gradient = antithetic_gradient(loss_differences(meta_losses), directions, std)
        return gradient, self.next_sum(perturbation_sum, perturbations), left


def own_perturbations(perturbation_sum: Theta, perturbations: Theta) -> Theta:
    """The perturbations of this truncation alone."""
    del perturbation_sum
    return perturbations


def unchanged_sum(perturbation_sum: Theta, perturbations: Theta) -> Theta:
    """For estimators that keep no sum."""
    del perturbations
    return perturbation_sum


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
