"""Gradients without a finite entry, gradients of nothing, and meta-gradients through both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mulo
from mulo.mup import LeafRule, Role
from tests.closeness import all_finite, assert_trees_equal
from tests.descriptors import ROW_OF_EACH_NORMALISATION, LearnedOptimizerRow, small_fc_golden_theta

CLIPPING = LearnedOptimizerRow(
    name="small_fc_clipping",
    make=lambda: mulo.SmallFC(hidden_size=4, max_global_norm=1.0),
    golden_theta=small_fc_golden_theta,
)
EACH = pytest.mark.parametrize("row", (*ROW_OF_EACH_NORMALISATION, CLIPPING), ids=lambda row: row.name)
SHAPES = {"b": (3,), "idle": (3, 4), "stack": (2, 4), "w": (3, 4), "zero": (3,)}
MUP = {
    "b": LeafRule.by_axes((3,), ()),
    "idle": LeafRule.by_axes((3, 4), (0,)),
    "stack": LeafRule.by_axes((2, 4), (), stacked=(0,)),
    "w": LeafRule.by_axes((3, 4), (0,), role=Role.HIDDEN),
    "zero": LeafRule.by_axes((3,), ()),
}
LOSS = jnp.float32(1.0)


def random_tree(seed):
    draw = np.random.default_rng(seed)
    return {name: jnp.float32(draw.normal(size=shape)) for name, shape in SHAPES.items()}


def sound_theta(row):
    """Weights of no special value. Of random ones alone some units would be silent for everything."""
    golden, drawn = (row.checkpoint(golden=golden).theta for golden in (True, False))
    return jax.tree.map(lambda x, y: x + 0.1 * y, golden, drawn)


@functools.cache
def made(row):
    optimizer, theta = row.make(), sound_theta(row)
    update = jax.jit(lambda state, grads, params: optimizer.update(theta, state, grads, params, LOSS, MUP))
    return optimizer.init(theta, random_tree(0), row.num_steps, MUP), update


def statistics(state, name):
    """What is kept of one leaf."""
    trees = state.accumulators if hasattr(state, "accumulators") else (state.momentum, state.second_moment)
    return jax.tree.map(lambda tree: tree[name], trees, is_leaf=lambda x: isinstance(x, dict))


@EACH
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_tensor_without_a_finite_entry_gets_no_step_and_is_counted(row, value):
    state, update = made(row)
    params = random_tree(0)
    _, state = update(state, random_tree(1), params)
    assert int(state.num_nonfinite) == 0
    grads = random_tree(2)
    bad = {**grads, "w": jnp.full((3, 4), value), "stack": grads["stack"].at[0].set(value)}
    bad["b"] = grads["b"].at[1].set(value)
    updates, after = update(state, bad, params)
    assert int(after.num_nonfinite) == 12 + 4 + 1
    assert all_finite((updates, after))
    assert not np.any(updates["w"]) and not np.any(updates["stack"][0])
    assert np.any(updates["stack"][1]) and np.any(updates["b"])
    assert_trees_equal(statistics(after, "w"), statistics(state, "w"))
    updates, after = update(after, grads, params)
    assert int(after.num_nonfinite) == 12 + 4 + 1
    assert all(np.any(update) for update in jax.tree.leaves(updates))


def test_the_count_stands_still_at_its_largest():
    state, update = made(CLIPPING)
    largest = jnp.int32(2**31 - 1)
    grads = {**random_tree(1), "w": jnp.full((3, 4), jnp.nan)}
    _, state = update(state._replace(num_nonfinite=largest - 5), grads, random_tree(0))
    assert state.num_nonfinite == largest


@EACH
@pytest.mark.parametrize("num_steps", [1, 2])
def test_meta_gradients_are_finite_where_there_are_no_gradients(row, num_steps):
    """In theta, in the parameters and in the gradients, as MAML takes them; biases start at zero."""
    optimizer = row.make()

    def loss(params, data):
        hidden = jnp.tanh(data @ params["w"] + params["stack"].sum(axis=0, keepdims=True))
        return jnp.mean(jnp.square(hidden)) + jnp.sum(jnp.square(params["b"])) + 0.0 * jnp.sum(params["zero"])

    def after_steps(theta, params, offsets, broken):
        state = optimizer.init(theta, params, row.num_steps, MUP)
        for _ in range(num_steps):
            grads = jax.grad(loss)(params, jnp.ones((2, 3)))
            grads = jax.tree.map(jnp.add, grads, offsets)
            grads = jax.tree.map(lambda g, bad: jnp.where(bad, jnp.nan, g), grads, broken)
            updates, state = optimizer.update(theta, state, grads, params, LOSS, MUP)
            params = jax.tree.map(jnp.add, params, updates)
        return sum(jnp.sum(jnp.square(p - 1.0)) for p in jax.tree.leaves(params))

    params = {**random_tree(0), "b": jnp.zeros(3), "zero": jnp.zeros(3), "stack": jnp.zeros((2, 4))}
    offsets = jax.tree.map(jnp.zeros_like, params)
    differentiate = jax.jit(jax.grad(after_steps, argnums=(0, 1, 2)))
    theta = sound_theta(row)
    fine = jax.tree.map(lambda p: jnp.zeros(p.shape, bool), params)
    entries = {**fine, "w": fine["w"].at[0, 1].set(True), "stack": fine["stack"].at[1].set(True)}
    for broken in (fine, entries):
        found = differentiate(theta, params, offsets, broken)
        assert all_finite(found)
        assert np.any(found[1]["w"]) and any(np.any(x) for x in jax.tree.leaves(found[0]))
