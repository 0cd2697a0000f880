"""What theta is scored by."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval_tasks.task import make_task
from meta_train import validation
from meta_train.config import MetaTrainConfig
from mulo import SmallFC
from mulo.mup import STANDARD


class ConstantTask:
    """Its loss is 1 on the training split and 2 on the other, whatever the parameters."""

    source = ()
    mup = STANDARD
    guessing_loss = 10.0

    def init(self, key):
        del key
        return jnp.zeros(2)

    def loss(self, params, key, batch):
        del key
        return batch + 0.0 * jnp.sum(params)

    def draw_batch(self, source, split, key, batch_size):
        del source, key, batch_size
        return jnp.float32({"train": 1, "validation": 2}[split])


@pytest.mark.parametrize(
    ("meta_objective", "score"), [("mean_loss", 1.0), ("final_loss", 1.0), ("validation_loss", 2.0)]
)
def test_the_score_is_of_the_split_that_theta_is_judged_by(monkeypatch, meta_objective, score):
    monkeypatch.setattr(validation, "build_tasks", lambda *_: {"constant": ConstantTask()})
    config = MetaTrainConfig(
        tasks=("mlp-w4-d1_digits",), meta_objective=meta_objective, hidden_size=2, validation_steps=5
    )
    found, losses = validation.Validator(config)(SmallFC(hidden_size=2).init_theta(jax.random.key(0)))
    assert found == pytest.approx(math.log(score + 1e-4), abs=1e-5)
    assert losses == {"constant": pytest.approx(score)}


def test_judging_by_held_out_loss_leaves_the_validation_split_unseen(monkeypatch):
    """Of the data set, on which evaluations report; a part of the training split is held out instead."""
    config = MetaTrainConfig(
        tasks=("mlp-w4-d1_digits",),
        meta_objective="validation_loss",
        hidden_size=2,
        validation_tasks=("mlp-w8-d1_digits",),
        validation_steps=5,
    )
    seen = []

    def run(theta, source, keys):
        del theta
        seen.append(source)
        return np.ones(len(keys))

    monkeypatch.setattr(validation, "_make_runs", lambda *_: run)
    validation.Validator(config)(None)
    whole = make_task("mlp-w4-d1_digits", "sp").source
    assert seen[0].num_examples("train") + seen[0].num_examples("validation") == whole.num_examples("train")
    images = [np.asarray(split.images) for split in (seen[0].validation, whole.train)]
    np.testing.assert_array_equal(images[0], images[1][-len(images[0]) :])
