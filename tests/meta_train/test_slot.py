import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.estimators import ANALYTIC, PES
from meta_train.inner_loop import unroll_truncation
from meta_train.objectives import bound_losses, loss_differences, scale_losses, select_steps
from meta_train.perturbations import draw_perturbations, perturb
from meta_train.presets import PRESETS
from meta_train.programs import build_optimizer, build_programs
from meta_train.slot import SlotKeys, advance, reset
from tests.meta_train.quadratic import empty_source, load_trace, make_program


def test_losses_that_are_too_large_or_not_finite_count_as_the_bound():
    losses = jnp.array([0.5, 3.0, 3.1, jnp.nan, jnp.inf, -jnp.inf])
    bounded, clipped = bound_losses(losses, 3.0)
    assert np.array_equal(clipped, [False, False, True, True, True, True])
    assert np.array_equal(bounded, np.float32([0.5, 3.0, 3.0, 3.0, 3.0, 3.0]))


def test_loss_differences_are_plus_less_minus_in_the_mean_over_inner_steps():
    losses = jnp.float32([[[1, 2], [3, 0]], [[2, 2], [0, 1]]])
    np.testing.assert_allclose(loss_differences(losses), [0.0, 1.5])


def make_keys(seed):
    return SlotKeys(*jax.random.split(jax.random.key(seed)))


def make_state():
    trace = load_trace()
    program = make_program(trace, 0.01, 4, PES)
    theta = {leaf: jnp.asarray(trace[f"trace/theta/{leaf}"]) for leaf in ("log_lr", "one_minus_momentum")}
    return program, theta, reset(program, theta, jax.random.key(0), empty_source(), 0, 20)


def test_a_slot_advances_by_one_truncation_and_is_a_function_of_its_key():
    program, theta, state = make_state()
    first, after, statistics = advance(program, theta, state, make_keys(1), empty_source())
    again, _, _ = advance(program, theta, state, make_keys(1), empty_source())
    other, _, _ = advance(program, theta, state, make_keys(2), empty_source())
    assert int(after.inner_step) == program.loop.truncation_length
    assert float(first["log_lr"]) == float(again["log_lr"]) != float(other["log_lr"])
    assert float(statistics.clipped_fraction) == 0.0
    assert math.isfinite(float(statistics.meta_loss))


def test_both_halves_of_a_pair_begin_alike():
    _, _, state = make_state()
    for leaf in jax.tree.leaves(state.unrolls):
        assert np.array_equal(leaf[0], leaf[1])


def test_one_exploding_particle_leaves_the_gradient_finite():
    program, theta, state = make_state()
    params = state.unrolls.params.at[0, 1].set(jnp.inf)
    state = state._replace(unrolls=state.unrolls._replace(params=params))
    program = program._replace(loss_bound=10.0)
    gradient, _, statistics = advance(program, theta, state, make_keys(1), empty_source())
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(gradient))
    assert float(statistics.clipped_fraction) == 1 / 8
    assert float(statistics.nonfinite_fraction) == 1 / 8
    assert not bool(statistics.lost)


def test_a_loss_above_the_bound_is_clipped_and_is_finite():
    program, theta, state = make_state()
    program = program._replace(loss_bound=1e-3)
    _, after, statistics = advance(program, theta, state, make_keys(1), empty_source())
    assert float(statistics.clipped_fraction) == 1.0 and float(statistics.nonfinite_fraction) == 0.0
    assert bool(statistics.lost) and bool(after.lost)


def test_one_exploded_run_does_not_spoil_the_analytic_gradient():
    trace = load_trace()
    _, theta, _ = make_state()
    program = make_program(trace, 0.01, 2, ANALYTIC)._replace(loss_bound=1e6)
    state = reset(program, theta, jax.random.key(0), empty_source(), 0, 20)
    both, _, _ = advance(program, theta, state, make_keys(1), empty_source())
    params = state.unrolls.params.at[0, 1].set(jnp.nan)
    state = state._replace(unrolls=state.unrolls._replace(params=params))
    one, _, statistics = advance(program, theta, state, make_keys(1), empty_source())
    assert float(statistics.nonfinite_fraction) == 0.5
    # The two runs are alike: the exploded one counts as zero.
    for leaf, gradient in one.items():
        assert float(gradient) == pytest.approx(float(both[leaf]) / 2, rel=1e-6)


def test_a_slot_is_lost_when_its_last_particle_is():
    program, theta, state = make_state()
    program = program._replace(loss_bound=1e6)
    for num_lost in (7, 8):
        lost = jnp.arange(8).reshape(2, 4) < num_lost
        params = jnp.where(lost[..., None], jnp.nan, state.unrolls.params)
        exploded = state._replace(unrolls=state.unrolls._replace(params=params))
        _, after, _ = advance(program, theta, exploded, make_keys(1), empty_source())
        assert bool(after.lost) == (num_lost == 8)


def test_the_weight_of_a_task_multiplies_its_gradient():
    program, theta, state = make_state()
    once, _, _ = advance(program, theta, state, make_keys(1), empty_source())
    twice, _, _ = advance(program._replace(weight=2.0), theta, state, make_keys(1), empty_source())
    assert float(twice["log_lr"]) == 2 * float(once["log_lr"])


@functools.cache
def digits_slot(augmentation=1.0, judge_held_out=False):
    config = dataclasses.replace(
        PRESETS["quick"],
        tasks=("mlp-w4-d1_digits",),
        truncation_length=3,
        batch_size=8,
        pairs_per_slot=2,
        augmentation=augmentation,
        meta_objective="validation_loss" if judge_held_out else "mean_loss",
    )
    compiled = build_programs(config)["mlp-w4-d1_digits"]
    theta = build_optimizer(config).init_theta(jax.random.key(0))
    return compiled, theta, compiled.reset(theta, jax.random.key(1), 7)


def test_augmentation_gives_the_same_networks_with_rescaled_parameters():
    _, _, plain = digits_slot()
    compiled, theta, scaled = digits_slot(augmentation=10.0)
    assert plain.unrolls.scales == ()
    scales = np.stack(jax.tree.leaves(scaled.unrolls.scales))  # [leaves, 2, P]
    assert scales.min() >= 0.1 and scales.max() <= 10.0
    assert np.array_equal(scales[:, 0], scales[:, 1]) and len(np.unique(scales)) == scales.size // 2
    np.testing.assert_array_equal(plain.initial_losses, scaled.initial_losses)
    rebuilt = jax.tree.map(
        lambda p, s: p * s.reshape(s.shape + (1,) * (p.ndim - 2)),
        scaled.unrolls.params,
        scaled.unrolls.scales,
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), rebuilt, plain.unrolls.params)
    first = compiled.advance(theta, scaled, make_keys(0), compiled.source)[2]
    assert math.isfinite(float(first.meta_loss))


def test_validation_loss_is_of_images_that_are_not_trained_on():
    compiled, theta, state = digits_slot(judge_held_out=True)
    plain, _, _ = digits_slot()
    assert len(compiled.source.train.labels) + len(compiled.source.validation.labels) == len(
        plain.source.train.labels
    )
    losses, _ = unroll_truncation(
        compiled.program.loop,
        perturb(theta, draw_perturbations(jax.random.key(0), theta, 2, 0.01)),
        state.unrolls,
        jax.random.key(0),
        compiled.source,
    )
    assert losses.train.shape == losses.judged.shape == (3, 2, 2)
    # At the first step the output layer is zero and every image has the same loss.
    assert not np.any(losses.train[1:] == losses.judged[1:])


def test_loss_scales_and_the_final_loss():
    losses = jnp.float32([[[2.0, 1.0]], [[0.5, 4.0]]])
    initial = jnp.float32([2.0, 4.0])
    assert np.array_equal(scale_losses(losses, initial, "none"), losses)
    np.testing.assert_allclose(scale_losses(losses, initial, "initial"), [[[1, 0.25]], [[0.25, 1]]])
    np.testing.assert_allclose(scale_losses(losses, initial, "log"), np.log(losses + 1e-4), rtol=1e-6)
    np.testing.assert_array_equal(select_steps(losses, "final_loss"), losses[1:])
    np.testing.assert_array_equal(select_steps(losses, "mean_loss"), losses)
