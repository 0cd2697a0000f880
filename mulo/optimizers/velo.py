"""VeLO: a recurrent network looks at every tensor and chooses the network that updates its parameters.

Metz et al. 2022 (arXiv 2211.09760), as its authors' `HyperV2` with `use_bugged_loss_features` off, like the
released one; and its muP form, muVeLO, of Thérien et al. 2024 (arXiv 2406.00153). The step of a parameter p
is

    -multiplier * step_mult * step_size * direction * exp(exp_mult * magnitude) * sqrt(mean(p^2) + 1e-9)

with (direction, magnitude) = MLP(features of that parameter). At every step an LSTM with a row for each
tensor gives the tensor's step_size, a signed number, and controls c, and the weights of the tensor's MLP
are a mixture of those in a bank of N: interp_mult * mean over k of c_k * bank_k.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mulo import _tree
from mulo._types import Params, PyTree, Theta, Updates
from mulo.optimizers import _schedule
from mulo.optimizers._accumulators import (
    INITIAL_DECAYS,
    Accumulators,
    init_accumulators,
)
from mulo.optimizers._features import VELO_FEATURES, make_ingredients, mean
from mulo.optimizers._fields import Configured
from mulo.optimizers._mlp import apply_mlp, init_mlp
from mulo.optimizers._placement import varying_like
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
    count_tensors,
    flat_multipliers,
    map_tensors,
    next_statistics,
    put_together,
    take_apart,
    update_tensors,
)

MAX_GRADIENT = 1000.0
"""Gradients are clipped to this."""
MAX_RANK = 5
NUM_INPUTS = _schedule.NUM_FEATURES + 1 + MAX_RANK + 3 + 3
"""Of the LSTM, for each tensor."""


class VeLOState(NamedTuple):
    """What is kept between steps: four numbers a parameter, the factored vectors, and the LSTM's rows."""

    progress: _schedule.Progress
    accumulators: Accumulators  # trees shaped like the parameters, float32
    lstm: LSTMState  # a row for each tensor that has entries, in the order of the leaves and their stacks
    num_nonfinite: jax.Array  # [], int32: entries of gradients so far that were NaN or infinite


class Plan(NamedTuple):
    """What the recurrent network decides for each of N tensors."""

    inputs: jax.Array  # [N, 30]
    controls: jax.Array  # [N, num_banks]
    step_sizes: jax.Array  # [N]
    lstm: LSTMState


@dataclasses.dataclass(frozen=True, kw_only=True)
class VeLO(Configured):
    """The learned optimizer with a hypernetwork. Needs `num_steps` and, at every step, the loss.

    The defaults are those of the released weights, 2.3 million numbers, which are not part of this package.
    Gradients that are NaN count as 0, and losses that are NaN are passed over; in the reference they leave
    NaN for good. Where gradients are accumulated (`optax.MultiSteps`), `num_steps` counts the updates that
    are made, and the loss is that of the last part.

    Args:
      lstm_hidden_size: units of the LSTM.
      num_banks: networks that are mixed.
      hidden_size: units in each of the two hidden layers of those networks.
      interp_mult: factor on the mixture.
      param_scale: steps are in proportion to the root mean square of the tensor.
      step_mult: size of a step.
      exp_mult: how much the magnitude output counts.

    >>> optimizer = VeLO(lstm_hidden_size=16, num_banks=8)
    >>> theta = optimizer.init_theta(jax.random.key(0))
    >>> params = {"w": jnp.ones((2, 3))}
    >>> state = optimizer.init(theta, params, num_steps=100)
    >>> updates, state = optimizer.update(theta, state, params, params, loss=1.0, mup=None)
    >>> updates["w"].shape, int(state.progress.step)
    ((2, 3), 1)
    """

    name: ClassVar[str] = "velo"
    needs_num_steps: ClassVar[bool] = True

    lstm_hidden_size: int = 512
    num_banks: int = 256
    hidden_size: int = 4
    interp_mult: float = 100.0
    param_scale: bool = True
    step_mult: float = 0.001
    exp_mult: float = 0.001

    def init_theta(self, key: jax.Array) -> Theta:
        """Initial weights; biases and the initial state of the LSTM are zero."""
        bank_key, recurrent_key, controls_key, size_key = jax.random.split(key, 4)
        return {
            "bank": jax.vmap(lambda key: init_mlp(key, VELO_FEATURES.size, self.hidden_size))(
                jax.random.split(bank_key, self.num_banks)
            ),
            **init_recurrent(recurrent_key, NUM_INPUTS, self.lstm_hidden_size),
            "controls": init_linear(controls_key, self.lstm_hidden_size, self.num_banks),
            "step_size": init_linear(size_key, self.lstm_hidden_size, 1),
        }

    def init(self, theta: Theta, params: Params, num_steps: Any, mup: PyTree | None = None) -> VeLOState:
        """The state before the first step.

        Raises:
          InputError: `num_steps` is `None`, or a leaf is not of a floating-point dtype.
        """
        _tree.check_float_leaves(params)
        return VeLOState(
            progress=varying_like(_schedule.init_progress(num_steps, self.name), params),
            accumulators=init_accumulators(params, mup),
            lstm=varying_like(init_lstm_state(theta, count_tensors(params, mup)), params),
            num_nonfinite=varying_like(jnp.zeros([], jnp.int32), params),
        )

    def with_num_steps(self, state: VeLOState, num_steps: Any) -> VeLOState:
        """The state of a run that is to have another length."""
        return state._replace(progress=_schedule.with_num_steps(state.progress, num_steps))

    def update(
        self, theta: Theta, state: VeLOState, grads: PyTree, params: Params, loss: Any, mup: PyTree | None
    ) -> tuple[Updates, VeLOState]:
        """One step; see `mulo.optimizers.base.LearnedOptimizer`.

        Raises:
          InputError: no loss; `grads` or `state` have not the structure and shapes of `params`.
        """
        tensors = take_apart(state.accumulators, grads, params, mup)
        progress, schedule = _schedule.advance(state.progress, loss, self.name)
        plan = self.plan(theta, state.lstm, schedule, tensors)
        mlps = self._mix_bank(theta["bank"], plan.controls)
        factors = -self.step_mult * plan.step_sizes * flat_multipliers(params, mup)

        def update_tensor(tensor: Tensor, mlp: Theta, factor: jax.Array) -> tuple[jax.Array, Accumulators]:
            step, accumulators = tensor_step(
                mlp, tensor, exp_mult=self.exp_mult, param_scale=self.param_scale
            )
            return factor * step, accumulators

        results, count = update_tensors(update_tensor, _after(plan.step_sizes, tensors), mlps, factors)
        updates, accumulators = put_together(results, state.accumulators, params, mup)
        return updates, VeLOState(
            progress=progress,
            accumulators=accumulators,
            lstm=plan.lstm,
            num_nonfinite=add_count(state.num_nonfinite, count),
        )

    def plan(self, theta: Theta, lstm: LSTMState, schedule: jax.Array, tensors: list[Tensor]) -> Plan:
        """What the recurrent network decides at this step.

        Args:
          theta: weights.
          lstm: its state before.
          schedule: [18], of `mulo.optimizers._schedule.advance`.
          tensors: N of them, of all leaves, with the statistics before this step.
        """
        inputs = jnp.zeros((0, NUM_INPUTS), jnp.float32)
        if tensors:
            own = jnp.concatenate(map_tensors(_tensor_features, tensors))
            inputs = jnp.concatenate([jnp.tile(schedule, (len(own), 1)), own], axis=1)
            lstm = advance_lstm(theta, lstm, inputs)
        return Plan(
            inputs=inputs,
            controls=linear(theta["controls"], lstm.hidden),
            step_sizes=linear(theta["step_size"], lstm.hidden)[:, 0],
            lstm=lstm,
        )

    def _mix_bank(self, bank: Theta, controls: jax.Array) -> Theta:
        """Weights of each tensor's network. bank: leaves [B, ...]; controls: [N, B] -> leaves [N, ...]."""
        factors = controls * (self.interp_mult / self.num_banks)
        return jax.tree.map(
            lambda x: jnp.tensordot(factors, x, axes=1, precision=jax.lax.Precision.HIGHEST), bank
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuVeLO(VeLO):
    """VeLO under muP, in the configuration of Thérien et al. 2024: small, and no scale but the multiplier's.

    >>> MuVeLO().lstm_hidden_size, MuVeLO().interp_mult, MuVeLO().param_scale
    (16, 1.0, False)
    """

    name: ClassVar[str] = "muvelo"

    lstm_hidden_size: int = 16
    num_banks: int = 8
    interp_mult: float = 1.0
    param_scale: bool = False


def tensor_step(
    mlp: Theta, tensor: Tensor, *, exp_mult: float, param_scale: bool = True
) -> tuple[jax.Array, Accumulators]:
    """One tensor's step before its multipliers, float32, to be subtracted; its statistics with this gradient.

    Args:
      mlp: weights of the per-parameter network.
      tensor: with the statistics before.
      exp_mult: how much the magnitude counts.
      param_scale: the step is in proportion to the root mean square of the tensor.
    """
    grad = clip_gradient(tensor.grad)
    accumulators = next_statistics(INITIAL_DECAYS, tensor, grad)
    ingredients, axis_features = make_ingredients(accumulators, grad, tensor.param, features=VELO_FEATURES)
    step = apply_mlp(mlp, ingredients, axis_features, None, features=VELO_FEATURES, exp_mult=exp_mult)
    if param_scale:
        step = step * jnp.sqrt(mean(jnp.square(tensor.param)) + 1e-9)
    return step, accumulators


def _after(made: jax.Array, tensors: list[Tensor]) -> list[Tensor]:
    """The tensors, with gradients that XLA cannot use before `made` is there; the numbers stay as they are.

    It would plan to overwrite donated statistics before the recurrent network has seen them, and therefore
    copy all of them first: three times the temporary memory. Of an `optimization_barrier` nothing is left
    by the time it plans.
    """
    zero = jnp.where(jnp.sum(made) > jnp.inf, 1.0, 0.0)
    return [tensor._replace(grad=tensor.grad + zero) for tensor in tensors]


def clip_gradient(grad: jax.Array) -> jax.Array:
    """The gradient in float32, within `MAX_GRADIENT`, with NaN as 0."""
    grad = jnp.asarray(grad).astype(jnp.float32)
    return jnp.where(jnp.isnan(grad), 0.0, jnp.clip(grad, -MAX_GRADIENT, MAX_GRADIENT))


def _tensor_features(tensor: Tensor) -> jax.Array:
    """What the recurrent network sees of one tensor, with its statistics before this step: [12].

    In the order of the reference: size of the second moment, rank, variances of momenta and second moment.
    """
    # The reference divides the statistics by the root of this; here what is made of them, which is no array.
    mean_square = jnp.maximum(1e-9, mean(jnp.square(tensor.param)))
    second_moment, momenta = tensor.accumulators.second_moment, tensor.accumulators.momenta
    centers = [mean(momentum) for momentum in momenta]
    # It takes the distance of the second moment from the mean of the momentum.
    variances = [
        *(mean(jnp.square(m - center)) for m, center in zip(momenta, centers, strict=True)),
        *(mean(jnp.square(second_moment - center)) for center in centers),
    ]
    squares = [mean(second_moment) * jax.lax.rsqrt(mean_square), *(x / mean_square for x in variances)]
    sizes = jnp.clip(jnp.log(1e-8 + 10.0 * jnp.abs(jnp.stack(squares))), -5.0, 5.0) / 2.0
    rank = np.zeros(MAX_RANK, np.float32)
    num_long = sum(length > 1 for length in tensor.param.shape)
    if num_long < MAX_RANK:
        rank[num_long] = 1.0
    return jnp.concatenate([sizes[:1], rank, sizes[1:]])
