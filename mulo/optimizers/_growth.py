"""Steps of a tensor that grow for as long as its gradients go on the way of those before them.

Where they do, steps are too small for this network, and where they turn around, too large: delta-bar-delta
(Jacobs 1988, Neural Networks 1, 295-307), for whole tensors, in the metric of Adam, and upwards alone.
"""

import jax
import jax.numpy as jnp

from mulo.optimizers._accumulators import Accumulators
from mulo.optimizers._features import inverse_rms, mean

MAX_LOG_GROWTH = 2.0
"""Steps grow to at most exp(2), 7.4 times their size: so also where gradients agree by having no effect."""

MOMENTUM = 1
"""The momentum that gradients are compared with: the middle one of three."""

FLOOR = 1e-3
"""Of the second moment of a parameter, as a share of the mean over the tensor."""


def agreement(before: Accumulators, after: Accumulators, grad: jax.Array, made: jax.Array) -> jax.Array:
    """How much of the momentum there is in the next gradient, within -1 and 1; NaN without momentum.

    <g, m> / <m, m> where each parameter counts by one over its second moment: 1 where all gradients have been
    the same, 0 where they are noise, below 0 where steps overshoot.

    Args:
      before: statistics of one tensor, without the gradient.
      after: with it.
      grad: [*shape], float32, finite.
      made: [], share of the momentum's weights that is on gradients and not on its initial zeros.
    """
    scale = inverse_rms(mean(after.second_moment), 1e-36)
    weight = 1.0 / (after.second_moment * jnp.square(scale) + FLOOR)
    momentum = scale * before.momenta[MOMENTUM]
    along, whole = mean(weight * scale * grad * momentum), mean(weight * jnp.square(momentum))
    return jnp.where(whole > 0, jnp.clip(made * along / whole, -1.0, 1.0), jnp.nan)


def grow(log_growth: jax.Array, excess: jax.Array, speed: jax.Array) -> jax.Array:
    """The logarithm of how much the steps of a tensor have grown, after one more gradient; never below 0.

    Args:
      log_growth: [], before it.
      excess: [], by how much it agrees more than steps that are large enough let it; NaN for no change.
      speed: [], change for an excess of 1.
    """
    change = jnp.where(jnp.isnan(excess), 0.0, speed * excess)
    return jnp.clip(log_growth + change, 0.0, MAX_LOG_GROWTH)
