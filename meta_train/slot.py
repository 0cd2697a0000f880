"""The unit of meta-training work: some pairs of one task, advanced by one truncation at a time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from meta_train.estimators import GradientEstimator
from meta_train.inner_loop import InnerLoop, Unroll, begin_with_own_theta, start, unroll_truncation
from meta_train.objectives import bound_losses, scale_losses, select_steps
from meta_train.perturbations import draw_perturbations, zero_frozen
from mulo.optimizers.base import Theta


class SlotState(NamedTuple):
    """What a slot keeps between truncations."""

    unrolls: Unroll  # leaves [C, P, ...]: inner params and accumulators; plus half first
    perturbation_sum: Theta  # leaves [P, ...], float32: sum of this inner run's perturbations
    initial_losses: jax.Array  # [P], float32: of each pair's initial parameters
    inner_step: jax.Array  # [], int32: position in the inner run, the same for all P pairs
    first_step: jax.Array  # [], int32: the meta-step at which the inner run began
    lost: jax.Array  # [], bool: every particle has exploded; the slot is to begin a new run


class SlotKeys(NamedTuple):
    """The random keys of one truncation of one slot."""

    perturbation: jax.Array  # the same for a whole inner run if the estimator keeps its perturbations
    unroll: jax.Array  # of the batches


class SlotStatistics(NamedTuple):
    """What a truncation reports."""

    meta_loss: jax.Array  # [], float32: mean judged loss over steps and particles, clipped
    last_loss: jax.Array  # [], float32: the same at the last inner step alone
    clipped_fraction: jax.Array  # [], float32: share of judged losses that were clipped or not finite
    nonfinite_fraction: jax.Array  # [], float32: share of judged losses that were not finite
    lost: jax.Array  # [], bool: as in the state after


class SlotProgram(NamedTuple):
    """What decides how a slot is advanced; the same for all slots of a task."""

    loop: InnerLoop
    estimator: GradientEstimator
    num_pairs: int
    perturbation_std: float
    meta_objective: str  # see `meta_train.config.META_OBJECTIVES`
    loss_bound: float  # upper bound of an inner loss, in its units; infinity = none
    loss_scale: str = "none"  # see `meta_train.config.LOSS_SCALES`
    trained_keys: tuple[str, ...] = ()  # at the top of theta: what is perturbed and trained; none = all
    weight: float = 1.0  # factor on the gradient: the task's weight over the mean weight of the slots


def reset(
    program: SlotProgram, theta: Theta, key: jax.Array, source: Any, first_step: Any, num_steps: Any
) -> SlotState:
    """The state at the beginning of new inner runs.

    Args:
      program: what the slot runs.
      theta: unperturbed.
      key: of the initial parameters.
      source: what batches are drawn from.
      first_step: the meta-step at which they begin.
      num_steps: inner steps that they will have; learned optimizers that plan ahead are told.
    """
    unrolls, initial_losses = start(
        program.loop,
        theta,
        key,
        source,
        num_steps,
        num_pairs=program.num_pairs,
        num_copies=program.estimator.num_copies,
    )
    return SlotState(
        unrolls=unrolls,
        perturbation_sum=jax.tree.map(lambda t: jnp.zeros((program.num_pairs, *t.shape), jnp.float32), theta),
        initial_losses=initial_losses,
        inner_step=jnp.zeros([], jnp.int32),
        first_step=jnp.asarray(first_step, jnp.int32),
        lost=jnp.zeros([], bool),
    )


def advance(
    program: SlotProgram, theta: Theta, slot_state: SlotState, keys: SlotKeys, source: Any
) -> tuple[Theta, SlotState, SlotStatistics]:
    """One truncation of every particle, and the meta-gradient that it gives.

    Args:
      program: what the slot runs.
      theta: unperturbed.
      slot_state: before.
      keys: what is drawn at this meta-step.
      source: what batches are drawn from.

    Returns:
      The gradient, shaped like theta, zero where theta is not trained; the state after; what is reported.
    """
    estimator = program.estimator

    def unroll(thetas: Theta) -> tuple[jax.Array, Any]:
        begun = begin_with_own_theta(program.loop, thetas, slot_state.unrolls, slot_state.inner_step == 0)
        losses, unrolls = unroll_truncation(
            program.loop, thetas, begun, keys.unroll, source, remat=estimator.differentiates
        )
        bounded, clipped = bound_losses(losses.judged, program.loss_bound)
        scaled = scale_losses(bounded, slot_state.initial_losses, program.loss_scale)
        nonfinite = ~jnp.isfinite(losses.judged)
        return select_steps(scaled, program.meta_objective), (bounded, clipped, nonfinite, unrolls)

    perturbations = draw_perturbations(keys.perturbation, theta, program.num_pairs, program.perturbation_std)
    perturbations = zero_frozen(perturbations, program.trained_keys)
    gradient, perturbation_sum, (bounded, clipped, nonfinite, unrolls) = estimator.estimate(
        unroll, theta, slot_state.perturbation_sum, perturbations, program.perturbation_std
    )
    gradient = zero_frozen(gradient, program.trained_keys)
    lost = jnp.all(clipped[-1])
    return (
        jax.tree.map(lambda g: g * program.weight, gradient),
        SlotState(
            unrolls=unrolls,
            perturbation_sum=perturbation_sum,
            initial_losses=slot_state.initial_losses,
            inner_step=slot_state.inner_step + program.loop.truncation_length,
            first_step=slot_state.first_step,
            lost=lost,
        ),
        SlotStatistics(
            meta_loss=jnp.mean(bounded),
            last_loss=jnp.mean(bounded[-1]),
            clipped_fraction=jnp.mean(clipped.astype(jnp.float32)),
            nonfinite_fraction=jnp.mean(nonfinite.astype(jnp.float32)),
            lost=lost,
        ),
    )
