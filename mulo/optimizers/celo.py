"""Celo: a learned step size for the whole network, and a learned update for every parameter, apart.

Moudgil et al. 2025 (arXiv 2501.12670), as implemented by its authors. The recurrent network of VeLO sees
the progress of the run alone, so that its rate is one number at every step,

    rate = 0.1 * exp(recurrent network(share of the run that is done, course of the loss))

and the step of a parameter p is, with (direction, magnitude) = MLP(features of that parameter),

    -multiplier * step_mult * rate * direction * exp(exp_mult * magnitude) * sqrt(mean(p^2) + 1e-9).

Celo-Adam has the same rate, and Adam's step. Celo2, which plans nothing, is in `mulo.optimizers.celo2`.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mulo import _tree
from mulo._types import Params, PyTree, Theta, Updates
from mulo.mup.shapes import LeafRule
from mulo.optimizers import _schedule
from mulo.optimizers._accumulators import Accumulators, init_accumulators
from mulo.optimizers._features import VELO_FEATURES
from mulo.optimizers._fields import Configured
from mulo.optimizers._mlp import init_mlp
from mulo.optimizers._placement import varying_like, zeros_like
from mulo.optimizers._recurrent import (
    LSTMState,
    advance_lstm,
    init_linear,
    init_lstm_state,
    init_recurrent,
    linear,
)
from mulo.optimizers._tensors import (
    Tensor,
    add_count,
    flat_multipliers,
    look_at_leaf,
    put_together,
    sum_counts,
    take_apart,
    update_tensors,
)
from mulo.optimizers._views import View, rules_of, views_of
from mulo.optimizers.velo import clip_gradient, tensor_step


class CeloState(NamedTuple):
    """What is kept between steps: as VeLO's, with one row of the LSTM."""

    progress: _schedule.Progress
    accumulators: Accumulators  # trees shaped like the parameters, float32
    lstm: LSTMState  # [1, L]
    num_nonfinite: jax.Array  # [], int32: entries of gradients so far that were NaN or infinite


class CeloAdamState(NamedTuple):
    """What is kept between steps: two numbers a parameter."""

    progress: _schedule.Progress
    momentum: PyTree  # shaped like the parameters, float32
    second_moment: PyTree  # shaped like the parameters, float32
    lstm: LSTMState  # [1, L]
    num_nonfinite: jax.Array  # [], int32: entries of gradients so far that were NaN or infinite


class Schedule(NamedTuple):
    """What the recurrent network decides at one step."""

    rate: jax.Array  # [], float32, positive
    progress: _schedule.Progress
    lstm: LSTMState


def _init_scheduler(key: jax.Array, lstm_hidden_size: int) -> Theta:
    recurrent_key, size_key = jax.random.split(key)
    return {
        **init_recurrent(recurrent_key, _schedule.NUM_FEATURES, lstm_hidden_size),
        "step_size": init_linear(size_key, lstm_hidden_size, 1),
    }


def schedule_step(
    theta: Theta, progress: _schedule.Progress, lstm: LSTMState, loss: Any, name: str
) -> Schedule:
    """One step of the recurrent network; arguments as of `mulo.optimizers._schedule.advance`."""
    progress, features = _schedule.advance(progress, loss, name)
    lstm = advance_lstm(theta, lstm, features[None])
    rate = 0.1 * jnp.exp(linear(theta["step_size"], lstm.hidden)[0, 0])
    return Schedule(rate=rate, progress=progress, lstm=lstm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Celo(Configured):
    """The learned optimizer with a learned schedule. Needs `num_steps` and, at every step, the loss.

    The defaults are those of the released weights. Gradients that are NaN count as 0, and losses that are
    NaN are passed over; in the reference they leave NaN for good.

    Args:
      lstm_hidden_size: units of the LSTM.
      hidden_size: units in each of the two hidden layers of the per-parameter network.
      step_mult: size of a step.
      exp_mult: how much the magnitude output counts.
      learned_rate: whether the schedule counts. Its authors meta-train in two phases, at first without.

    >>> optimizer = Celo()
    >>> theta = optimizer.init_theta(jax.random.key(0))
    >>> params = {"w": jnp.ones((2, 3))}
    >>> state = optimizer.init(theta, params, num_steps=100)
    >>> updates, state = optimizer.update(theta, state, params, params, loss=1.0, mup=None)
    >>> updates["w"].shape, int(state.progress.step)
    ((2, 3), 1)
    """

    name: ClassVar[str] = "celo"
    needs_num_steps: ClassVar[bool] = True

    lstm_hidden_size: int = 64
    hidden_size: int = 4
    step_mult: float = 0.001
    exp_mult: float = 0.001
    learned_rate: bool = True

    def init_theta(self, key: jax.Array) -> Theta:
        """Initial weights; biases and the initial state of the LSTM are zero."""
        mlp_key, scheduler_key = jax.random.split(key)
        return {
            "mlp": init_mlp(mlp_key, VELO_FEATURES.size, self.hidden_size),
            **_init_scheduler(scheduler_key, self.lstm_hidden_size),
        }

    def init(self, theta: Theta, params: Params, num_steps: Any, mup: PyTree | None = None) -> CeloState:
        """The state before the first step.

        Raises:
          InputError: `num_steps` is `None`, or a leaf is not of a floating-point dtype.
        """
        _tree.check_float_leaves(params)
        return CeloState(
            progress=varying_like(_schedule.init_progress(num_steps, self.name), params),
            accumulators=init_accumulators(params, mup),
            lstm=varying_like(init_lstm_state(theta, 1), params),
            num_nonfinite=varying_like(jnp.zeros([], jnp.int32), params),
        )

    def with_num_steps(self, state: CeloState, num_steps: Any) -> CeloState:
        """The state of a run that is to have another length."""
        return state._replace(progress=_schedule.with_num_steps(state.progress, num_steps))

    def update(
        self, theta: Theta, state: CeloState, grads: PyTree, params: Params, loss: Any, mup: PyTree | None
    ) -> tuple[Updates, CeloState]:
        """One step; see `mulo.optimizers.base.LearnedOptimizer`.

        Raises:
          InputError: no loss; `grads` or `state` have not the structure and shapes of `params`.
        """
        tensors = take_apart(state.accumulators, grads, params, mup)
        schedule = schedule_step(theta, state.progress, state.lstm, loss, self.name)
        rate = schedule.rate if self.learned_rate else 1.0

        def update_tensor(tensor: Tensor, multiplier: jax.Array) -> tuple[jax.Array, Accumulators]:
            step, accumulators = tensor_step(theta["mlp"], tensor, exp_mult=self.exp_mult)
            return -self.step_mult * rate * multiplier * step, accumulators

        results, count = update_tensors(update_tensor, tensors, flat_multipliers(params, mup))
        updates, accumulators = put_together(results, state.accumulators, params, mup)
        return updates, CeloState(
            progress=schedule.progress,
            accumulators=accumulators,
            lstm=schedule.lstm,
            num_nonfinite=add_count(state.num_nonfinite, count),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CeloAdam(Configured):
    """Adam with Celo's learned schedule. Needs `num_steps` and, at every step, the loss.

    As Celo's authors have it: beta 0.9 and 0.999, and 1e-10 under the root of the second moment, which makes
    Adam's epsilon 1e-5.

    Args:
      lstm_hidden_size: units of the LSTM.
      step_mult: Adam's learning rate where the schedule is at 1.

    >>> optimizer = CeloAdam()
    >>> theta = optimizer.init_theta(jax.random.key(0))
    >>> params = {"w": jnp.ones((2, 3))}
    >>> state = optimizer.init(theta, params, num_steps=100)
    >>> updates, state = optimizer.update(theta, state, params, params, loss=1.0, mup=None)
    >>> updates["w"].shape, int(state.progress.step)
    ((2, 3), 1)
    """

    name: ClassVar[str] = "celo_adam"
    needs_num_steps: ClassVar[bool] = True

    lstm_hidden_size: int = 64
    step_mult: float = 0.001

    def init_theta(self, key: jax.Array) -> Theta:
        """Initial weights; biases and the initial state of the LSTM are zero."""
        return _init_scheduler(key, self.lstm_hidden_size)

    def init(self, theta: Theta, params: Params, num_steps: Any, mup: PyTree | None = None) -> CeloAdamState:
        """The state before the first step.

        Raises:
          InputError: `num_steps` is `None`, or a leaf is not of a floating-point dtype.
        """
        del mup
        _tree.check_float_leaves(params)
        return CeloAdamState(
            progress=varying_like(_schedule.init_progress(num_steps, self.name), params),
            momentum=zeros_like(params),
            second_moment=zeros_like(params),
            lstm=varying_like(init_lstm_state(theta, 1), params),
            num_nonfinite=varying_like(jnp.zeros([], jnp.int32), params),
        )

    def with_num_steps(self, state: CeloAdamState, num_steps: Any) -> CeloAdamState:
        """The state of a run that is to have another length."""
        return state._replace(progress=_schedule.with_num_steps(state.progress, num_steps))

    def update(
        self, theta: Theta, state: CeloAdamState, grads: PyTree, params: Params, loss: Any, mup: PyTree | None
    ) -> tuple[Updates, CeloAdamState]:
        """One step; see `mulo.optimizers.base.LearnedOptimizer`.

        Raises:
          InputError: no loss; `grads` or `state` have not the structure and shapes of `params`.
        """
        _tree.check_same_shapes(grads, params)
        _tree.check_statistics(state.second_moment, params)
        schedule = schedule_step(theta, state.progress, state.lstm, loss, self.name)
        count = schedule.progress.step.astype(jnp.float32)
        corrections = 1 - _B1**count, 1 - _B2**count
        size = self.step_mult * schedule.rate

        def update_leaf(
            view: View, rule: LeafRule | None, *arrays: jax.typing.ArrayLike
        ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
            param, grad, momentum, second_moment = arrays
            some, num_nonfinite = look_at_leaf(view, grad)
            grad = clip_gradient(grad)
            m = jnp.where(some, _B1 * momentum + (1 - _B1) * grad, momentum)
            v = jnp.where(some, _B2 * second_moment + (1 - _B2) * jnp.square(grad), second_moment)
            direction = m / corrections[0] / (1e-8 + jnp.sqrt(v / corrections[1] + 1e-10))
            step = -size * (1.0 if rule is None else rule.update_multiplier) * direction
            return jnp.where(some, step, 0.0).astype(jnp.result_type(param)), m, v, num_nonfinite

        inner = jax.tree.structure(params)
        trees = map(inner.flatten_up_to, (params, grads, state.momentum, state.second_moment))
        leaves = zip(views_of(params, mup), rules_of(params, mup), *trees, strict=True)
        rows = [update_leaf(*leaf) for leaf in leaves]
        updates, momentum, second_moment = (inner.unflatten([row[i] for row in rows]) for i in range(3))
        return updates, CeloAdamState(
            progress=schedule.progress,
            momentum=momentum,
            second_moment=second_moment,
            lstm=schedule.lstm,
            num_nonfinite=add_count(state.num_nonfinite, sum_counts([row[3] for row in rows])),
        )


# Not Optax's Adam: the reference, and the released weights, take 1 - 0.999 in float32, which is 1.3e-5 off.
_B1, _B2 = np.float32(0.9), np.float32(0.999)
