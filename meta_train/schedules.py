"""When each slot begins a new inner run: all known in advance, from the configuration alone."""

import numpy as np

from meta_train.config import MetaTrainConfig
from meta_train.estimators import ESTIMATORS


def draw_horizons(config: MetaTrainConfig, slot_index: int) -> np.ndarray:
    """Lengths of a slot's inner runs, in truncations, enough of them for all meta-steps.

    Log-uniform between `min_horizon` and `max_horizon`, rounded down to whole truncations. The first is
    cut to a random part of itself, so that slots do not begin their runs together; except for estimators
    that move all slots in step: these have the same horizons in every slot.

    Returns:
      [N], int64, each at least 1, with a sum of at least `meta_steps`.
    """
    lockstep = ESTIMATORS[config.estimator].lockstep
    stream = 0 if lockstep else slot_index
    generator = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(stream,)))
    low, high = np.log(config.min_horizon), np.log(config.max_horizon)
    lengths = np.exp(low + (high - low) * generator.random(config.meta_steps))
    truncations = np.maximum(1, lengths // config.truncation_length).astype(np.int64)
    if not lockstep:
        truncations[0] = 1 + int(generator.random() * truncations[0])
    needed = int(np.searchsorted(np.cumsum(truncations), config.meta_steps)) + 1
    return truncations[:needed]


def steps_left(config: MetaTrainConfig, slot_index: int) -> np.ndarray:
    """Inner steps from each meta-step to the end of the slot's inner run. [meta_steps], int64.

    The length of a run that begins before meta-step m: of one that is due there, and of one that takes the
    place of a lost one. The last goes beyond the last meta-step.
    """
    truncations = draw_horizons(config, slot_index)
    ends = np.repeat(np.cumsum(truncations), truncations)[: config.meta_steps]
    return (ends - np.arange(config.meta_steps)) * config.truncation_length


def first_steps(config: MetaTrainConfig, slot_index: int) -> np.ndarray:
    """The meta-step at which the slot's inner run of each meta-step began. [meta_steps], int64.

    A new run begins before meta-step m where the m-th entry is m.
    """
    truncations = draw_horizons(config, slot_index)
    starts = np.concatenate([[0], np.cumsum(truncations)[:-1]])
    return np.repeat(starts, truncations)[: config.meta_steps]
