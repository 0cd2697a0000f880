"""Steps where gradients vanish, against NumPy, at any scale; and where nothing has vanished."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mulo
from mulo.optimizers._accumulators import INITIAL_DECAYS, accumulate, init_accumulators
from mulo.optimizers._vanishing import rms_share, share_correction
from tests.mulo.step_sizes import sizes_of_steps

VANISHING = np.float32([1.0] * 20 + [0.0] * 400)
FADING = np.float32(0.9 ** np.arange(120))
NOISE = np.random.default_rng(0).normal(size=120).astype(np.float32)


def shares(factors, shape=(6, 4), decays=INITIAL_DECAYS):
    """`rms_share` after each of some gradients: one of this shape times each of these factors."""
    grad = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    state = init_accumulators({"w": jnp.zeros(shape)})
    accumulators = jax.tree.map(lambda tree: tree["w"], state, is_leaf=lambda x: isinstance(x, dict))

    @jax.jit
    def step(accumulators, made, factor):
        accumulators = accumulate(decays, accumulators, factor * grad)
        return accumulators, rms_share(accumulators, share_correction(decays, made))

    found = []
    for made, factor in enumerate(factors, start=1):
        accumulators, share = step(accumulators, jnp.float32(made), jnp.float32(factor))
        found.append(float(share))
    return np.array(found)


def reference(factors):
    """The same from the formula, in float64."""
    momentum = second = 0.0
    found = []
    for made, factor in enumerate(np.float64(factors), start=1):
        momentum = 0.99 * momentum + 0.01 * factor
        second = 0.999 * second + 0.001 * factor**2
        mean, square = momentum / (1 - 0.99**made), second / (1 - 0.999**made)
        found.append(abs(mean) / np.sqrt(square))
    return np.array(found)


@pytest.mark.parametrize("scale", [1e-14, 1.0, 1e12])
@pytest.mark.parametrize("factors", [VANISHING, FADING, NOISE], ids=["vanishing", "fading", "noise"])
def test_the_share_is_what_the_formula_says_whatever_the_scale_of_gradients(factors, scale):
    wanted = reference(factors)
    assert np.ptp(wanted) > 0.5
    np.testing.assert_allclose(shares(np.float32(scale) * factors), wanted, rtol=2e-3, atol=2e-4)


def test_without_gradients_there_is_none():
    assert shares([0.0, 0.0, 1.0]).tolist() == [0.0, 0.0, pytest.approx(3**0.5 / 3, rel=0.02)]


@pytest.mark.parametrize("part", ["momentum", "second_moment"])
def test_a_decay_that_was_learned_to_be_one_makes_no_nan(part):
    decays = INITIAL_DECAYS._replace(**{part: jnp.ones_like(getattr(INITIAL_DECAYS, part))})
    assert np.isfinite(shares([1.0, 0.5, 0.0], decays=decays)).all()


def sizes(epsilon, factors):
    """Sizes of steps of a matrix, over what they are with gradients."""
    optimizer = mulo.DirectionFC(schedule="constant", epsilon=epsilon)
    params = {"w": jnp.ones((6, 4))}
    grads = {"w": np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)}
    return sizes_of_steps(optimizer, params, grads, factors, 1000)


def test_steps_become_smaller_in_proportion_below_epsilon_and_not_without_it():
    np.testing.assert_allclose(sizes(0.0, VANISHING), 1.0, rtol=1e-3)  # on and on, into nowhere
    wanted = np.minimum(1.0, reference(VANISHING) / 0.1)
    assert wanted[50] == 1.0
    assert wanted[-1] < 0.2
    np.testing.assert_allclose(sizes(0.1, VANISHING), wanted, rtol=2e-3)
