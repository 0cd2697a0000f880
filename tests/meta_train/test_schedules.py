import dataclasses
import math

import numpy as np

from meta_train.presets import PRESETS
from meta_train.schedules import draw_horizons, first_steps, steps_left

CONFIG = dataclasses.replace(
    PRESETS["quick"], truncation_length=1, min_horizon=100, max_horizon=1000, meta_steps=200_000
)


def test_horizons_are_log_uniform():
    # Counts in ten bins of equal probability; z of each, Bonferroni false alarm below 1e-4.
    lengths = np.concatenate([draw_horizons(CONFIG, slot)[1:-1] for slot in range(20)])
    counts, _ = np.histogram(lengths + 0.5, bins=np.exp(np.linspace(math.log(100), math.log(1000), 11)))
    z = (counts - len(lengths) / 10) / math.sqrt(len(lengths) * 0.1 * 0.9)
    assert len(lengths) > 8000
    assert np.abs(z).max() < 4.5


def test_horizons_are_whole_truncations_within_bounds():
    config = dataclasses.replace(PRESETS["quick"], meta_steps=3000)
    lengths = draw_horizons(config, 0)[1:] * config.truncation_length
    assert lengths.min() >= config.min_horizon
    assert lengths.max() <= config.max_horizon


def test_runs_begin_where_the_one_before_ends():
    config = dataclasses.replace(PRESETS["quick"], meta_steps=500)
    starts = first_steps(config, 2)
    assert starts[0] == 0
    begins = np.flatnonzero(starts == np.arange(500))
    assert np.array_equal(np.unique(starts), begins)
    assert np.array_equal(np.diff(begins), draw_horizons(config, 2)[: len(begins) - 1])


def test_a_run_is_as_long_as_its_horizon_and_shorter_where_it_takes_the_place_of_another():
    config = dataclasses.replace(PRESETS["quick"], meta_steps=500)
    starts, left, horizons = first_steps(config, 2), steps_left(config, 2), draw_horizons(config, 2)
    begins = np.unique(starts)
    assert np.array_equal(left[begins], horizons[: len(begins)] * config.truncation_length)
    since = (np.arange(500) - starts) * config.truncation_length
    assert np.array_equal(left, left[starts] - since)


def test_slots_do_not_begin_together_and_depend_on_the_seed():
    config = dataclasses.replace(PRESETS["quick"], meta_steps=500)
    slots = [tuple(first_steps(config, slot)) for slot in range(6)]
    assert len(set(slots)) == 6
    assert tuple(first_steps(dataclasses.replace(config, seed=1), 0)) != slots[0]


def test_more_meta_steps_do_not_change_the_first_ones():
    short, long = (dataclasses.replace(PRESETS["quick"], meta_steps=n) for n in (50, 100))
    assert np.array_equal(draw_horizons(short, 0)[1:4], draw_horizons(long, 0)[1:4])
