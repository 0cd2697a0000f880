"""Steps of a tensor that become smaller where its gradients vanish, as Adam's do by its epsilon.

A direction of one size does not say how large gradients are. Where a network knows its data by heart they are
a millionth of what they were, and then nothing; steps of full size go on in the direction of what is left of
them and make the network worse. So steps of a tensor are multiplied with

    min(1, rms(m) / (epsilon * rms(g)))

where rms(m) is the root mean square of the middle momentum over the tensor and rms(g) that of gradients, from
the second moment, both corrected for their initial zeros.
"""

import jax
import jax.numpy as jnp

from mulo.optimizers._accumulators import Accumulators, Decays
from mulo.optimizers._features import mean
from mulo.optimizers._growth import MOMENTUM

SMALLEST_EPSILON = 1e-12
"""With less, squares of what it is compared with are zero in float32."""

FLOOR = 1e-7
"""Of what corrects for initial zeros: a decay may be learned to be 1."""


def share_correction(decays: Decays, num_updates: jax.Array) -> jax.Array:
    """What corrects `rms_share` for statistics that began at zero, []. num_updates: [], float32, from 1."""
    momentum = 1.0 - decays.momentum[MOMENTUM] ** num_updates
    second_moment = 1.0 - jnp.clip(decays.second_moment[0], 0.0, 1.0) ** num_updates
    return jnp.sqrt(jnp.maximum(second_moment, FLOOR)) / jnp.maximum(momentum, FLOOR)


def rms_share(accumulators: Accumulators, correction: jax.Array) -> jax.Array:
    """Root mean square of the middle momentum over that of gradients, []; 0 without gradients.

    1 where all gradients have been the same, about a tenth where they are noise, next to nothing where they
    have been large and are not any more. As far back as the second moment goes.

    Args:
      accumulators: statistics of one tensor, with the last gradient.
      correction: [], as `share_correction` gives it.
    """
    # Both times a scale so that squares of small gradients are not 0.
    whole = mean(accumulators.second_moment)
    scale = jax.lax.stop_gradient(jax.lax.rsqrt(jnp.maximum(whole, 1e-36)))
    square = mean(jnp.square(scale * accumulators.momenta[MOMENTUM]))
    # No division by zero and no root of it, not even where they are not used: derivatives would be NaN.
    some = (whole > 0) & (square > 0)
    ratio = jnp.where(some, square, 1.0) / jnp.where(some, scale * whole * scale, 1.0)
    return jnp.where(some, correction * jnp.sqrt(ratio), 0.0)
