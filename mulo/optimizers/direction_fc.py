"""DirectionFC: SmallFC's network without a magnitude; how large a step is does not depend on its weights.

The parts are those of others, under muP: features that do not depend on the scale of gradients, a direction
of root mean square 1 (Celo2, arXiv 2602.19142), a schedule from outside, and decoupled weight decay. The step
of a tensor p, of a run of T steps, is

    -schedule(t / T) * (size * multiplier * rate * factor * direction / rms(direction) + decay * p)

with size = step_mult * sqrt(min(1, 1000 / T)), direction = MLP(features of each parameter), which
`newton_schulz` makes near orthogonal in matrices, as Muon and Celo2 do, a learned `rate` for each of three
kinds of tensors, decay = weight_decay / max(T, decay_steps), and p only where it is a matrix (without muP
records: of rank 2 or more). `Leaf(lr_multiplier=x)` multiplies all of it, decay too, as a learning rate does;
muP's 1/fan_in is on the direction alone. `factor` is 1; with `growth` it is how much the steps of this tensor
have grown so far (`_growth`), and with `epsilon` less where its gradients vanish (`_vanishing`).
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mulo import _tree
from mulo._types import Params, PyTree, Theta, Updates
from mulo.errors import InputError
from mulo.mup.roles import Role
from mulo.names import lookup
from mulo.optimizers import _schedule
from mulo.optimizers._accumulators import (
    Accumulators,
    Decays,
    bound_gradient,
    init_accumulators,
)
from mulo.optimizers._features import SMALL_FC_FEATURES, inverse_rms, make_ingredients, mean
from mulo.optimizers._fields import Configured
from mulo.optimizers._growth import MOMENTUM, agreement, grow
from mulo.optimizers._mlp import apply_mlp, init_mlp
from mulo.optimizers._orthogonalise import orthogonalise_kernel
from mulo.optimizers._placement import varying_like
from mulo.optimizers._tensors import (
    Tensor,
    add_count,
    count_tensors,
    flat_decay_multipliers,
    flat_multipliers,
    for_each_tensor,
    look_at,
    next_statistics,
    put_together,
    take_apart,
    update_tensors,
)
from mulo.optimizers._vanishing import SMALLEST_EPSILON, rms_share, share_correction
from mulo.optimizers.schedules import SCHEDULES
from mulo.optimizers.small_fc import effective_decays, initial_decay_offsets

INITIAL_RATES = {
    "hidden": 32.0,  # of role HIDDEN, with the multiplier 1/fan_in: at a width of 32 all matrices' are alike
    "matrix": 1.0,  # any other with a fan-in; without muP, all of rank 2 and more
    "vector": 1.0,
}

FULL_STEPS = 1000.0
"""The longest run with steps of full size. In a longer one steps of no common direction would move a weight
further, by the root of the number of steps, up to where networks no longer train."""

MAX_GROWTH = 1000.0
"""The largest `growth`: with it two gradients that agree with the momentum bring steps near their bound."""

NEWTON_SCHULZ_ITERATIONS = 3
"""Where Muon makes five: training losses are no higher so, and matrix products fewer."""

ADAM_INPUT = 6
"""Row of the first weights that reads the fastest momentum over the root of the second moment."""
INITIAL_SHARE = 0.1
"""Of what is random, in the initial direction."""


class DirectionFCState(NamedTuple):
    """What is kept between steps; four numbers a parameter, the factored vectors and one number a tensor."""

    step: jax.Array  # [], int32: updates made
    num_steps: jax.Array  # [], float32: that the run will have
    accumulators: Accumulators  # trees shaped like the parameters, float32
    log_growth: jax.Array  # [N], float32: of the steps of each tensor that has entries, within 0 and 2
    num_nonfinite: jax.Array  # [], int32: entries of gradients so far that were NaN or infinite


class _Traits(NamedTuple):
    """What the records say of each tensor, all [N]."""

    is_hidden: np.ndarray  # bool: its role is HIDDEN
    multiplier: np.ndarray  # float32, of its direction
    decay_multiplier: np.ndarray  # float32


class _Amounts(NamedTuple):
    """Of one step, all [], float32."""

    schedule: jax.Array
    size: jax.Array  # root mean square of a step before its rate, multiplier and factor
    decay: jax.Array  # share of a matrix that is taken off
    growth_speed: jax.Array  # see `grow`
    bias_correction: jax.Array  # see `agreement`
    share_correction: jax.Array  # see `rms_share`


@dataclasses.dataclass(frozen=True, kw_only=True)
class DirectionFC(Configured):
    """The learned optimizer of directions with a schedule. Needs `num_steps`; from then on it stands still.

    A tensor whose gradients have all been zero gets no direction: it decays, and that is all.

    Args:
      hidden_size: units in each of the two hidden layers.
      step_mult: root mean square of a step before its rate and multipliers, where the schedule is at 1, in
        runs of up to 1000 steps; in longer ones it is smaller by the root of their ratio.
      scale_free: features do not depend on the scale of a tensor's gradients; see `SmallFC`.
      normalised: divide the direction by its root mean square over the tensor.
      schedule: "linear" or "cosine", down to zero over the run, or "constant".
      weight_decay: by how much all steps together shrink matrices, as the exponent of a constant schedule:
        1 leaves exp(-1) of a weight that gets no other steps.
      decay_steps: runs shorter than this shrink them less, in proportion; as much in each step.
      growth: how readily steps of a tensor grow in the first half of a run, up to exp(2), 7.4 times: in a run
        of up to 1000 steps by exp(growth * (a + overshoot) / 4), where a is how much gradients agree with the
        momentum before them, within -1 and 1. In longer ones they grow in the first 500 steps, and less: the
        exponent is smaller by the ratio of 1000 to the length. 0 for never.
      overshoot: how far below 0 a may be for steps to grow, so that noise alone lets them; below that, steps
        that have grown become smaller again, down to the size without growth.
      newton_schulz: make the directions of tensors of rank 2 and more near orthogonal, by three Newton-Schulz
        iterations: all that a gradient says of a matrix gets steps of about one size. On the last two axes;
        of rank 4 and more, for kernels of convolutions with their outputs last, on that axis and all others.
        Needs `normalised`.
      epsilon: steps of a tensor become smaller, in proportion, where the root mean square of its middle
        momentum is below this share of that of its gradients, as the second moment has it: where gradients
        vanish. Of pure noise the share is about a tenth, so far below that. 0 for never.

    >>> optimizer = DirectionFC()
    >>> theta = optimizer.init_theta(jax.random.key(0))
    >>> params = {"w": jnp.ones((2, 3))}
    >>> state = optimizer.init(theta, params, num_steps=100)
    >>> updates, state = optimizer.update(theta, state, params, params, loss=None, mup=None)
    >>> updates["w"].shape, int(state.step)
    ((2, 3), 1)
    """

    name: ClassVar[str] = "direction_fc"
    needs_num_steps: ClassVar[bool] = True

    hidden_size: int = 8
    step_mult: float = 0.01
    scale_free: bool = True
    normalised: bool = True
    schedule: str = "linear"
    weight_decay: float = 0.0
    decay_steps: float = 0.0
    growth: float = 0.0
    overshoot: float = 0.2
    newton_schulz: bool = False
    epsilon: float = 0.0

    def __post_init__(self):
        """Refuses what cannot be built."""
        super().__post_init__()
        if self.hidden_size < 2:
            raise InputError(f"hidden_size is {self.hidden_size}; wanted at least 2, which begin as Adam.")
        for name, bound in (("growth", MAX_GROWTH), ("overshoot", 1.0), ("epsilon", 1.0)):
            if getattr(self, name) > bound:
                raise InputError(f"{name} is {getattr(self, name)}; wanted 0 to {bound:g}.")
        if 0 < self.epsilon < SMALLEST_EPSILON:
            raise InputError(f"epsilon is {self.epsilon}; wanted 0, or {SMALLEST_EPSILON} to 1.")
        if self.newton_schulz and not self.normalised:
            raise InputError("newton_schulz is True and normalised False; wanted normalised True too.")
        lookup(SCHEDULES, self.schedule, "schedule")

    def init_theta(self, key: jax.Array) -> Theta:
        """Initial weights: Adam's direction and a small random one; initial decays and rates.

        From random directions alone meta-training first learns to make no steps, and stays there.
        """
        mlp = init_mlp(key, SMALL_FC_FEATURES.size, self.hidden_size, num_outputs=1)
        return {
            "mlp": _begin_as_adam(mlp),
            "decays": initial_decay_offsets(),
            "rates": {kind: jnp.zeros([], jnp.float32) for kind in INITIAL_RATES},
        }

    def init(
        self, theta: Theta, params: Params, num_steps: Any, mup: PyTree | None = None
    ) -> DirectionFCState:
        """Zero statistics.

        Raises:
          InputError: `num_steps` is `None`, or a leaf is not of a floating-point dtype.
        """
        del theta
        _tree.check_float_leaves(params)
        if num_steps is None:
            raise _schedule.missing_num_steps(self.name)
        return DirectionFCState(
            step=jnp.zeros([], jnp.int32),
            num_steps=jnp.asarray(num_steps, jnp.float32),
            accumulators=init_accumulators(params, mup),
            log_growth=varying_like(jnp.zeros(count_tensors(params, mup), jnp.float32), params),
            num_nonfinite=varying_like(jnp.zeros([], jnp.int32), params),
        )

    def with_num_steps(self, state: DirectionFCState, num_steps: Any) -> DirectionFCState:
        """The state of a run that is to have another length."""
        return state._replace(num_steps=_schedule.new_length(state.num_steps, num_steps))

    def update(
        self,
        theta: Theta,
        state: DirectionFCState,
        grads: PyTree,
        params: Params,
        loss: Any,
        mup: PyTree | None,
    ) -> tuple[Updates, DirectionFCState]:
        """One step; see `mulo.optimizers.base.LearnedOptimizer`. `loss` is not used.

        Raises:
          InputError: `grads` or `state` have not the structure and shapes of `params`.
        """
        del loss
        leaves = take_apart(state.accumulators, grads, params, mup)
        _check_growth(state, count_tensors(params, mup))
        decays = effective_decays(theta["decays"])
        amounts, rates = self._amounts(state, decays), _rates(theta["rates"])

        def update_tensor(
            tensor: Tensor, log_growth: jax.Array, traits: _Traits
        ) -> tuple[jax.Array, Accumulators, jax.Array]:
            before, is_matrix = tensor.accumulators, tensor.param.ndim > 1
            after = next_statistics(decays, tensor, bound_gradient(tensor.grad))
            tensor = tensor._replace(accumulators=after)
            rate = rates["vector"]
            if is_matrix:
                rate = jnp.where(traits.is_hidden, rates["hidden"], rates["matrix"])
            factor, log_growth = self._step_factor(before, tensor, log_growth, amounts)
            step = traits.multiplier * amounts.size * rate * factor * self._direction(theta["mlp"], tensor)
            if is_matrix:
                step += amounts.decay * traits.decay_multiplier * tensor.param
            return -amounts.schedule * step, after, log_growth

        results, count = update_tensors(update_tensor, leaves, state.log_growth, _traits(params, mup))
        updates, accumulators = put_together([row[:2] for row in results], state.accumulators, params, mup)
        return updates, DirectionFCState(
            step=optax.safe_increment(state.step),
            num_steps=state.num_steps,
            accumulators=accumulators,
            log_growth=jnp.concatenate([row[2] for row in results]) if results else state.log_growth,
            num_nonfinite=add_count(state.num_nonfinite, count),
        )

    def _amounts(self, state: DirectionFCState, decays: Decays) -> _Amounts:
        """What is the same for all tensors in the step that comes next."""
        step = state.step.astype(jnp.float32)
        done, short = step / state.num_steps, jnp.minimum(FULL_STEPS, state.num_steps)
        return _Amounts(
            schedule=jnp.where(done < 1.0, SCHEDULES[self.schedule](done), 0.0),
            size=self.step_mult * jnp.sqrt(jnp.minimum(1.0, FULL_STEPS / state.num_steps)),
            decay=self.weight_decay / jnp.maximum(self.decay_steps, state.num_steps),
            # Less in longer runs: where noise is all there is, growth would undo that steps are smaller.
            growth_speed=self.growth * jnp.maximum(0.0, 1.0 - 2.0 * (step / short)) / state.num_steps,
            bias_correction=1.0 - decays.momentum[MOMENTUM] ** step,
            share_correction=share_correction(decays, step + 1.0),
        )

    def _step_factor(
        self, before: Accumulators, tensor: Tensor, log_growth: jax.Array, amounts: _Amounts
    ) -> tuple[jax.Array, jax.Array]:
        """What a tensor's step is multiplied with beside its rate, and its growth from now on, [] each."""
        factor = jnp.ones([], jnp.float32)
        if self.growth:
            grad = bound_gradient(tensor.grad)
            agreed = agreement(before, tensor.accumulators, grad, amounts.bias_correction)
            grown = grow(log_growth, agreed, self.overshoot, amounts.growth_speed)
            log_growth = jnp.where(look_at(tensor.grad)[0], grown, log_growth)
            factor *= jnp.exp(log_growth)
        if self.epsilon:
            share = rms_share(tensor.accumulators, amounts.share_correction)
            factor *= jnp.minimum(1.0, share / self.epsilon)
        return factor, log_growth

    def _direction(self, mlp: Theta, tensor: Tensor) -> jax.Array:
        """What the network says of a tensor whose statistics have been updated, [*shape]."""
        ingredients, axis_features = make_ingredients(
            tensor.accumulators, tensor.grad, tensor.param, scale_free=self.scale_free
        )
        direction = apply_mlp(mlp, ingredients, axis_features, None, features=SMALL_FC_FEATURES, exp_mult=0.0)
        if self.newton_schulz and tensor.param.ndim > 1:
            direction = orthogonalise_kernel(direction, NEWTON_SCHULZ_ITERATIONS)
        if self.normalised:
            direction *= inverse_rms(mean(jnp.square(direction)), 1e-12)
        # Without a gradient so far the features that are left say nothing.
        return jnp.where(mean(tensor.accumulators.second_moment) > 0, direction, 0.0)


def _check_growth(state: DirectionFCState, num_tensors: int) -> None:
    if state.log_growth.shape != (num_tensors,):
        raise InputError(
            f"The state's log_growth has shape {state.log_growth.shape}; wanted ({num_tensors},), one number "
            "for each tensor that has entries. Was the state made for other parameters?"
        )


def _begin_as_adam(mlp: Theta) -> Theta:
    """Two hidden units that pass on Adam's direction, one what is positive of it and one the rest."""
    pair = jnp.array([1.0, -1.0])
    return {
        **mlp,
        "w0": mlp["w0"].at[:, :2].set(0.0).at[ADAM_INPUT, :2].set(pair),
        "w1": mlp["w1"].at[:, :2].set(0.0).at[(0, 1), (0, 1)].set(1.0),
        "w2": (INITIAL_SHARE * mlp["w2"]).at[:2, 0].set(pair),
    }


def _rates(offsets: Theta) -> dict[str, jax.Array]:
    """The learned rate of each kind of tensors. An offset of 0.01 changes it by 10 %, as with decays."""
    return {kind: initial * jnp.exp(10.0 * offsets[kind]) for kind, initial in INITIAL_RATES.items()}


def _traits(params: Params, mup: PyTree | None) -> _Traits:
    return _Traits(
        is_hidden=for_each_tensor(
            lambda rule: rule is not None and rule.role is Role.HIDDEN, params, mup, bool
        ),
        multiplier=flat_multipliers(params, mup),
        decay_multiplier=flat_decay_multipliers(params, mup),
    )
