"""Learned optimizers inside optax's own wrappers.

The wrappers see the state only, so one row stands for all that have the same kind of state.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import mulo
from tests.closeness import assert_trees_close, assert_trees_equal
from tests.conformance.conftest import loss_of, make_step, run
from tests.descriptors import ROW_OF_EACH_STATE


@pytest.fixture(params=ROW_OF_EACH_STATE, ids=lambda row: row.name)
def row(request):
    return request.param


def final(tx, params, grads):
    """Parameters after one jitted update for each gradient."""
    return run(jax.jit(make_step(tx)), params, tx.init(params), grads)[0]


@pytest.fixture
def alone(tx, step):
    """The same of the optimizer without a wrapper."""
    return lambda params, grads: run(step, params, tx.init(params), grads)[0]


def test_chain(tx, params, grads, alone):
    got = final(optax.chain(optax.clip(0.1), tx), params, grads)
    clipped = [jax.tree.map(lambda g: jnp.clip(g, -0.1, 0.1), tree) for tree in grads]
    assert_trees_close(got, alone(params, clipped))


def test_weight_decay_in_a_chain(tx, params, grads, alone):
    got = final(optax.chain(tx, optax.add_decayed_weights(-0.1)), params, grads[:1])
    wanted = alone(params, grads[:1])
    assert_trees_close(got, jax.tree.map(lambda w, p: w - 0.1 * p, wanted, params))


def test_masked(tx, params, grads, alone):
    got = final(optax.masked(tx, {"b": False, "w": True}), params, grads)
    wanted = alone({"w": params["w"]}, [{"w": g["w"]} for g in grads])
    assert_trees_close(got["w"], wanted["w"])
    # masked passes the gradient of what it leaves out through as the update.
    assert_trees_close(got["b"], params["b"] + sum(g["b"] for g in grads))


def test_partition(tx, params, grads, alone):
    both = optax.partition({"learned": tx, "sgd": optax.sgd(0.1)}, {"b": "sgd", "w": "learned"})
    got = final(both, params, grads)
    wanted = alone({"w": params["w"]}, [{"w": g["w"]} for g in grads])
    assert_trees_close(got["w"], wanted["w"])
    assert_trees_close(got["b"], final(optax.sgd(0.1), params["b"], [g["b"] for g in grads]))


def test_partition_under_mup(row, params, grads):
    def make(params):
        base = {name: jnp.ones([length // 2 for length in x.shape]) for name, x in params.items()}
        mup = mulo.mup.infer(params, base)
        return mulo.optimizer(row.checkpoint("mup", golden=False), mup=mup, num_steps=row.num_steps)

    tx = make(params)
    got = final(
        optax.partition({"learned": tx, "none": optax.set_to_zero()}, {"b": "none", "w": "learned"}),
        params,
        grads,
    )
    weights, *weight_grads = ({"w": tree["w"]} for tree in (params, *grads))
    assert_trees_close(got["w"], final(make(weights), weights, weight_grads)["w"])


def test_multi_steps(tx, params, grads, alone):
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *grads[:2])
    # MultiSteps itself divides a float by an integer.
    with jax.numpy_dtype_promotion("standard"):
        wrapped = optax.MultiSteps(tx, every_k_schedule=2)
        got = final(wrapped, params, [*grads[:2], grads[0]])
    assert_trees_close(got, alone(params, [mean]), tolerance=1e-5)


def test_apply_if_finite(tx, params, grads, alone):
    broken = {"b": grads[0]["b"].at[0].set(jnp.nan), "w": grads[0]["w"]}
    got = final(optax.apply_if_finite(tx, max_consecutive_errors=5), params, [grads[0], broken, grads[1]])
    assert_trees_close(got, alone(params, grads[:2]))


def test_inject_hyperparams(row, checkpoint, tx, params, grads):
    factory = functools.partial(mulo.optimizer, num_steps=row.num_steps)
    injected = optax.inject_hyperparams(factory)(source=checkpoint, learning_rate=1.0)
    state = injected.init(params)
    update = jax.jit(injected.update)
    updates, _ = update(grads[0], state, params, value=loss_of(grads[0]))
    wanted, _ = jax.jit(tx.update)(grads[0], tx.init(params), params, value=loss_of(grads[0]))
    assert_trees_close(updates, wanted)
    state.hyperparams["learning_rate"] = jnp.float32(0.25)
    quarter, _ = update(grads[0], state, params, value=loss_of(grads[0]))
    assert_trees_equal(quarter, jax.tree.map(lambda u: u * 0.25, updates))
    assert update._cache_size() == 1


def test_learning_rate_is_a_factor_and_a_schedule_counts_updates(row, checkpoint, tx, params, grads):
    def schedule(count):
        return jnp.exp2(-count.astype(jnp.float32))

    scheduled = mulo.optimizer(checkpoint, schedule, num_steps=row.num_steps)
    state, plain_state = scheduled.init(params), tx.init(params)
    update, plain_update = jax.jit(scheduled.update), jax.jit(tx.update)
    for i, g in enumerate(grads):
        updates, state = update(g, state, params, value=loss_of(g))
        wanted, plain_state = plain_update(g, plain_state, params, value=loss_of(g))
        assert_trees_close(updates, jax.tree.map(lambda u, i=i: u * 0.5**i, wanted))
    assert int(state.count) == len(grads)


def test_map_params_reaches_the_statistics(tx, params):
    marked = optax.tree.map_params(tx, lambda _: "like a parameter", tx.init(params))
    assert jax.tree.leaves(marked).count("like a parameter") >= len(jax.tree.leaves(params))
    assert not isinstance(marked.count, str)
