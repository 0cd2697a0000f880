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


VELO_MOMENTUM_INPUT = 3
"""The same of VeLO's, Celo's and Celo2's."""


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
    theta = _zeros(optimizer)
    theta["mlp"] = _momentum_mlp(theta["mlp"], MOMENTUM_INPUT)
    return theta


def _zeros(optimizer: LearnedOptimizer) -> Theta:
    return jax.tree.map(jnp.zeros_like, optimizer.init_theta(jax.random.key(0)))


def _momentum_mlp(mlp: Theta, momentum_input: int) -> Theta:
    """Weights of a per-parameter network that gives its `momentum_input`. mlp: of zeros."""
    pair = jnp.array([1.0, -1.0])
    return {
        **mlp,
        "w0": mlp["w0"].at[momentum_input, :2].set(pair),
        "w1": mlp["w1"].at[(0, 1), (0, 1)].set(1.0),
        "w2": mlp["w2"].at[:2, 0].set(pair),
    }


def velo_golden_theta(optimizer: mulo.VeLO) -> Theta:
    """The same with VeLO: the LSTM gives zeros, every network of the bank is that one, step sizes are 1.

    Steps are in proportion to the root mean square of the tensor too, where `param_scale` says so.
    """
    theta = _zeros(optimizer)
    theta["bank"] = jax.vmap(lambda mlp: _momentum_mlp(mlp, VELO_MOMENTUM_INPUT))(theta["bank"])
    theta["controls"]["b"] += 1.0 / optimizer.interp_mult
    theta["step_size"]["b"] += 1.0
    return theta


def celo_golden_theta(optimizer: mulo.Celo) -> Theta:
    """The same with Celo: its rate is 1. Steps are in proportion to the root mean square of the tensor."""
    theta = _zeros(optimizer)
    theta["mlp"] = _momentum_mlp(theta["mlp"], VELO_MOMENTUM_INPUT)
    theta["step_size"]["b"] += jnp.log(10.0)
    return theta


def celo_adam_golden_theta(optimizer: mulo.CeloAdam) -> Theta:
    """Adam at a constant learning rate of `step_mult`."""
    theta = _zeros(optimizer)
    theta["step_size"]["b"] += jnp.log(10.0)
    return theta


def celo2_golden_theta(optimizer: mulo.Celo2) -> Theta:
    """Momentum over its root mean square, and Adam for biases."""
    theta = _zeros(optimizer)
    return {"mlp": _momentum_mlp(theta["mlp"], VELO_MOMENTUM_INPUT)}


def direction_fc_golden_theta(optimizer: mulo.DirectionFC) -> Theta:
    """Momentum over its root mean square; rates are as they begin."""
    theta = _zeros(optimizer)
    return {**theta, "mlp": _momentum_mlp(theta["mlp"], MOMENTUM_INPUT)}


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
VELO = LearnedOptimizerRow(
    name="velo",
    make=lambda: mulo.VeLO(lstm_hidden_size=4, num_banks=2, hidden_size=2),
    golden_theta=velo_golden_theta,
    num_steps=50,
)
CELO = LearnedOptimizerRow(
    name="celo",
    make=lambda: mulo.Celo(lstm_hidden_size=4, hidden_size=2),
    golden_theta=celo_golden_theta,
    num_steps=50,
)
CELO_ADAM = LearnedOptimizerRow(
    name="celo_adam",
    make=lambda: mulo.CeloAdam(lstm_hidden_size=4),
    golden_theta=celo_adam_golden_theta,
    num_steps=50,
)
CELO2 = LearnedOptimizerRow(
    name="celo2",
    make=lambda: mulo.Celo2(hidden_size=2),
    golden_theta=celo2_golden_theta,
)
DIRECTION_FC = LearnedOptimizerRow(
    name="direction_fc",
    make=lambda: mulo.DirectionFC(hidden_size=4, step_mult=0.001, weight_decay=0.1, growth=20.0),
    golden_theta=direction_fc_golden_theta,
    num_steps=50,
)
DIRECTION_FC_ORTHOGONAL = dataclasses.replace(
    DIRECTION_FC,
    name="direction_fc_orthogonal",
    make=lambda: mulo.DirectionFC(
        hidden_size=4, step_mult=0.001, growth=20.0, newton_schulz=True, epsilon=1.0
    ),
)
ROWS = (SMALL_FC_H4, SMALL_FC_H32, VELO, CELO, CELO_ADAM, CELO2, DIRECTION_FC)
ROW_OF_EACH_STATE = (SMALL_FC_H4, VELO, DIRECTION_FC)
ROW_OF_EACH_NORMALISATION = (*ROWS, SMALL_FC_SCALE_FREE, DIRECTION_FC_ORTHOGONAL)
