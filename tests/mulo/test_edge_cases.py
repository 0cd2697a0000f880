"""Gradients and trees that are not as they should be."""

import jax
import jax.numpy as jnp
import pytest

import mulo
from tests.closeness import all_finite, assert_trees_close, assert_trees_equal
from tests.descriptors import DIRECTION_FC, SMALL_FC_H4

CHECKPOINT = SMALL_FC_H4.checkpoint(golden=False)
TX = mulo.optimizer(CHECKPOINT)
UPDATE = jax.jit(TX.update)
# One keeps a number for each tensor beside the statistics, and has a schedule.
DIRECTION = mulo.optimizer(DIRECTION_FC.checkpoint(golden=False), num_steps=50)
UPDATE_DIRECTION = jax.jit(DIRECTION.update)
BOTH = pytest.mark.parametrize(
    ("tx", "update"), [(TX, UPDATE), (DIRECTION, UPDATE_DIRECTION)], ids=["small_fc", "direction_fc"]
)


def one_update(params, grads):
    return UPDATE(grads, TX.init(params), params)


@BOTH
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf, 1e30, -1e30, 3e38])
def test_a_broken_gradient_leaves_everything_finite_and_passes(value, tx, update):
    params = {"v": jnp.ones(3), "w": jnp.ones((3, 3))}
    good = jax.tree.map(lambda p: 0.1 * p, params)
    bad = {"v": good["v"].at[1].set(value), "w": good["w"].at[1, 2].set(value)}
    updates, state = update(good, tx.init(params), params)
    updates, state = update(bad, state, params)
    assert all_finite((updates, state))
    for _ in range(3):
        updates, state = update(good, state, params)
        assert all_finite((updates, state))
    assert all(bool(jnp.any(u != 0)) for u in jax.tree.leaves(updates))


def test_a_nan_counts_as_no_gradient_for_that_entry():
    params = jnp.ones((2, 3))
    broken, zero = jnp.ones((2, 3)).at[0, 1].set(jnp.nan), jnp.ones((2, 3)).at[0, 1].set(0.0)
    state, wanted = (one_update(params, grads)[1].inner for grads in (broken, zero))
    assert int(state.num_nonfinite) == 1
    assert_trees_equal(state._replace(num_nonfinite=wanted.num_nonfinite), wanted)


def test_clipping_sees_a_broken_gradient_as_zero():
    optimizer = mulo.SmallFC(hidden_size=4, max_global_norm=1.0)
    theta = optimizer.init_theta(jax.random.key(0))
    params = {"v": jnp.ones(3), "w": jnp.ones((2, 3))}
    grads = {"v": jnp.ones(3), "w": jnp.ones((2, 3)).at[0, 1].set(jnp.inf)}
    state = optimizer.init(theta, params)
    update = jax.jit(lambda grads: optimizer.update(theta, state, grads, params, None, None))
    updates, after = update(grads)
    assert int(after.num_nonfinite) == 1
    zeros = update(jax.tree.map(jnp.zeros_like, grads))
    assert_trees_equal((updates, after._replace(num_nonfinite=zeros[1].num_nonfinite)), zeros)
    updates, _ = update(jax.tree.map(jnp.ones_like, grads))
    assert not jnp.allclose(updates["v"], update(grads)[0]["v"])


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1), (2, 3, 2), (2, 1, 3, 2), (1, 2, 3, 1, 2)], ids=str)
@BOTH
def test_ranks(shape, tx, update):
    params = jnp.full(shape, 0.5)
    updates, state = update(jnp.full(shape, 0.1), tx.init(params), params)
    assert updates.shape == shape
    assert all_finite((updates, state))
    assert bool(jnp.all(updates != 0))


def test_a_scalar_is_a_vector_of_one():
    got, _ = one_update(jnp.float32(0.5), jnp.float32(0.1))
    wanted, _ = one_update(jnp.array([0.5]), jnp.array([0.1]))
    assert_trees_close(got[None], wanted)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)], ids=str)
def test_empty_leaves(shape):
    params = {"empty": jnp.zeros(shape), "w": jnp.ones((2, 3))}
    updates, _ = one_update(params, params)
    assert updates["empty"].shape == shape
    alone, _ = one_update({"w": params["w"]}, {"w": params["w"]})
    assert_trees_close(updates["w"], alone["w"])


@pytest.mark.parametrize("params", [{}, [], (), {"a": None, "b": ()}], ids=str)
def test_trees_without_leaves(params):
    updates, state = one_update(params, params)
    assert updates == params
    assert int(state.count) == 1
    _, optimizer_state = mulo.apply(mulo.init(params, CHECKPOINT), params)
    assert optimizer_state.params == params


def test_none_leaves_stay_none():
    params = {"a": None, "w": jnp.ones((2, 3))}
    updates, _ = one_update(params, params)
    assert updates["a"] is None
    assert updates["w"].shape == (2, 3)


def test_zero_gradients():
    params = {"s": jnp.float32(1.0), "w": jnp.ones((2, 3))}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = one_update(params, zeros)
    assert all_finite((updates, state))
    golden = mulo.optimizer(SMALL_FC_H4.checkpoint())
    updates, _ = jax.jit(golden.update)(zeros, golden.init(params), params)
    assert_trees_equal(jax.tree.map(jnp.abs, updates), zeros)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64])
@pytest.mark.parametrize("init", [TX.init, lambda params: mulo.init(params, CHECKPOINT)], ids=["tx", "mulo"])
def test_leaves_that_are_not_floating_point_are_refused(dtype, init):
    params = {"layer": {"steps": jnp.zeros(2, dtype), "w": jnp.ones(2)}}
    name = jnp.dtype(dtype).name
    with pytest.raises(mulo.InputError, match=rf"layer/steps has dtype {name}; .*optax\.masked"):
        init(params)


MISMATCHES = {
    "missing": ({"w": (2, 3)}, "The gradients have no leaf b, but the parameters do"),
    "extra": ({"b": (3,), "w": (2, 3), "x": (1,)}, "The gradients have a leaf x that the parameters do not"),
    "shape": ({"b": (3,), "w": (3, 2)}, r"The gradient of w has shape \(3, 2\), its parameter \(2, 3\)"),
    "none": ({"b": None, "w": (2, 3)}, "The gradients have no leaf b"),
    "nothing": ({}, "The gradients have no leaf b"),
    "another": ({"b": {"w": (3,)}, "w": (2, 3)}, "The gradients have no leaf b, but"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_gradients_unlike_the_parameters_are_refused(case):
    params = {"b": jnp.ones(3), "w": jnp.ones((2, 3))}
    shapes, message = MISMATCHES[case]
    grads = jax.tree.map(jnp.ones, shapes, is_leaf=lambda x: isinstance(x, tuple))
    state, optimizer_state = TX.init(params), mulo.init(params, CHECKPOINT)
    with pytest.raises(mulo.InputError, match=message):
        TX.update(grads, state, params)
    with pytest.raises(mulo.InputError, match=message):
        mulo.apply(optimizer_state, grads)


def test_gradients_in_another_container_are_refused():
    params = (jnp.ones(3), jnp.ones((2, 3)))
    with pytest.raises(mulo.InputError, match="in another structure"):
        TX.update(list(params), TX.init(params), params)


def test_a_state_of_other_parameters_is_refused():
    params = {"b": jnp.ones(3), "w": jnp.ones((2, 3))}
    for other, message in (
        ({"w": params["w"]}, r"for b it has nothing, the parameters have shape \(3,\)"),
        ({"b": jnp.ones(2), "w": params["w"]}, r"for b it has shape \(2,\), the parameters .* \(3,\)"),
        ({**params, "x": jnp.ones(1)}, r"for x it has shape \(1,\), the parameters have nothing"),
    ):
        with pytest.raises(mulo.InputError, match=f"state was initialised for other parameters: {message}"):
            TX.update(params, TX.init(other), params)


def test_a_state_in_another_container_is_refused():
    params = (jnp.ones(3), jnp.ones((2, 3)))
    with pytest.raises(mulo.InputError, match="state was initialised for parameters in the structure"):
        TX.update(params, TX.init(list(params)), params)
