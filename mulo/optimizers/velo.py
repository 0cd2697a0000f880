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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mulo import _tree
from mulo._types import Params, PyTree, Theta, Updates
from mulo.errors import InputError
from mulo.optimizers import _schedule
from mulo.optimizers._accumulators import (
    INITIAL_DECAYS,
    STRUCTURE,
    Accumulators,
    accumulate,
    init_accumulators,
)
from mulo.optimizers._features import VELO_FEATURES, make_ingredients
from mulo.optimizers._mlp import apply_mlp, init_mlp
from mulo.optimizers._recurrent import (
    LSTMState,
    advance_lstm,
    init_linear,
    init_lstm_state,
    init_recurrent,
    linear,
)
from mulo.optimizers._tensors import group_by_shape, map_tensors, stack, unstack

MAX_GRADIENT = 1000.0
"""Gradients are clipped to this."""
MAX_RANK = 5
NUM_INPUTS = _schedule.NUM_FEATURES + 1 + MAX_RANK + 3 + 3
"""Of the LSTM, for each tensor."""


class VeLOState(NamedTuple):
    """What is kept between steps: four numbers a parameter, the factored vectors, and the LSTM's rows."""

    progress: _schedule.Progress
    accumulators: Accumulators  # trees shaped like the parameters, float32
    lstm: LSTMState  # a row for each tensor that has entries, in the order of the leaves


class Tensor(NamedTuple):
    """One tensor and its statistics, float32; a scalar as a vector of one."""

    param: jax.Array  # [*shape]
    grad: jax.Array  # [*shape], finite, clipped
    accumulators: Accumulators


class Plan(NamedTuple):
    """What the recurrent network decides for each of N tensors."""

    inputs: jax.Array  # [N, 30]
    controls: jax.Array  # [N, num_banks]
    step_sizes: jax.Array  # [N]
    lstm: LSTMState


@dataclasses.dataclass(frozen=True, kw_only=True)
class VeLO:
    """The learned optimizer with a hypernetwork. Needs `num_steps` and, at every step, the loss.

    The defaults are those of the released weights, 2.3 million numbers, which are not part of this package.
    Gradients that are NaN count as 0, and losses that are not finite are passed over; in the reference they
    leave NaN for good.

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

    lstm_hidden_size: int = 512
    num_banks: int = 256
    hidden_size: int = 4
    interp_mult: float = 100.0
    param_scale: bool = True
    step_mult: float = 0.001
    exp_mult: float = 0.001

    needs_num_steps = True

    def __post_init__(self):
        """Refuses what cannot be built."""
        for field in ("lstm_hidden_size", "num_banks", "hidden_size"):
            value = getattr(self, field)
            if type(value) is not int or not 1 <= value <= 4096:
                raise InputError(f"{field} is {value!r}; wanted a whole number from 1 to 4096.")
        for field in ("interp_mult", "step_mult", "exp_mult"):
            value = getattr(self, field)
            if not isinstance(value, float | int) or not np.isfinite(value) or value < 0:
                raise InputError(f"{field} is {value!r}; wanted a finite number of at least 0.")
        if type(self.param_scale) is not bool:
            raise InputError(f"param_scale is {self.param_scale!r}; wanted True or False.")

    @property
    def name(self) -> str:
        """Its key in `mulo.optimizers.OPTIMIZERS`."""
        return "velo"

    def config(self) -> dict[str, Any]:
        """The fields, by name."""
        return dataclasses.asdict(self)

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

    def init(self, theta: Theta, params: Params, num_steps: Any) -> VeLOState:
        """The state before the first step.

        Raises:
          InputError: `num_steps` is `None`, or a leaf is not of a floating-point dtype.
        """
        _tree.check_float_leaves(params)
        num_tensors = sum(jnp.size(p) > 0 for p in jax.tree.leaves(params))
        return VeLOState(
            progress=_schedule.init_progress(num_steps, self.name),
            accumulators=init_accumulators(params),
            lstm=init_lstm_state(theta, num_tensors),
        )

    def update(
        self, theta: Theta, state: VeLOState, grads: PyTree, params: Params, loss: Any, mup: PyTree | None
    ) -> tuple[Updates, VeLOState]:
        """One step; see `mulo.optimizers.base.LearnedOptimizer`.

        Raises:
          InputError: no loss; `grads` or `state` have not the structure and shapes of `params`.
        """
        _tree.check_same_shapes(grads, params)
        _tree.check_statistics(state.accumulators.second_moment, params)
        inner = jax.tree.structure(params)
        tensors = take_apart(state.accumulators, grads, params)
        groups = group_by_shape([tensor.param for tensor in tensors])
        progress, schedule = _schedule.advance(state.progress, loss, self.name)
        plan = self.plan(theta, state.lstm, schedule, tensors, groups)
        multipliers = [1.0] * inner.num_leaves if mup is None else inner.flatten_up_to(mup)

        rows: dict[int, tuple[jax.Array, Accumulators]] = {}
        places = np.cumsum([tensor.param.size > 0 for tensor in tensors]) - 1  # of a tensor's row in the plan
        for group in groups:
            mlps = self._mix_bank(theta["bank"], plan.controls[places[list(group)]])
            factors = jnp.stack([jnp.asarray(multipliers[i], jnp.float32) for i in group])
            stacked = stack([tensors[i] for i in group])
            size = tensors[group[0]].param.size
            results = map_tensors(
                self._step, size, stacked, mlps, plan.step_sizes[places[list(group)]] * factors
            )
            rows.update(zip(group, unstack(results, len(group)), strict=True))
        updates, accumulators = put_together(rows, state.accumulators, params)
        return updates, VeLOState(progress=progress, accumulators=accumulators, lstm=plan.lstm)

    def plan(
        self,
        theta: Theta,
        lstm: LSTMState,
        schedule: jax.Array,
        tensors: list[Tensor],
        groups: list[tuple[int, ...]],
    ) -> Plan:
        """What the recurrent network decides at this step.

        Args:
          theta: weights.
          lstm: its state before.
          schedule: [18], of `mulo.optimizers._schedule.advance`.
          tensors: with the statistics before this step.
          groups: places of tensors of one shape.
        """
        if not groups:
            nothing = jnp.zeros((0, NUM_INPUTS), jnp.float32)
            return Plan(nothing, jnp.zeros((0, self.num_banks)), jnp.zeros(0), lstm)
        features = [
            map_tensors(_tensor_features, tensors[group[0]].param.size, stack([tensors[i] for i in group]))
            for group in groups
        ]
        order = np.argsort([place for group in groups for place in group])
        own = jnp.concatenate(features)[order]
        inputs = jnp.concatenate([jnp.broadcast_to(schedule, (len(own), len(schedule))), own], axis=1)
        lstm = advance_lstm(theta, lstm, inputs)
        return Plan(
            inputs=inputs,
            controls=linear(theta["controls"], lstm.hidden),
            step_sizes=linear(theta["step_size"], lstm.hidden)[:, 0],
            lstm=lstm,
        )

    def _mix_bank(self, bank: Theta, controls: jax.Array) -> Theta:
        """Weights of each tensor's network. controls: [G, N]; bank: leaves [N, ...] -> leaves [G, ...]."""
        factors = controls * (self.interp_mult / self.num_banks)
        return jax.tree.map(
            lambda x: jnp.tensordot(factors, x, axes=1, precision=jax.lax.Precision.HIGHEST), bank
        )

    def _step(self, tensor: Tensor, mlp: Theta, factor: jax.Array) -> tuple[jax.Array, Accumulators]:
        """The update of one tensor, float32, to be added; its statistics with this gradient."""
        accumulators = accumulate(INITIAL_DECAYS, tensor.accumulators, tensor.grad)
        ingredients, axis_features = make_ingredients(
            accumulators, tensor.grad, tensor.param, features=VELO_FEATURES
        )
        step = apply_mlp(
            mlp, ingredients, axis_features, None, features=VELO_FEATURES, exp_mult=self.exp_mult
        )
        scale = self.step_mult * factor
        if self.param_scale:
            scale = scale * jnp.sqrt(jnp.mean(jnp.square(tensor.param)) + 1e-9)
        return -step * scale, accumulators


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuVeLO(VeLO):
    """VeLO under muP, in the configuration of Thérien et al. 2024: small, and no scale but the multiplier's.

    >>> MuVeLO().lstm_hidden_size, MuVeLO().interp_mult, MuVeLO().param_scale
    (16, 1.0, False)
    """

    lstm_hidden_size: int = 16
    num_banks: int = 8
    interp_mult: float = 1.0
    param_scale: bool = False

    @property
    def name(self) -> str:
        """Its key in `mulo.optimizers.OPTIMIZERS`."""
        return "muvelo"


def take_apart(accumulators: Accumulators, grads: PyTree, params: Params) -> list[Tensor]:
    """Each leaf with its gradient and statistics; the gradient finite and within `MAX_GRADIENT`."""
    inner = jax.tree.structure(params)
    return [
        Tensor(
            param=_at_least_vector(param),
            grad=_clip(_at_least_vector(grad)),
            accumulators=jax.tree.map(_at_least_vector, kept),
        )
        for param, grad, kept in zip(
            inner.flatten_up_to(params),
            inner.flatten_up_to(grads),
            _tree.split_leaves(accumulators, STRUCTURE, inner),
            strict=True,
        )
    ]


def _at_least_vector(x: jax.typing.ArrayLike) -> jax.Array:
    x = jnp.asarray(x).astype(jnp.float32)
    return jnp.reshape(x, (1,)) if x.ndim == 0 else x


def _clip(grad: jax.Array) -> jax.Array:
    return jnp.clip(jnp.where(jnp.isnan(grad), 0.0, grad), -MAX_GRADIENT, MAX_GRADIENT)


def put_together(
    rows: dict[int, tuple[jax.Array, Accumulators]], accumulators: Accumulators, params: Params
) -> tuple[Updates, Accumulators]:
    """Updates in each leaf's dtype and shape, and statistics, from those of the leaves that have entries.

    Args:
      rows: place of a leaf -> its update and statistics.
      accumulators: before the step; leaves without entries keep theirs.
      params: as they are given to the optimizer.
    """
    inner = jax.tree.structure(params)
    updates, kept = [], []
    for place, (param, before) in enumerate(
        zip(
            inner.flatten_up_to(params),
            _tree.split_leaves(accumulators, STRUCTURE, inner),
            strict=True,
        )
    ):
        if place not in rows:
            updates.append(jnp.zeros_like(param))
            kept.append(before)
            continue
        update, after = rows[place]
        updates.append(jnp.reshape(update, jnp.shape(param)).astype(jnp.result_type(param)))
        kept.append(jax.tree.map(lambda new, old: jnp.reshape(new, old.shape), after, before))
    return inner.unflatten(updates), _tree.join_leaves(kept, STRUCTURE, inner)


def _tensor_features(tensor: Tensor) -> jax.Array:
    """What the recurrent network sees of one tensor, with its statistics before this step: [12].

    In the order of the reference: size of the second moment, rank, variances of momenta and second moment.
    """
    inverse_scale = jax.lax.rsqrt(jnp.maximum(1e-9, jnp.mean(jnp.square(tensor.param))))
    second_moment = tensor.accumulators.second_moment * inverse_scale
    momenta = [momentum * inverse_scale for momentum in tensor.accumulators.momenta]
    centers = [jnp.mean(momentum) for momentum in momenta]
    # The reference takes the distance of the second moment from the mean of the momentum.
    squares = [
        jnp.mean(second_moment),
        *(jnp.mean(jnp.square(m - center)) for m, center in zip(momenta, centers, strict=True)),
        *(jnp.mean(jnp.square(second_moment - center)) for center in centers),
    ]
    sizes = jnp.clip(jnp.log(1e-8 + 10.0 * jnp.abs(jnp.stack(squares))), -5.0, 5.0) / 2.0
    rank = np.zeros(MAX_RANK, np.float32)
    num_long = sum(length > 1 for length in tensor.param.shape)
    if num_long < MAX_RANK:
        rank[num_long] = 1.0
    return jnp.concatenate([sizes[:1], rank, sizes[1:]])
