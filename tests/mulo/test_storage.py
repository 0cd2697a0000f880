"""The same network stored otherwise takes the same steps, whatever the optimizer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mulo.mup import LeafRule, Role
from tests.closeness import assert_trees_close
from tests.descriptors import (
    CELO2,
    CELO_ADAM,
    DIRECTION_FC_ORTHOGONAL,
    ROW_OF_EACH_NORMALISATION,
    ROWS,
    SMALL_FC_H4,
    VELO,
)

NUM_STEPS = 3
HIDDEN, VECTOR = Role.HIDDEN, Role.VECTOR

# Stored plainly: matrices (in, out), vectors (n,), a scalar.
PLAIN = {
    "w0": ((6, 6), (0,), HIDDEN),
    "w1": ((6, 6), (0,), HIDDEN),
    "in": ((4, 6), (0,), Role.INPUT),
    "b0": ((6,), (), VECTOR),
    "b1": ((6,), (), VECTOR),
    "gain": ((6,), (), VECTOR),
    "scale": ((), (), Role.SCALAR),
    "table": ((8, 2), (0,), VECTOR),  # that does not grow
}
# Each otherwise: name -> how the arrays of these leaves become one; its shape follows.
STORAGES = {
    "layers stacked, outputs first, axes of length 1": {
        "w0_w1": (("w0", "w1"), lambda x, y: jnp.stack([x, y]), {"fan_in": (1,), "stacked": (0,)}),
        "b0_b1": (("b0", "b1"), lambda x, y: jnp.stack([x, y]), {"fan_in": (), "stacked": (0,)}),
        "in": (("in",), jnp.transpose, {"fan_in": (1,)}),
        "table": (("table",), jnp.transpose, {"fan_in": (1,)}),
        "gain": (("gain",), lambda x: x.reshape(1, 1, 1, 6), {"fan_in": (0, 1, 2)}),
        "scale": (("scale",), lambda x: x.reshape(1), {"fan_in": ()}),
    },
    "stacked on the last axis, kernel positions": {
        "w0_w1": (("w0", "w1"), lambda x, y: jnp.stack([x, y], -1), {"fan_in": (0,), "stacked": (2,)}),
        "b0_b1": (("b0", "b1"), lambda x, y: jnp.stack([x, y], -1), {"fan_in": (), "stacked": (1,)}),
        "in": (("in",), lambda x: x.reshape(2, 1, 2, 6), {"fan_in": (0, 1, 2)}),
        "gain": (("gain",), lambda x: x.reshape(6, 1, 1), {"fan_in": ()}),
    },
    "heads apart, axes the other way round": {
        "w0": (("w0",), lambda x: x.reshape(6, 2, 3), {"fan_in": (0,)}),
        "w1": (("w1",), lambda x: x.reshape(2, 3, 6).transpose(2, 1, 0), {"fan_in": (1, 2)}),
        "b0": (("b0",), lambda x: x.reshape(2, 3), {"fan_in": ()}),
    },
}


def tree_of(arrays, storage):
    """Arrays by the names of `PLAIN`, stored as `storage` says."""
    taken = {name for names, _, _ in storage.values() for name in names}
    return {name: x for name, x in arrays.items() if name not in taken} | {
        name: store(*(arrays[n] for n in names)) for name, (names, store, _) in storage.items()
    }


def records(storage):
    arrays = {name: jnp.zeros(shape) for name, (shape, _, _) in PLAIN.items()}
    mup = {name: LeafRule.by_axes(shape, axes, role=role) for name, (shape, axes, role) in PLAIN.items()}
    taken = {name for names, _, _ in storage.values() for name in names}
    return {name: rule for name, rule in mup.items() if name not in taken} | {
        name: LeafRule.by_axes(store(*(arrays[n] for n in names)).shape, role=PLAIN[names[0]][2], **axes)
        for name, (names, store, axes) in storage.items()
    }


@functools.cache
def gradients():
    """Parameters, and a gradient for each step; of one scale but for each name's own."""
    draw = np.random.default_rng(0)
    return [
        {name: np.float32(draw.normal(size=shape) * 3.0**-i) for name, (shape, _, _) in PLAIN.items()}
        for i in range(1 + NUM_STEPS)
    ]


@functools.cache
def theta_of(row):
    return row.make().init_theta(jax.random.key(7))


def run(row, storage):
    """Parameters after each step."""
    optimizer, theta, mup = row.make(), theta_of(row), records(storage)
    params, *grads = (tree_of(jax.tree.map(jnp.asarray, tree), storage) for tree in gradients())

    @jax.jit
    def step(params, state, grad):
        updates, state = optimizer.update(theta, state, grad, params, jnp.float32(1.0), mup)
        return updates, jax.tree.map(jnp.add, params, updates), state

    state, made = optimizer.init(theta, params, row.num_steps, mup), []
    for grad in grads:
        updates, params, state = step(params, state, grad)
        made.append(updates)
    return made


@functools.cache
def plain_run(row):
    return run(row, {})


QUICK_ROWS = (SMALL_FC_H4, VELO, CELO_ADAM, CELO2, DIRECTION_FC_ORTHOGONAL)
"""The others are of the same code."""
EACH = pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=() if row in QUICK_ROWS else pytest.mark.slow)
        for row in ROW_OF_EACH_NORMALISATION
    ],
    ids=lambda row: row.name,
)


@pytest.mark.parametrize("storage", STORAGES)
@EACH
def test_steps_do_not_depend_on_storage(row, storage):
    found, wanted = run(row, STORAGES[storage]), plain_run(row)
    for got, plain in zip(found, wanted, strict=True):
        assert_trees_close(got, tree_of(plain, STORAGES[storage]), tolerance=1e-4)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_statistics_are_stored_as_parameters_are_and_factored_ones_by_stack_and_fan(row):
    storage = STORAGES["stacked on the last axis, kernel positions"]
    state = row.make().init(theta_of(row), tree_of(gradients()[0], storage), row.num_steps, records(storage))
    assert state.second_moment["w0_w1"].shape == (6, 6, 2) if row.name == "celo_adam" else True
    if row.name != "celo_adam":
        assert state.accumulators.second_moment["w0_w1"].shape == (6, 6, 2)
        assert {x["w0_w1"].shape for x in (*state.accumulators.rows, *state.accumulators.cols)} == {(2, 6)}
        assert {x["b0_b1"].shape for x in state.accumulators.rows} == {(6, 2)}
        assert {x["in"].shape for x in state.accumulators.rows} == {(4,)}
        assert {x["in"].shape for x in state.accumulators.cols} == {(6,)}


def first_updates(row, factor):
    """Where every leaf has this multiplier of the user."""
    optimizer, theta = row.make(), theta_of(row)
    names = ("b0", "in", "scale", "w0", "w1")
    params, grads, *_ = ({name: jnp.asarray(tree[name]) for name in names} for tree in gradients())
    mup = {name: dataclasses.replace(records({})[name], lr_multiplier=factor) for name in names}
    mup["w1"] = dataclasses.replace(mup["w1"], role=Role.OUTPUT)
    state = optimizer.init(theta, params, row.num_steps, mup)
    update = jax.jit(lambda state: optimizer.update(theta, state, grads, params, jnp.float32(1.0), mup))
    return update(state)[0]


@functools.cache
def plain_first_updates(row):
    return first_updates(row, 1.0)


@pytest.mark.parametrize("factor", [0.5, 0.9999, 64.0])
@EACH
def test_a_multiplier_of_the_user_is_that_many_times_the_step_whatever_the_role(row, factor):
    """Of every role; with what an optimizer decays by in it, as with a learning rate."""
    wanted = jax.tree.map(lambda update: factor * update, plain_first_updates(row))
    assert_trees_close(first_updates(row, factor), wanted, tolerance=2e-6)


@pytest.mark.parametrize("shape", [(2**31 + 1,), (2**16, 2**16), (2, 2**30, 2)], ids=str)
@pytest.mark.parametrize("row", ROW_OF_EACH_NORMALISATION, ids=lambda row: row.name)
def test_a_leaf_may_have_more_entries_than_an_int32_counts(row, shape):
    optimizer = row.make()
    params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def update(params):
        state = optimizer.init(theta_of(row), params, row.num_steps)
        return optimizer.update(theta_of(row), state, params, params, jnp.float32(1.0), None)

    updates, _ = jax.eval_shape(update, params)
    assert updates["w"].shape == shape


def test_without_records_axes_of_length_one_make_no_matrix():
    optimizer = DIRECTION_FC_ORTHOGONAL.make()
    theta = optimizer.init_theta(jax.random.key(0))
    vector = jnp.linspace(0.5, 2.0, 6)

    def first_update(shape):
        params, grads = {"p": vector.reshape(shape)}, {"p": jnp.cos(vector).reshape(shape)}
        state = optimizer.init(theta, params, 10)
        return optimizer.update(theta, state, grads, params, None, None)[0]["p"].reshape(6)

    wanted = first_update((6,))
    for shape in ((6, 1, 1), (1, 1, 1, 6)):
        np.testing.assert_allclose(first_update(shape), wanted, rtol=1e-5)
