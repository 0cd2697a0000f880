"""What a truncation is judged by: from inner losses to what is differenced or differentiated.

Axis words: `K` inner steps, `C` copies (two halves of an antithetic pair, or one), `P` pairs.
"""

import jax
import jax.numpy as jnp

LOG_FLOOR = 1e-4
"""Losses below this count as about this, so that a run at zero does not decide the meta-gradient."""


def bound_losses(losses: jax.Array, bound: float) -> tuple[jax.Array, jax.Array]:
    """Inner losses with those above `bound` or not finite replaced by `bound`; and where that was.

    A run that has exploded then counts as bad as the bound, instead of deciding the meta-gradient alone.
    """
    clipped = ~(jnp.isfinite(losses) & (losses <= bound))
    return jnp.where(clipped, bound, losses), clipped


def scale_losses(losses: jax.Array, initial_losses: jax.Array, loss_scale: str) -> jax.Array:
    """Puts losses of different tasks on one scale.

    Args:
      losses: [K, C, P], bounded.
      initial_losses: [P], that of each pair's initial parameters.
      loss_scale: "none"; "log", under which halving the loss counts the same early and late; or
        "initial", the loss over the initial one.

    Returns:
      [K, C, P].
    """
    if loss_scale == "log":
        return jnp.log(losses + LOG_FLOOR)
    if loss_scale == "initial":
        return losses / jnp.maximum(initial_losses, LOG_FLOOR)[None, None]
    return losses


def select_steps(losses: jax.Array, meta_objective: str) -> jax.Array:
    """The inner steps that count: the last alone for "final_loss", else all. [K, C, P] -> [K or 1, C, P]."""
    return losses[-1:] if meta_objective == "final_loss" else losses


def loss_differences(losses: jax.Array) -> jax.Array:
    """Meta-loss of the plus half less that of the minus half, for each pair. losses: [K, 2, P] -> [P].

    Subtracted before averaging: the halves are close, and their means would lose the last digits.
    """
    return jnp.mean(losses[:, 0] - losses[:, 1], axis=0)
