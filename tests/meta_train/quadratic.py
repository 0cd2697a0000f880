"""The toy of the golden PES traces: momentum SGD with a learned rate and momentum on a quadratic."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval_tasks.data.source import DataSource, Split, draw_batch
from meta_train.estimators import GradientEstimator
from meta_train.inner_loop import InnerLoop
from meta_train.slot import SlotProgram
from mulo.mup import STANDARD
from tests import GOLDEN


class MomentumSGD:
    """theta: `log_lr` and `one_minus_momentum`, both in logarithms."""

    def init(self, theta, params, num_steps, mup):
        del theta, num_steps, mup
        return jnp.zeros_like(params)

    def update(self, theta, state, grads, params, loss, mup):
        del params, loss, mup
        momentum = 1.0 - jnp.exp(theta["one_minus_momentum"])
        state = momentum * state + grads
        return -jnp.exp(theta["log_lr"]) * state, state


class QuadraticTask(NamedTuple):
    h: jax.Array
    target: jax.Array
    p0: jax.Array
    mup: object = STANDARD
    draw_batch: object = draw_batch

    def init(self, key):
        del key
        return self.p0

    def loss(self, params, key, batch):
        del key, batch
        return jnp.sum(self.h * jnp.square(params - self.target))


def load_trace():
    with np.load(GOLDEN / "pes.npz") as archive:
        return {key: archive[key] for key in archive.files}


def empty_source():
    split = Split(jnp.zeros((1, 1, 1, 1), jnp.uint8), jnp.zeros(1, jnp.int32))
    return DataSource(
        train=split,
        validation=split,
        name="none",
        num_classes=2,
        mean=(0.0,),
        std=(1.0,),
        files=(),
        digest="",
    )


def make_program(trace, std: float, num_pairs: int, estimator: GradientEstimator) -> SlotProgram:
    task = QuadraticTask(*(jnp.asarray(trace[f"trace/quad_{name}"]) for name in ("h", "target", "p0")))
    return SlotProgram(
        loop=InnerLoop(task, MomentumSGD(), batch_size=1, truncation_length=int(trace["trace/trunc_length"])),
        estimator=estimator,
        num_pairs=num_pairs,
        perturbation_std=std,
        meta_objective="mean_loss",
        loss_bound=math.inf,
    )
