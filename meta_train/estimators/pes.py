"""Persistent evolution strategies (Vicol et al. 2021, arXiv 2112.13835).

Each truncation has fresh perturbations, and its loss difference is multiplied with the sum of all
perturbations since the inner run began, because all of them have led to it. Unbiased for the
smoothed meta-loss; inner runs end at the end of a truncation, so that no loss is credited to the
wrong sum (the reference's implementation drops part of the last loss of each run).
"""

import jax

from meta_train.estimators.base import EvolutionStrategy
from mulo.optimizers.base import Theta


def _sum(perturbation_sum: Theta, perturbations: Theta) -> Theta:
    return jax.tree.map(lambda total, e: total + e, perturbation_sum, perturbations)


PES = EvolutionStrategy(directions=_sum, next_sum=_sum, redraw=True)
