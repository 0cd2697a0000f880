import math

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.estimators import PES
from meta_train.slot import SlotKeys, advance, bound_losses, loss_differences, reset
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
    return program, theta, reset(program, theta, jax.random.key(0))


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
    assert float(statistics.clipped_fraction) >= 1 / 8
