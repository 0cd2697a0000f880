"""Steps of a tensor that grow unless its gradients turn against those before them.

Where gradients go on as before, steps are too small for this network, and where they turn around, too large:
delta-bar-delta (Jacobs 1988, Neural Networks 1, 295-307), for whole tensors and in the metric of Adam. Steps
that have grown may become smaller again, but not smaller than they were at first.
"""

import jax
import jax.numpy as jnp

from mulo.optimizers._accumulators import Accumulators
from mulo.optimizers._features import mean

MAX_LOG_GROWTH = 2.0
"""Steps grow to at most exp(2), 7.4 times their size: so also where gradients agree by having no effect."""

MOMENTUM = 1
"""The momentum that gradients are compared with: the middle one of three."""

FLOOR = 1e-3
"""Of the second moment of a parameter, as a share of the mean over the tensor."""


def agreement(
    before: Accumulators, after: Accumulators, grad: jax.Array, bias_correction: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """How much of the momentum there is in the next gradient, within -1 and 1, and whether one can say.

    <g, m> / <m, m>, with the momentum m corrected for its initial zeros and each parameter weighed by one
    over its second moment and `FLOOR`: 1 where all gradients have been the same, about 0 where they are
    noise, less where steps overshoot. One cannot say without momentum, or without a gradient.

    Args:
      before: statistics of one tensor, without the gradient.
      after: with it.
      grad: [*shape], float32, finite.
      bias_correction: [], share of the momentum's weights that is on gradients and not on its initial zeros.
    """
    # A scale so that squares of small gradients are not 0; it cancels.
    size = mean(after.second_moment)
    scale = jax.lax.stop_gradient(jnp.where(size > 0, jax.lax.rsqrt(jnp.maximum(size, 1e-36)), 1.0))
    weight = 1.0 / (after.second_moment * jnp.square(scale) + FLOOR)
    momentum = scale * before.momenta[MOMENTUM]
    along, whole = mean(weight * scale * grad * momentum), mean(weight * jnp.square(momentum))
    known = (whole > 0) & (along != 0)
    # No division by zero, not even where its result is not used: its derivative would be NaN.
    return jnp.clip(bias_correction * along / jnp.where(known, whole, 1.0), -1.0, 1.0), known


def grow(
    log_growth: jax.Array, agreement: tuple[jax.Array, jax.Array], overshoot: float, speed: jax.Array
) -> jax.Array:
    """The logarithm of how much the steps of a tensor have grown, after one more gradient; never below 0.

    Args:
      log_growth: [], before it.
      agreement: as `agreement` gives it.
      overshoot: how far below 0 it may be for steps to grow.
      speed: [], change for each 1 that it is above that.
    """
    agreed, known = agreement
    change = jnp.where(known, speed * (agreed + overshoot), 0.0)
    return jnp.clip(log_growth + change, 0.0, MAX_LOG_GROWTH)
