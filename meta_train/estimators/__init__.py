"""The table of gradient estimators; `meta_train.config.ESTIMATORS` says in words what each name is."""

from collections.abc import Mapping

from meta_train.estimators.analytic import ANALYTIC as ANALYTIC
from meta_train.estimators.base import GradientEstimator as GradientEstimator
from meta_train.estimators.base import antithetic_gradient as antithetic_gradient
from meta_train.estimators.es import ES as ES
from meta_train.estimators.nres import ES_SINGLE as ES_SINGLE
from meta_train.estimators.nres import NRES as NRES
from meta_train.estimators.pes import PES as PES

ESTIMATORS: Mapping[str, GradientEstimator] = {
    "pes": PES,
    "nres": NRES,
    "es_single": ES_SINGLE,
    "es": ES,
    "analytic": ANALYTIC,
}
