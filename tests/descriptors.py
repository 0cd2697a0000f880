"""One row per learned optimizer: how to build it, and weights for which the right answer is known.

A new optimizer becomes part of the conformance tests by a row here.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

import mulo
from mulo.optimizers.base import LearnedOptimizer, Theta

MOMENTUM_INPUT = 2
"""Row of SmallFC's first weights that reads the fastest momentum (decay 0.9)."""


@dataclasses.dataclass(frozen=True)
class LearnedOptimizerRow:
    """What a learned optimizer is and needs."""

    name: str
    make: Callable[[], LearnedOptimizer]
    golden_theta: Callable[[LearnedOptimizer], Theta]  # with these weights it is a known, sound optimizer
    num_steps: int | None = None  # length to declare, where one is needed

    def checkpoint(self, parametrization: str = "sp", golden: bool = True) -> mulo.Checkpoint:
        """A checkpoint with golden weights, or with random ones, whose every input matters."""
        optimizer = self.make()
        theta = self.golden_theta(optimizer) if golden else optimizer.init_theta(jax.random.key(7))
        return mulo.Checkpoint(optimizer=optimizer, theta=theta, parametrization=parametrization)


def small_fc_golden_theta(optimizer: mulo.SmallFC) -> Theta:
    """Weights with which the direction is the momentum over its root mean square, the magnitude 0.

    Two hidden units hold relu(x) and relu(-x); the output is their difference. The optimizer is then
    gradient descent with momentum 0.9, normalised tensor by tensor, at learning rate `step_mult`.
    """
    theta = jax.tree.map(jnp.zeros_like, optimizer.init_theta(jax.random.key(0)))
    mlp = theta["mlp"]
    pair = jnp.array([1.0, -1.0])
    mlp["w0"] = mlp["w0"].at[MOMENTUM_INPUT, :2].set(pair)
    mlp["w1"] = mlp["w1"].at[(0, 1), (0, 1)].set(1.0)
    mlp["w2"] = mlp["w2"].at[:2, 0].set(pair)
    return theta


SMALL_FC_H4 = LearnedOptimizerRow(
    name="small_fc_h4",
    make=lambda: mulo.SmallFC(hidden_size=4, step_mult=0.001),
    golden_theta=small_fc_golden_theta,
)
SMALL_FC_H32 = LearnedOptimizerRow(
    name="small_fc_h32",
    make=lambda: mulo.SmallFC(hidden_size=32, step_mult=0.01),
    golden_theta=small_fc_golden_theta,
)
SMALL_FC_SCALE_FREE = LearnedOptimizerRow(
    name="small_fc_scale_free",
    make=lambda: mulo.SmallFC(hidden_size=4, step_mult=0.001, scale_free=True),
    golden_theta=small_fc_golden_theta,
)
ROWS = (SMALL_FC_H4, SMALL_FC_H32)
ROW_OF_EACH_STATE = (SMALL_FC_H4,)
ROW_OF_EACH_NORMALISATION = (*ROWS, SMALL_FC_SCALE_FREE)
