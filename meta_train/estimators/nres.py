"""Noise-reuse evolution strategies (Li et al. 2023, arXiv 2304.12180), and ES-Single.

An inner run keeps one perturbation from its first truncation to its last, and every loss difference is
multiplied with it. Unbiased for the meta-loss smoothed by one perturbation a run, and without the
growing sums of PES, whose variance grows with the number of truncations.

ES-Single (Vicol et al. 2023) has the same formula and moves all inner runs in step: at a meta-step all
are at the same place. In NRES they are spread over the horizon, so that a meta-gradient has something
of every part of it.
"""

from meta_train.estimators.base import EvolutionStrategy, own_perturbations, unchanged_sum

NRES = EvolutionStrategy(directions=own_perturbations, next_sum=unchanged_sum, redraw=False)
ES_SINGLE = NRES._replace(lockstep=True)
