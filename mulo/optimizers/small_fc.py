"""SmallFC: one small network, applied to every parameter alike ("small_fc_lopt").

Metz et al. 2022 (arXiv 2203.11860); under muP this is the learned optimizer of muLO, Thérien et al.
2024 (arXiv 2406.00153). The step of a parameter is

    -multiplier * step_mult * direction * exp(exp_mult * magnitude)

with (direction, magnitude) = MLP(features of that parameter, time), and multiplier = 1/fan_in for a
hidden weight under muP, else 1.

The epsilons of the features (1e-5 where they are normalised, 1e-6 to 1e-9 in inverse roots) are those of the
reference: absolute numbers. Gradients shrink with width, under muP as 1/width, and fall below them.
`scale_free=True` takes the features of a tensor from its gradients over s, with

    s^2 = mean over the tensor of its running mean of squares, `second_moment`:

gradient and momenta are divided by s, second moments, rows and columns by s^2, and the formulas applied as
they are; the parameter is normalised without epsilon. All epsilons are then relative to the tensor's own
scale, and steps do not change when all gradients of a tensor are multiplied by a constant.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mulo import _tree
from mulo._types import Params, PyTree, Theta, Updates
from mulo.optimizers._accumulators import (
    INITIAL_DECAYS,
    Accumulators,
    Decays,
    bound_gradient,
    init_accumulators,
)
from mulo.optimizers._features import (
    SMALL_FC_FEATURES,
    TIME_SCALES,
    make_ingredients,
    normalised_scales,
    time_features,
)
from mulo.optimizers._fields import Configured
from mulo.optimizers._mlp import apply_mlp, init_mlp
from mulo.optimizers._placement import varying_like
from mulo.optimizers._tensors import (
    Tensor,
    add_count,
    flat_multipliers,
    map_tensors,
    next_statistics,
    put_together,
    take_apart,
    update_tensors,
)


class SmallFCState(NamedTuple):
    """What is kept between steps; four numbers a parameter and the factored vectors."""

    step: jax.Array  # [], int32: updates made
    accumulators: Accumulators  # trees shaped like the parameters, float32
    num_nonfinite: jax.Array  # [], int32: entries of gradients so far that were NaN or infinite


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallFC(Configured):
    """The per-parameter learned optimizer.

    Args:
      hidden_size: units in each of the two hidden layers; 4 in Metz et al., 32 in muLO.
      step_mult: size of a step; 0.001 in SP, 0.01 in muLO's muP runs.
      exp_mult: how much the magnitude output counts.
      max_global_norm: gradients are clipped to this global norm, and where one entry is not finite all
        gradients count as zero, so that tensors go on by their momentum; but those of which no entry is
        finite stand still, as they do without it. 0 switches both off.
      scale_free: features do not depend on the scale of a tensor's gradients; the formula is at the head of
        this module. It holds for gradients of which the root mean square is between about 1e-13 and 1e13.
        Theta is to be meta-trained with it: the same theta makes other steps with and without.

    >>> optimizer = SmallFC(hidden_size=4)
    >>> theta = optimizer.init_theta(jax.random.key(0))
    >>> params = {"w": jnp.ones((2, 3))}
    >>> state = optimizer.init(theta, params, num_steps=None)
    >>> updates, state = optimizer.update(theta, state, params, params, loss=None, mup=None)
    >>> updates["w"].shape, int(state.step)
    ((2, 3), 1)
    """

    name: ClassVar[str] = "small_fc"

    hidden_size: int = 32
    step_mult: float = 0.001
    exp_mult: float = 0.001
    max_global_norm: float = 0.0
    scale_free: bool = False

    def init_theta(self, key: jax.Array) -> Theta:
        """Initial weights: the network's, and offsets of zero from the initial decays."""
        return {
            "mlp": init_mlp(key, SMALL_FC_FEATURES.size + len(TIME_SCALES), self.hidden_size),
            "decays": initial_decay_offsets(),
        }

    def init(
        self, theta: Theta, params: Params, num_steps: int | None = None, mup: PyTree | None = None
    ) -> SmallFCState:
        """Zero statistics. `num_steps` is not used.

        Raises:
          InputError: a leaf is not of a floating-point dtype.
        """
        del theta, num_steps
        _tree.check_float_leaves(params)
        return SmallFCState(
            step=jnp.zeros([], jnp.int32),
            accumulators=init_accumulators(params, mup),
            num_nonfinite=varying_like(jnp.zeros([], jnp.int32), params),
        )

    def update(
        self, theta: Theta, state: SmallFCState, grads: PyTree, params: Params, loss: Any, mup: PyTree | None
    ) -> tuple[Updates, SmallFCState]:
        """One step; see `mulo.optimizers.base.LearnedOptimizer`. `loss` is not used.

        Raises:
          InputError: `grads` or `state` have not the structure and shapes of `params`.
        """
        del loss
        tensors = take_apart(state.accumulators, grads, params, mup)
        decays, time = effective_decays(theta["decays"]), time_features(state.step)
        clip = self._make_clip(tensors)

        def update_tensor(tensor: Tensor, multiplier: jax.Array) -> tuple[jax.Array, Accumulators]:
            grad = clip(tensor.grad)
            accumulators = next_statistics(decays, tensor, bound_gradient(grad))
            ingredients, axis_features = make_ingredients(
                accumulators, grad, tensor.param, scale_free=self.scale_free
            )
            step = apply_mlp(
                theta["mlp"],
                ingredients,
                axis_features,
                time,
                features=SMALL_FC_FEATURES,
                exp_mult=self.exp_mult,
            )
            return -(step * self.step_mult) * multiplier, accumulators

        results, count = update_tensors(update_tensor, tensors, flat_multipliers(params, mup))
        updates, accumulators = put_together(results, state.accumulators, params, mup)
        return updates, SmallFCState(
            step=optax.safe_increment(state.step),
            accumulators=accumulators,
            num_nonfinite=add_count(state.num_nonfinite, count),
        )

    def _make_clip(self, tensors: list[Tensor]) -> Callable[[jax.Array], jax.Array]:
        """What clips a gradient to the global norm; leaves it as it is where there is no bound."""
        if not self.max_global_norm:
            return lambda grad: grad
        grads = [tensor.grad for tensor in tensors]
        finite = [jnp.where(jnp.isfinite(grad), grad, 0.0) for grad in grads]
        square = optax.tree.norm(finite, squared=True)
        # No root of zero and no division that is not used: their derivatives would be NaN.
        norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        is_finite = jnp.isfinite(norm)
        for grad in grads:
            is_finite &= jnp.all(jnp.isfinite(grad))
        is_small = ~(is_finite & (norm >= self.max_global_norm))
        divisor = jnp.where(is_small, 1.0, norm)

        def clip(grad: jax.Array) -> jax.Array:
            grad = jnp.where(jnp.isfinite(grad), grad, 0.0)
            clipped = jnp.where(is_small, grad, grad / divisor * self.max_global_norm)
            return jnp.where(is_finite, clipped, 0.0)

        return clip


def feature_scales(
    state: SmallFCState, grads: PyTree, params: Params, *, scale_free: bool, mup: PyTree | None = None
) -> PyTree:
    """Root mean square of each feature over each tensor, before and after it is normalised.

    To see whether the features of a network are of order one: after normalisation each is at 1, unless the
    epsilon of the normaliser counts.

    Args:
      state: after the update with `grads`.
      grads: shaped like the parameters.
      params: before that update.
      scale_free: as of `SmallFC`.
      mup: as for `SmallFC.update`.

    Returns:
      Tree of float32 [S, 2, 28], in the order of the rows of the network's first layer; S tensors are in the
      leaf: as many as its stacked axes have positions, 1 without those, and 0 where it has no entries.

    >>> optimizer = SmallFC(hidden_size=4)
    >>> theta, params = optimizer.init_theta(jax.random.key(0)), {"w": jnp.ones((2, 3))}
    >>> _, state = optimizer.update(theta, optimizer.init(theta, params), params, params, loss=None, mup=None)
    >>> scales = feature_scales(state, params, params, scale_free=False)["w"]
    >>> scales.shape, round(float(scales[0, 0, 0]), 3), round(float(scales[0, 1, 0]), 3)
    ((1, 2, 28), 1.0, 1.0)
    """

    def scales_of(tensor: Tensor) -> jax.Array:
        ingredients = make_ingredients(tensor.accumulators, tensor.grad, tensor.param, scale_free=scale_free)
        return normalised_scales(*ingredients, SMALL_FC_FEATURES)

    found = iter(map_tensors(scales_of, take_apart(state.accumulators, grads, params, mup)))
    nothing = jnp.zeros((0, 2, SMALL_FC_FEATURES.size), jnp.float32)
    return jax.tree.map(lambda param: next(found) if jnp.size(param) else nothing, params)


def initial_decay_offsets() -> Theta:
    """Offsets with which `effective_decays` gives the initial decays."""
    return {
        field: jnp.zeros(initial.shape, jnp.float32)
        for field, initial in zip(Decays._fields, INITIAL_DECAYS, strict=True)
    }


def effective_decays(offsets: dict[str, jax.Array]) -> Decays:
    """Decays from their learned offsets: 1 - exp(10 (log(1 - initial)/10 + offset)).

    An offset of 0.01 changes 1 - decay by 10 %.
    """

    def decay(initial: np.ndarray, offset: jax.Array) -> jax.Array:
        return 1.0 - jnp.exp(10.0 * (jnp.log(1.0 - initial) / 10.0 + offset))

    return Decays(
        **{
            field: decay(initial, offsets[field])
            for field, initial in zip(Decays._fields, INITIAL_DECAYS, strict=True)
        }
    )
