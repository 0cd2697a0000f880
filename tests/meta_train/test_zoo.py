"""Every model of the zoo is meta-trained on."""

import dataclasses

import jax
import pytest

from meta_train.driver import run
from meta_train.presets import PRESETS
from meta_train.programs import addressed_key, build_optimizer, build_programs
from meta_train.slot import SlotKeys
from tests.eval_tasks.zoo import MODEL_ROWS


def config_for(*tasks, **fields):
    return dataclasses.replace(
        PRESETS["quick"],
        tasks=tasks,
        batch_size=2,
        hidden_size=2,
        truncation_length=2,
        min_horizon=4,
        max_horizon=8,
        meta_steps=2,
        validation_tasks=(),
        **fields,
    )


# One of images, with running averages, and one of text; the others are like one of these, or are trained on
# in other tests.
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=() if row.model in ("resnet", "transformer") else pytest.mark.slow)
        for row in MODEL_ROWS
    ],
    ids=lambda row: row.model,
)
def test_a_truncation_of_every_model_can_be_traced(row):
    # Traced, not compiled: it costs seconds. Judged on data held out of training.
    config = config_for(row.task, meta_objective="validation_loss")
    theta = jax.eval_shape(build_optimizer(config).init_theta, jax.random.key(0))
    key = addressed_key(0, "reset")
    (compiled,) = build_programs(config).values()
    state = jax.eval_shape(compiled.reset, theta, key)
    gradient, new_state, statistics = jax.eval_shape(
        compiled.advance, theta, state, SlotKeys(key, key), compiled.source
    )
    assert gradient == theta
    assert new_state == state
    assert statistics.meta_loss.shape == ()


@pytest.mark.usefixtures("standard_promotion")
def test_a_run_on_text(tmp_path):
    assert run(config_for("rnn-w4-d1_pydoc-8"), tmp_path / "run").signal_number is None
