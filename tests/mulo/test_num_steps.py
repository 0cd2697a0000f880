"""The length of a run: the one given now counts, and a run beyond its end can be seen."""

import dataclasses
import functools

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from mulo.optimizers import _schedule
from tests.closeness import assert_trees_close, assert_trees_equal
from tests.descriptors import CELO, CELO_ADAM, DIRECTION_FC, SMALL_FC_H4, VELO

PARAMS = {"b": jnp.array([0.5, -1.0, 2.0]), "w": jnp.array([[1.0, -1.0, 2.0], [0.5, 0.3, -4.0]])}
GRADS = jax.tree.map(lambda p: jnp.cos(3.0 * p), PARAMS)
PLANNERS = pytest.mark.parametrize("row", [VELO, CELO, CELO_ADAM, DIRECTION_FC], ids=lambda row: row.name)
JIT = pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])


@functools.cache
def random_checkpoint(row):
    """One with no zeros among its weights, so that all that it sees matters."""
    checkpoint = row.checkpoint(golden=False)
    leaves, structure = jax.tree.flatten(checkpoint.theta)
    theta = [jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(leaves)]
    return dataclasses.replace(checkpoint, theta=structure.unflatten(theta))


def make(row, num_steps):
    return mulo.optimizer(random_checkpoint(row), num_steps=num_steps)


def move(tx, state, times, jit=True):
    update = jax.jit(tx.update) if jit else tx.update
    for i in range(times):
        updates, state = update(GRADS, state, PARAMS, value=jnp.float32(2.0 - 0.1 * i))
    return updates, state


def length(inner):
    return float(inner.progress.num_steps if hasattr(inner, "progress") else inner.num_steps)


@pytest.mark.parametrize(
    ("row", "jit"),
    [
        (VELO, True),
        (CELO, True),
        (CELO_ADAM, True),
        (DIRECTION_FC, True),
        (CELO_ADAM, False),
        (DIRECTION_FC, False),
    ],
    ids=lambda x: getattr(x, "name", "jit" if x else "eager"),
)
def test_the_length_given_now_counts(row, jit):
    short, long = make(row, 4), make(row, 16)
    # From the beginning: nothing is left of the length before, decays of losses included.
    got, wanted = (move(long, tx.init(PARAMS), 2, jit) for tx in (short, long))
    assert_trees_close(got[0], wanted[0])
    assert_trees_close(got[1], wanted[1])
    # In the middle, from a file.
    _, saved = move(short, short.init(PARAMS), 2)
    restored = flax.serialization.from_bytes(long.init(PARAMS), flax.serialization.to_bytes(saved))
    updates, state = move(long, restored, 1, jit)
    assert length(state.inner) == 16
    stayed, _ = move(short, saved, 1, jit)
    assert not np.allclose(updates["w"], stayed["w"], rtol=1e-4)


@PLANNERS
def test_the_same_length_changes_no_bit(row):
    tx = make(row, 4)
    learned = tx.init.__self__.checkpoint.optimizer
    _, state = move(tx, tx.init(PARAMS), 2)
    again = jax.jit(lambda inner: learned.with_num_steps(inner, 4))(state.inner)
    assert_trees_equal(again, state.inner)


def test_a_run_at_its_end_moves_again():
    short, long = make(DIRECTION_FC, 3), make(DIRECTION_FC, 12)
    updates, state = move(short, short.init(PARAMS), 4)
    assert_trees_equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    updates, state = move(long, state, 1)
    assert all(bool(jnp.all(u != 0)) for u in jax.tree.leaves(updates))


@PLANNERS
def test_the_two_line_form_goes_on_for_longer(row):
    step = jax.jit(lambda state: mulo.apply(state, GRADS, value=jnp.float32(1.0)))
    start = mulo.init(PARAMS, random_checkpoint(row), num_steps=2)
    state = start
    for _ in range(3):
        _, state = step(state)
    assert int(state.past_end) == 1
    fresh = mulo.init(PARAMS, random_checkpoint(row), num_steps=8)
    restored = flax.serialization.from_bytes(fresh, flax.serialization.to_bytes(state))
    for longer in (state.replace(num_steps=8), restored):
        updates, after = step(longer)
        assert length(after.inner) == 8
        assert int(after.past_end) == 0
        assert bool(jnp.any(updates["w"] != 0))


@JIT
def test_a_run_beyond_its_end_is_counted(jit):
    for row in (DIRECTION_FC, SMALL_FC_H4):
        tx = make(row, 3)
        _, state = move(tx, tx.init(PARAMS), 3, jit)
        assert (int(state.count), int(state.past_end)) == (3, 0)
        _, state = move(tx, state, 2, jit)
        assert (int(state.count), int(state.past_end)) == (5, 2)


def test_the_count_beyond_the_end_in_a_scan_and_under_vmap():
    tx = make(DIRECTION_FC, 2)

    def run(grads):
        return jax.lax.scan(
            lambda state, _: (tx.update(grads, state, PARAMS)[1], None), tx.init(PARAMS), length=5
        )[0]

    many = jax.jit(jax.vmap(run))(jax.tree.map(lambda g: jnp.stack([g, 2 * g]), GRADS))
    assert many.past_end.tolist() == [3, 3]


def test_an_injected_length_may_change_in_the_run():
    tx = optax.inject_hyperparams(mulo.optimizer)(source=random_checkpoint(DIRECTION_FC), num_steps=3)
    update = jax.jit(tx.update)
    state = tx.init(PARAMS)
    for _ in range(4):
        updates, state = update(GRADS, state, PARAMS)
    assert_trees_equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    state.hyperparams["num_steps"] = jnp.asarray(12, state.hyperparams["num_steps"].dtype)
    updates, state = update(GRADS, state, PARAMS)
    assert bool(jnp.all(updates["w"] != 0))


def test_means_of_the_loss_say_the_same_in_a_run_of_another_length():
    progress = _schedule.init_progress(100, "test")
    for loss in (3.0, 2.0, 2.5, 1.0):
        progress, _ = _schedule.advance(progress, loss, "test")
    longer = _schedule.with_num_steps(progress, 10_000)
    assert_trees_equal(longer.losses.decays, _schedule.init_progress(10_000, "test").losses.decays)
    before, after = (p.losses.means / (1 - p.losses.decays**4.0) for p in (progress, longer))
    np.testing.assert_allclose(after, before, rtol=1e-4)
    assert float(longer.num_steps) == 10_000


def test_with_micro_steps_the_length_is_that_of_the_updates_made():
    with jax.numpy_dtype_promotion("standard"):
        for num_steps, still in ((2, True), (4, False)):
            tx = optax.MultiSteps(make(DIRECTION_FC, num_steps), every_k_schedule=2)
            state, update = tx.init(PARAMS), jax.jit(tx.update)
            for _ in range(6):
                updates, state = update(GRADS, state, PARAMS)
            assert bool(jnp.all(updates["w"] == 0)) is still
            assert int(state.inner_opt_state.past_end) == int(still)
