"""`weight_decay` and `mask` of mulo.optimizer and mulo.init, beside those of optax.adamw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from tests.closeness import assert_trees_close, assert_trees_equal
from tests.descriptors import CELO_ADAM, DIRECTION_FC

PARAMS = {"a": {"b": jnp.array([1.0, -2.0, 3.0]), "w": jnp.full((2, 3), 0.5)}, "c": jnp.ones(2)}
GRADS = jax.tree.map(jnp.cos, PARAMS)
# It compiles quickly.
CHECKPOINT = CELO_ADAM.checkpoint(golden=False)
optimizer = functools.partial(mulo.optimizer, CHECKPOINT, num_steps=10)
MASKS = {
    "none": None,
    "tree": {"a": {"b": False, "w": True}, "c": True},
    "prefix": {"a": True, "c": False},
    "function": lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
}
LEARNING_RATES = {"constant": 0.25, "schedule": lambda count: 0.5 / (1.0 + count.astype(jnp.float32))}
DECAYS = {"constant": 0.1, "schedule": lambda count: 0.1 * jnp.exp2(-count.astype(jnp.float32))}


def steps(tx, params, times=2):
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(times):
        updates, state = update(jax.tree.map(jnp.cos, params), state, params, value=jnp.float32(1.0))
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(
    ("rate", "decay"), list(zip(LEARNING_RATES.values(), DECAYS.values(), strict=True)), ids=DECAYS
)
def test_it_is_the_chain_that_adamw_is(rate, decay, mask):
    got = steps(optimizer(rate, weight_decay=decay, mask=mask), PARAMS)
    with jax.numpy_dtype_promotion("standard"):
        chain = optax.chain(
            optimizer(),
            _negative(decay, mask),
            optax.scale_by_schedule(rate) if callable(rate) else optax.scale(rate),
        )
        wanted = steps(chain, PARAMS)
    assert_trees_close(got, wanted)
    assert not np.allclose(got["a"]["w"], steps(optimizer(rate), PARAMS)["a"]["w"])


def _negative(decay, mask):
    # Ours go downhill, where optax.adamw still has gradients.
    return optax.add_decayed_weights((lambda count: -decay(count)) if callable(decay) else -decay, mask)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("decay", DECAYS.values(), ids=DECAYS)
def test_the_two_line_form_has_the_same(decay, mask):
    tx = optimizer(weight_decay=decay, mask=mask)
    optimizer_state = mulo.init(PARAMS, CHECKPOINT, num_steps=10, weight_decay=decay, mask=mask)
    apply = jax.jit(mulo.apply)
    for _ in range(2):
        grads = jax.tree.map(jnp.cos, optimizer_state.params)
        _, optimizer_state = apply(optimizer_state, grads, value=jnp.float32(1.0))
    assert_trees_close(optimizer_state.params, steps(tx, PARAMS))


def test_it_is_the_same_in_both_forms_of_mup_and_goes_on_past_the_end():
    shapes = [{"w": jnp.ones((n, 2)), "v": jnp.ones((n, n))} for n in (8, 4)]
    params = shapes[0]
    zeros = jax.tree.map(jnp.zeros_like, params)
    for form in ("mup", "standard"):
        tx = mulo.optimizer(
            DIRECTION_FC.checkpoint("mup", golden=False),
            0.5,
            mup=mulo.mup.infer(*shapes, form=form),
            num_steps=1,
            weight_decay=0.1,
        )
        _, state = tx.update(zeros, tx.init(params), params)
        updates, _ = tx.update(zeros, state, params)
        assert_trees_close(updates, jax.tree.map(lambda p: -0.05 * p, params))


def test_without_it_no_bit_changes_and_narrow_parameters_stay_narrow():
    tx, plain = optimizer(weight_decay=0.0), optimizer()
    assert_trees_equal(steps(tx, PARAMS), steps(plain, PARAMS))
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    decaying = optimizer(weight_decay=0.1)
    updates, _ = jax.jit(decaying.update)(narrow, decaying.init(narrow), narrow, value=jnp.float32(1.0))
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}


def test_inside_optax_masked():
    tx = optax.masked(optimizer(weight_decay=0.1), {"a": True, "c": False})
    alone = optimizer(weight_decay=0.1)
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    part = {"a": PARAMS["a"]}
    wanted, _ = alone.update({"a": GRADS["a"]}, alone.init(part), part, value=1.0)
    assert_trees_close(updates["a"], wanted["a"])


def test_as_an_injected_hyperparameter():
    tx = optax.inject_hyperparams(mulo.optimizer)(source=CHECKPOINT, num_steps=10, weight_decay=0.1)
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    first, _ = update(GRADS, state, PARAMS, value=jnp.float32(1.0))
    state.hyperparams["weight_decay"] = jnp.float32(0.0)
    without, _ = update(GRADS, state, PARAMS, value=jnp.float32(1.0))
    assert_trees_close(jax.tree.map(lambda w, p: w - 0.1 * p, without, PARAMS), first)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"a": True}, "mask does not fit the parameters"),
        ({"a": True, "c": 1.0}, r"mask has 1\.0 for a parameter; wanted True"),
        ([True, False], "mask does not fit the parameters"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, message):
    with pytest.raises(mulo.InputError, match=message):
        mulo.init(PARAMS, CHECKPOINT, num_steps=10, weight_decay=0.1, mask=mask)
    tx = optimizer(weight_decay=0.1, mask=mask)
    with pytest.raises(mulo.InputError, match=message):
        tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0)
