"""What VeLO and Celo know of the training run as a whole: how far it is, and how the loss falls.

Metz et al. 2022 (arXiv 2211.09760), as implemented by its authors, with `use_bugged_loss_features` off.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mulo.errors import InputError

NUM_MEANS = 10
NUM_LOSS_FEATURES = NUM_MEANS - 1
FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
"""Shares of the run at which the features of progress cross zero."""
NUM_FEATURES = len(FRACTIONS) + NUM_LOSS_FEATURES


class LossBuffer(NamedTuple):
    """Running means of the loss, from fast to slow, and the lowest each has been."""

    means: jax.Array  # [10], float32, without bias correction
    minima: jax.Array  # [10], float32, of the means with bias correction
    decays: jax.Array  # [10], float32, of the means
    count: jax.Array  # [], int32: losses seen


class Progress(NamedTuple):
    """Where a run stands; part of an optimizer's state."""

    step: jax.Array  # [], int32: updates made
    num_steps: jax.Array  # [], float32: that the run will have
    losses: LossBuffer


def init_progress(num_steps: Any, name: str) -> Progress:
    """A run that begins.

    Args:
      num_steps: its length in updates; may be traced.
      name: of the optimizer, for the error.

    Raises:
      InputError: `num_steps` is `None`.
    """
    if num_steps is None:
        raise missing_num_steps(name)
    return Progress(
        step=jnp.zeros([], jnp.int32),
        num_steps=jnp.asarray(num_steps, jnp.float32),
        losses=LossBuffer(
            means=jnp.zeros(NUM_MEANS, jnp.float32),
            minima=jnp.full(NUM_MEANS, 999999999999.0, jnp.float32),
            decays=_decays(jnp.asarray(num_steps, jnp.float32)),
            count=jnp.zeros([], jnp.int32),
        ),
    )


def new_length(before: jax.Array, num_steps: Any) -> jax.Array:
    """The length of a run as it is kept, [], float32, of the type that it had before."""
    num_steps = jnp.asarray(num_steps, jnp.float32)
    return jnp.where(num_steps == before, before, num_steps)


def with_num_steps(progress: Progress, num_steps: Any) -> Progress:
    """The same run with another length: the decays that follow from it, and means that say what they said."""
    length = new_length(progress.num_steps, num_steps)
    old, same = progress.losses, length == progress.num_steps
    decays = jnp.where(same, old.decays, _decays(length))
    # A mean is compared after its bias correction, which the new decays change.
    ratio = _corrections(decays, old.count) / _corrections(old.decays, old.count)
    means = jnp.where(same, old.means, old.means * ratio)
    return progress._replace(num_steps=length, losses=old._replace(decays=decays, means=means))


def _corrections(decays: jax.Array, count: jax.Array) -> jax.Array:
    """What the means after `count` losses, and after one where there is none, are divided by."""
    return 1.0 - decays ** jnp.maximum(count, 1).astype(jnp.float32)


def missing_num_steps(name: str) -> InputError:
    """The error where an optimizer that plans ahead is not told how far."""
    return InputError(
        f"The learned optimizer {name!r} needs num_steps, the number of updates that the training run will "
        "make: pass num_steps=1000 for a run of 1000."
    )


def advance(progress: Progress, loss: Any, name: str) -> tuple[Progress, jax.Array]:
    """One update more.

    Args:
      progress: before it.
      loss: scalar, of the update's gradients.
      name: of the optimizer, for the error.

    Returns:
      Progress after it; features of the update, [18] float32 within [-1, 1]: nine of the share of the run
      that is done, nine of the loss.

    Raises:
      InputError: `loss` is `None`, or no scalar.
    """
    if loss is None:
        raise InputError(
            f"The learned optimizer {name!r} needs the loss: tx.update(grads, state, params, value=loss), "
            "or mulo.apply(optimizer_state, grads, value=loss)."
        )
    if jnp.shape(loss) != ():
        raise InputError(
            f"The loss has shape {jnp.shape(loss)}; wanted a scalar, such as the mean over the batch."
        )
    losses = _add_loss(progress.losses, jnp.asarray(loss, jnp.float32))
    share = progress.step.astype(jnp.float32) / progress.num_steps
    done = jnp.tanh(10.0 * (share - jnp.asarray(FRACTIONS, jnp.float32)))
    after = Progress(step=optax.safe_increment(progress.step), num_steps=progress.num_steps, losses=losses)
    return after, jnp.concatenate([done, loss_features(losses)])


def _decays(num_steps: jax.Array) -> jax.Array:
    """Decays of the means, [10]; their half-lives lie between 10 and `num_steps` in equal ratios."""
    position = np.arange(NUM_MEANS, dtype=np.float32) / np.float32(NUM_MEANS - 1)
    half_lives = 10.0 ** (1.0 + (jnp.log10(num_steps) - 1.0) * position)
    return jnp.exp(-1.0 / half_lives)


def _add_loss(buffer: LossBuffer, loss: jax.Array) -> LossBuffer:
    """The buffer after one more loss, which counts as at most twice the largest mean.

    NaN is passed over; the reference's means are NaN from then on. So is an infinite loss with nothing to
    bound it.
    """
    decays = buffer.decays
    corrections = 1.0 - decays ** (buffer.count + 1).astype(jnp.float32)
    largest = jnp.max(buffer.means / corrections)
    bound = jnp.where(buffer.count == 0, loss, largest)
    loss = jnp.minimum(2.0 * jnp.abs(bound), loss)
    means = decays * buffer.means + (1.0 - decays) * loss
    minima = jnp.minimum(buffer.minima, means / corrections)
    after = LossBuffer(means=means, minima=minima, decays=decays, count=buffer.count + 1)
    return jax.tree.map(lambda new, old: jnp.where(jnp.isfinite(loss), new, old), after, buffer)


def loss_features(buffer: LossBuffer) -> jax.Array:
    """How far each mean lies above its minimum, over how far the next slower one lies above it, less 1: [9].

    Clipped to [-1, 1]; zeros before the third loss.
    """
    corrections = _corrections(buffer.decays, buffer.count)
    means, minima = buffer.means / corrections, buffer.minima[:-1]
    ratios = (means[:-1] - minima) / jnp.maximum(1e-8, means[1:] - minima)
    return jnp.where(buffer.count <= 2, 0.0, jnp.clip(ratios - 1.0, -1.0, 1.0))
