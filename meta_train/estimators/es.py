"""Truncated evolution strategies: each truncation is judged as if the inner run began with it.

Fresh perturbations at every truncation, and loss differences multiplied with these alone. Biased: what a
perturbation does to later truncations counts for nothing, which favours what pays soon (Wu et al. 2018,
arXiv 1803.02021). Here for comparison.
"""

from meta_train.estimators.base import EvolutionStrategy, own_perturbations, unchanged_sum

ES = EvolutionStrategy(directions=own_perturbations, next_sum=unchanged_sum, redraw=True)
