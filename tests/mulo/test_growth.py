"""How much gradients agree with their momentum, against NumPy, and what tensors without gradients do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mulo
from mulo.optimizers._accumulators import INITIAL_DECAYS, Accumulators, accumulate, init_accumulators
from mulo.optimizers._growth import FLOOR, agreement

DECAY = 0.99  # of the middle momentum


def gradients(kind, count, shape=(6, 4)):
    """Of entries of very different sizes: all the same way, noise, or slowly to and fro."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(size=shape) * 2)
    way = rng.normal(size=shape)
    noise = rng.normal(size=(count, *shape))
    slowly = np.cos(0.5 * np.arange(count))[:, None, None]
    return np.float32(
        sizes * {"steady": way + 0.5 * noise, "noise": noise, "turning": slowly * way + 0.5 * noise}[kind]
    )


def run(grads):
    """Agreement of each gradient with those before it, and whether it is known; of our code."""
    state = init_accumulators({"w": jnp.zeros(grads.shape[1:])})
    accumulators = jax.tree.map(lambda tree: tree["w"], state, is_leaf=lambda x: isinstance(x, dict))
    found = []
    for made, grad in enumerate(grads):
        after = accumulate(INITIAL_DECAYS, accumulators, jnp.asarray(grad))
        found.append(agreement(accumulators, after, jnp.asarray(grad), jnp.float32(1.0 - DECAY**made)))
        accumulators = Accumulators(*after)
    return [(float(value), bool(known)) for value, known in found]


def reference(grads):
    """The same in NumPy, float64, from the formula; of the second gradient on."""
    momentum, second, found = np.zeros(grads.shape[1:]), np.zeros(grads.shape[1:]), []
    for made, grad in enumerate(np.float64(grads)):
        second = 0.999 * second + 0.001 * grad**2
        if made:
            mean = momentum / (1 - DECAY**made)
            weight = 1 / (second / second.mean() + FLOOR)
            found.append(np.clip(np.sum(weight * grad * mean) / np.sum(weight * mean**2), -1, 1))
        momentum = DECAY * momentum + (1 - DECAY) * grad
    return np.array(found)


@pytest.mark.parametrize("kind", ["steady", "noise", "turning"])
@pytest.mark.parametrize("factor", [1e-15, 1.0, 1e12])
def test_it_is_what_the_formula_says_whatever_the_scale_of_gradients(kind, factor):
    grads = gradients(kind, 12)
    found = run(np.float32(factor) * grads)
    assert [known for _, known in found] == [False] + [True] * 11
    wanted = reference(grads)
    assert np.ptp(wanted) > 0.01  # not all at a bound
    np.testing.assert_allclose([value for value, _ in found[1:]], wanted, atol=2e-4)


def test_gradients_that_are_zero_say_nothing():
    found = run(np.stack([np.ones((6, 4)), np.zeros((6, 4)), np.ones((6, 4))]).astype(np.float32))
    assert [known for _, known in found] == [False, False, True]


def test_a_leaf_without_entries_and_one_without_gradients_leave_those_of_others_alone():
    optimizer = mulo.DirectionFC(growth=20.0, schedule="constant", hidden_size=2)
    theta = optimizer.init_theta(jax.random.key(0))
    some = {"b": jnp.ones(3), "w": jnp.ones((6, 4))}
    more = {"a": jnp.ones((0, 3)), **some, "frozen": jnp.ones((6, 4)), "z": jnp.ones((2, 0))}

    def train(params):
        update = jax.jit(lambda grads, state: optimizer.update(theta, state, grads, params, None, None))
        state = optimizer.init(theta, params, 20)
        for grad in gradients("steady", 5):
            grads = {**jax.tree.map(jnp.zeros_like, params), "b": grad[:3, 0], "w": grad}
            updates, state = update(grads, state)
        return updates, state

    alone, state = train(some)
    together, larger = train(more)
    np.testing.assert_allclose(together["w"], alone["w"], rtol=1e-5)
    np.testing.assert_allclose(together["b"], alone["b"], rtol=1e-5)
    # The leaves that have entries, in the order of the tree: b, frozen, w.
    np.testing.assert_allclose(larger.log_growth, [state.log_growth[0], 0.0, state.log_growth[1]], rtol=1e-5)
    assert np.all(np.asarray(state.log_growth) > 0.1)


@pytest.mark.parametrize("fields", [{}, {"newton_schulz": True}, {"epsilon": 1.0}], ids=str)
def test_its_derivatives_are_finite_from_the_first_step_on(fields):
    optimizer = mulo.DirectionFC(growth=20.0, hidden_size=2, scale_free=False, **fields)
    params = {"frozen": jnp.ones((2, 2)), "w": jnp.ones((6, 4))}

    @jax.jit
    @jax.grad
    def differentiate(theta):
        state, total = optimizer.init(theta, params, 10), 0.0
        for grad in gradients("steady", 2):
            grads = {"frozen": jnp.zeros((2, 2)), "w": jnp.asarray(grad)}
            updates, state = optimizer.update(theta, state, grads, params, None, None)
            total += updates["w"].sum() + updates["frozen"].sum()
        return total

    found = differentiate(optimizer.init_theta(jax.random.key(0)))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(found["rates"]))


def test_a_state_of_other_parameters_is_refused():
    optimizer = mulo.DirectionFC()
    theta, params = optimizer.init_theta(jax.random.key(0)), {"w": jnp.ones((6, 4))}
    state = optimizer.init(theta, params, 10)._replace(log_growth=jnp.zeros(3))
    with pytest.raises(mulo.InputError, match=r"log_growth has shape \(3,\); wanted \(1,\)"):
        optimizer.update(theta, state, params, params, None, None)
