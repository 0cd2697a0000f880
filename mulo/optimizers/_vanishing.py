"""Steps of a tensor that become smaller where its gradients vanish, as Adam's do by its epsilon.

A direction of one size does not say how large gradients are. Where a network knows its data by heart they are
a millionth of what they were, and then nothing; steps of full size go on in the direction of what is left of
them and make the network worse.
"""

import jax
import jax.numpy as jnp

from mulo.optimizers._accumulators import Accumulators, Decays
from mulo.optimizers._features import mean
from mulo.optimizers._growth import MOMENTUM


def share_correction(decays: Decays, num_updates: jax.Array) -> jax.Array:
    """What corrects `rms_share` for statistics that began at zero, []. num_updates: [], float32, from 1."""
    momentum = 1.0 - decays.momentum[MOMENTUM] ** num_updates
    second_moment = 1.0 - jnp.clip(decays.second_moment[0], 0.0, 1.0) ** num_updates
    return jnp.sqrt(second_moment) / momentum


def rms_share(accumulators: Accumulators, correction: jax.Array) -> jax.Array:
    """Root mean square of the middle momentum over that of gradients so far, []; 0 without gradients.

    1 where all gradients have been the same, about a tenth where they are noise, next to nothing where they
    have been large and are not any more.

    Args:
      accumulators: statistics of one tensor, with the last gradient.
      correction: [], as `share_correction` gives it.
    """
    # A scale so that squares of small gradients are not 0; it cancels.
    whole = mean(accumulators.second_moment)
    scale = jax.lax.rsqrt(jnp.maximum(whole, 1e-36))
    square = mean(jnp.square(scale * accumulators.momenta[MOMENTUM]))
    # No root of zero: its derivative would be infinite.
    some = (whole > 0) & (square > 0)
    return jnp.where(some, correction * jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)
