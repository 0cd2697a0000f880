"""Noise-reuse evolution strategies (Li et al. 2023, arXiv 2304.12180).

An inner run keeps one perturbation from its first truncation to its last, and every loss difference is
multiplied with it. Unbiased for the meta-loss smoothed by one perturbation a run, and without the
growing sums of PES, whose variance grows with the number of truncations.
"""

from meta_train.estimators.base import GradientEstimator

NRES = GradientEstimator(
    redraw=False,
    directions=lambda _, perturbations: perturbations,
    next_sum=lambda perturbation_sum, _: perturbation_sum,
)
