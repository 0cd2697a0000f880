"""The unit of meta-training work: some pairs of one task, advanced by one truncation at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eval_tasks.data.source import DataSource
from meta_train.estimators import GradientEstimator, antithetic_gradient
from meta_train.inner_loop import InnerLoop, Unroll, start, unroll_truncation
from meta_train.perturbations import draw_perturbations, perturb
from mulo.optimizers.base import Theta


class SlotState(NamedTuple):
    """What a slot keeps between truncations."""

    unrolls: Unroll  # leaves [2, P, ...]: inner params and accumulators; plus half first
    perturbation_sum: Theta  # leaves [P, ...], float32: sum of this inner run's perturbations
    inner_step: jax.Array  # [], int32: position in the inner run, the same for all P pairs


class SlotKeys(NamedTuple):
    """The random keys of one truncation of one slot."""

    perturbation: (
        jax.Array
    )  # of the perturbations; the same for a whole inner run if the estimator keeps them
    unroll: jax.Array  # of the batches


class SlotStatistics(NamedTuple):
    """What a truncation reports."""

    meta_loss: jax.Array  # [], float32: mean inner loss over steps and particles, clipped
    last_loss: jax.Array  # [], float32: the same at the last inner step alone
    clipped_fraction: jax.Array  # [], float32: share of inner losses that were clipped or not finite


class SlotProgram(NamedTuple):
    """What decides how a slot is advanced; the same for all slots of a task."""

    loop: InnerLoop
    estimator: GradientEstimator
    num_pairs: int
    perturbation_std: float
    meta_objective: str  # "loss" or "log_loss", see `meta_losses`
    loss_bound: float  # upper bound of an inner loss, in its units; infinity = none


def reset(program: SlotProgram, theta: Theta, key: jax.Array) -> SlotState:
    """The state at the beginning of new inner runs."""
    return SlotState(
        unrolls=start(program.loop, theta, key, program.num_pairs),
        perturbation_sum=jax.tree.map(lambda t: jnp.zeros((program.num_pairs, *t.shape), jnp.float32), theta),
        inner_step=jnp.zeros([], jnp.int32),
    )


def advance(
    program: SlotProgram,
    theta: Theta,
    slot_state: SlotState,
    keys: SlotKeys,
    source: DataSource,
) -> tuple[Theta, SlotState, SlotStatistics]:
    """One truncation of every particle, and the meta-gradient that it gives.

    The meta-loss of a particle is the mean of its K inner losses.

    Args:
      program: what the slot runs.
      theta: unperturbed.
      slot_state: before.
      keys: what is drawn at this meta-step.
      source: what batches are drawn from.

    Returns:
      The gradient, shaped like theta; the state after; what is reported.
    """
    perturbations = draw_perturbations(keys.perturbation, theta, program.num_pairs, program.perturbation_std)
    losses, unrolls = unroll_truncation(
        program.loop, perturb(theta, perturbations), slot_state.unrolls, keys.unroll, source
    )
    bounded, clipped = bound_losses(losses, program.loss_bound)
    directions = program.estimator.directions(slot_state.perturbation_sum, perturbations)
    differences = loss_differences(meta_losses(bounded, program.meta_objective))
    gradient = antithetic_gradient(differences, directions, program.perturbation_std)
    return (
        gradient,
        SlotState(
            unrolls=unrolls,
            perturbation_sum=program.estimator.next_sum(slot_state.perturbation_sum, perturbations),
            inner_step=slot_state.inner_step + program.loop.truncation_length,
        ),
        SlotStatistics(
            meta_loss=jnp.mean(bounded),
            last_loss=jnp.mean(bounded[-1]),
            clipped_fraction=jnp.mean(clipped.astype(jnp.float32)),
        ),
    )


def meta_losses(losses: jax.Array, meta_objective: str) -> jax.Array:
    """What each inner step counts: its loss, or the logarithm of it.

    Under the logarithm an optimizer gains as much from 0.02 -> 0.01 late in a run as from 2 -> 1 early.
    Losses below 1e-4 count as about that, so that a run at zero does not decide the meta-gradient.
    """
    return jnp.log(losses + 1e-4) if meta_objective == "log_loss" else losses


def loss_differences(losses: jax.Array) -> jax.Array:
    """Meta-loss of the plus half less that of the minus half, for each pair. losses: [K, 2, P] -> [P].

    Subtracted before averaging: the halves are close, and their means would lose the last digits.
    """
    return jnp.mean(losses[:, 0] - losses[:, 1], axis=0)


def bound_losses(losses: jax.Array, bound: float) -> tuple[jax.Array, jax.Array]:
    """Inner losses with those above `bound` or not finite replaced by `bound`; and where that was.

    A run that has exploded then counts as bad as the bound, instead of deciding the meta-gradient alone.
    """
    clipped = ~(jnp.isfinite(losses) & (losses <= bound))
    return jnp.where(clipped, bound, losses), clipped
