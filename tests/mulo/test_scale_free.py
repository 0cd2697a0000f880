"""SmallFC(scale_free=True): steps do not depend on the scale of a tensor's gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mulo
from mulo.errors import InputError
from tests.closeness import all_finite

SHAPES = {"w": (12, 20), "v": (9,), "s": (), "k": (3, 2, 5)}
NUM_STEPS = 3
PARAMS = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(SHAPES.items())}
GRADS = {
    name: jax.random.normal(jax.random.key(10 + i), (NUM_STEPS, *shape))
    for i, (name, shape) in enumerate(SHAPES.items())
}


def make(hidden_size, scale_free):
    # A large exp_mult, so that the magnitude counts.
    return mulo.SmallFC(hidden_size=hidden_size, step_mult=1.0, exp_mult=0.1, scale_free=scale_free)


@functools.cache
def make_run(optimizer):
    """Jitted: a factor for the gradients of each tensor -> updates of each of three steps."""
    theta = optimizer.init_theta(jax.random.key(5))

    @jax.jit
    def run(factors):
        grads = {name: grad * factors[name].reshape((1,) * grad.ndim) for name, grad in GRADS.items()}

        def step(state, grad):
            updates, state = optimizer.update(theta, state, grad, PARAMS, None, None)
            return state, updates

        return jax.lax.scan(step, optimizer.init(theta, PARAMS), grads)[1]

    return run


def updates_of(optimizer, factors):
    """Updates of the last of three steps, parameters unchanged; gradients times a factor for each tensor."""
    updates = make_run(optimizer)({name: jnp.float32(factor) for name, factor in factors.items()})
    return {name: np.asarray(update[-1]) for name, update in updates.items()}


def difference(ours, theirs):
    """Largest difference over the root mean square, over all tensors; one may have steps of zero."""

    def size(x):
        return max(np.sqrt(np.mean(x**2)), 1e-6)

    return max(np.max(np.abs(ours[name] - theirs[name])) / size(theirs[name]) for name in SHAPES)


@pytest.mark.parametrize("hidden_size", [4, 32])
def test_updates_do_not_change_when_the_gradients_of_a_tensor_are_multiplied(hidden_size):
    ones = dict.fromkeys(SHAPES, 1.0)
    expected = updates_of(make(hidden_size, True), ones)
    for factors in ((1e-8, 1e-8, 1e-8, 1e-8), (1e8, 1e8, 1e8, 1e8), (1e-8, 1e8, 1e-3, 1.0)):
        scaled = updates_of(make(hidden_size, True), dict(zip(SHAPES, factors, strict=True)))
        assert difference(scaled, expected) < 1e-4  # float32, through inverse roots and two layers
    # Without it they do: the test can fail.
    default = updates_of(make(hidden_size, False), ones)
    assert difference(updates_of(make(hidden_size, False), dict.fromkeys(SHAPES, 1e-4)), default) > 0.1


def test_it_is_the_default_of_gradients_over_the_root_of_their_running_mean_square():
    optimizer, theta = make(4, True), make(4, True).init_theta(jax.random.key(5))
    default = dataclasses.replace(optimizer, scale_free=False)
    grads = {name: 1e-6 * grad[0] for name, grad in GRADS.items()}
    # After one gradient the second moment is 0.001 g^2.
    scaled = {name: grad / np.sqrt(0.001 * np.mean(np.square(grad))) for name, grad in grads.items()}
    state = optimizer.init(theta, PARAMS)
    ours, _ = optimizer.update(theta, state, grads, PARAMS, None, None)
    expected, _ = default.update(theta, state, scaled, PARAMS, None, None)
    # Parameters are of order one: their epsilon, 1e-5, which it leaves out, is a change of 5e-6.
    assert difference(jax.tree.map(np.asarray, ours), jax.tree.map(np.asarray, expected)) < 2e-4


@pytest.mark.parametrize("params", [PARAMS, jax.tree.map(jnp.zeros_like, PARAMS)], ids=["params", "zeros"])
def test_tensors_without_gradients_move_as_by_default_and_stay_finite(params):
    optimizer, theta = make(4, True), make(4, True).init_theta(jax.random.key(5))
    default = dataclasses.replace(optimizer, scale_free=False)
    state, zero = optimizer.init(theta, params), jax.tree.map(jnp.zeros_like, params)
    ours, state = optimizer.update(theta, state, zero, params, None, None)
    expected, _ = default.update(theta, optimizer.init(theta, params), zero, params, None, None)
    for name in SHAPES:
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-3, atol=1e-3)
    updates, state = optimizer.update(theta, state, params, params, None, None)
    assert all_finite((updates, state))


@pytest.mark.parametrize("value", [1e-30, 1e-20, 1e20, jnp.inf, jnp.nan])
def test_extreme_gradients_leave_everything_finite(value):
    optimizer, theta = make(4, True), make(4, True).init_theta(jax.random.key(5))
    grads = {name: jnp.full(shape, value) for name, shape in SHAPES.items()}
    updates, state = optimizer.update(theta, optimizer.init(theta, PARAMS), grads, PARAMS, None, None)
    assert all_finite((updates, state))
    assert all_finite(optimizer.update(theta, state, PARAMS, PARAMS, None, None))


def test_checkpoints_keep_it_and_those_of_before_are_without(tmp_path):
    assert mulo.load("mulo-quick").optimizer.scale_free is False
    optimizer = make(4, True)
    checkpoint = mulo.Checkpoint(
        optimizer=optimizer, theta=optimizer.init_theta(jax.random.key(0)), parametrization="mup"
    )
    mulo.save(tmp_path / "theta.mulo", checkpoint)
    assert mulo.load(tmp_path / "theta.mulo").optimizer == optimizer


def test_anything_but_true_and_false_is_refused():
    with pytest.raises(InputError, match="scale_free is 1; wanted True or False"):
        mulo.SmallFC(scale_free=1)
