import dataclasses

import numpy as np
import pytest

from meta_train.executors.messages import SlotResult
from meta_train.meta_update import UpdateStatistics
from meta_train.presets import PRESETS
from meta_train.records import make_record
from meta_train.slot import SlotStatistics

CONFIG = dataclasses.replace(
    PRESETS["quick"],
    tasks=("mlp-w8-d1_digits", "mlp-w16-d1_digits"),
    num_pairs=2,
    pairs_per_slot=1,
    truncation_length=5,
)


def record(config):
    """Of four slots, two of each task."""
    results = [
        SlotResult({}, SlotStatistics(*map(np.float32, (mean, last, clipped, nonfinite)), np.bool_(lost)), 2)
        for mean, last, clipped, nonfinite, lost in [
            (1.0, 0.5, 0.0, 0.0, False),
            (2.0, 1.5, 0.0, 0.0, False),
            (3.0, 1.0, 0.5, 0.25, False),
            (4.0, 2.0, 1.0, 1.0, True),
        ]
    ]
    norms, decays = {"w": np.float32(2.0)}, {"m": np.float32(0.9)}
    update = UpdateStatistics(np.float32(7.0), np.bool_(False), np.float32(0.1), norms, decays)
    return make_record(config, 3, results, update, seconds=2.0)


def test_losses_are_told_by_task_and_what_is_clipped_not_finite_or_lost():
    line = record(CONFIG)
    assert line["task_losses"] == {"mlp-w8-d1_digits": 1.5, "mlp-w16-d1_digits": 3.5}
    assert (line["meta_loss"], line["gradient_norm"], line["lost_slots"]) == (2.5, 7.0, 1)
    assert (line["clipped_fraction"], line["nonfinite_fraction"]) == (0.375, 0.3125)
    assert line["clipped_fractions"] == {"mlp-w8-d1_digits": 0.0, "mlp-w16-d1_digits": 0.75}
    # Four slots of one pair, so of two inner runs, five steps each.
    assert (line["inner_steps"], line["inner_steps_per_second"]) == (160, 20.0)
    assert line["decays"] == pytest.approx({"m": 0.9})


def test_the_meta_loss_is_that_of_the_steps_that_count():
    line = record(dataclasses.replace(CONFIG, meta_objective="final_loss"))
    assert line["task_losses"] == {"mlp-w8-d1_digits": 1.0, "mlp-w16-d1_digits": 1.5}
    assert line["meta_loss"] == 1.25
