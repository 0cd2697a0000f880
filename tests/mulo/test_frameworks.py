"""Training loops as users of Flax, Haiku and Equinox write them; the loss must fall."""

import jax
import jax.numpy as jnp
import pytest

import mulo
from tests.descriptors import SMALL_FC_H4, SMALL_FC_H32

NUM_STEPS = 60
INPUTS = jax.random.normal(jax.random.key(0), (32, 6))
TARGETS = jnp.sin(INPUTS.sum(axis=1, keepdims=True))


def square_error(predictions):
    return jnp.mean(jnp.square(predictions - TARGETS))


def assert_learned(losses):
    assert len(losses) == NUM_STEPS
    assert losses[-1] < 0.5 * losses[0], losses


def test_flax_train_state():
    linen = pytest.importorskip("flax.linen")
    from flax.training.train_state import TrainState

    model = linen.Sequential([linen.Dense(16), linen.tanh, linen.Dense(1)])
    # TrainState cannot pass the loss on to the optimizer, so it must do without.
    state = TrainState.create(
        apply_fn=model.apply,
        params=model.init(jax.random.key(1), INPUTS)["params"],
        tx=mulo.optimizer(SMALL_FC_H32.checkpoint()),
    )

    def step(state):
        loss, grads = jax.value_and_grad(
            lambda params: square_error(state.apply_fn({"params": params}, INPUTS))
        )(state.params)
        return state.apply_gradients(grads=grads), loss

    step = jax.jit(step, donate_argnums=0)
    losses = []
    for _ in range(NUM_STEPS):
        state, loss = step(state)
        losses.append(float(loss))
    assert_learned(losses)


def test_haiku_under_mup_in_the_two_line_form():
    hk = pytest.importorskip("haiku")

    def transformed(width):
        return hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([width, width, 1])(x)))

    network, base = transformed(16), transformed(8)
    params = network.init(jax.random.key(1), INPUTS)
    mup = mulo.mup.infer(params, jax.eval_shape(base.init, jax.random.key(1), INPUTS))
    optimizer_state = mulo.init(params, SMALL_FC_H32.checkpoint("mup"), mup=mup)

    def step(optimizer_state):
        loss, grads = jax.value_and_grad(lambda params: square_error(network.apply(params, INPUTS)))(
            optimizer_state.params
        )
        _, optimizer_state = mulo.apply(optimizer_state, grads, value=loss)
        return optimizer_state, loss

    step = jax.jit(step, donate_argnums=0)
    losses = []
    for _ in range(NUM_STEPS):
        optimizer_state, loss = step(optimizer_state)
        losses.append(float(loss))
    assert_learned(losses)


def test_nnx_optimizer_under_mup():
    nnx = pytest.importorskip("flax.nnx")

    def make(width):
        rngs = nnx.Rngs(0)
        return nnx.Sequential(nnx.Linear(6, width, rngs=rngs), nnx.tanh, nnx.Linear(width, 1, rngs=rngs))

    model = make(16)
    shapes = nnx.eval_shape(lambda: make(8))
    mup = mulo.mup.infer(nnx.state(model, nnx.Param), nnx.state(shapes, nnx.Param))
    tx = mulo.optimizer(SMALL_FC_H32.checkpoint("mup"), mup=mup)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: square_error(model(INPUTS)))(model)
        optimizer.update(model, grads, value=loss)
        return loss

    assert_learned([float(step(model, optimizer)) for _ in range(NUM_STEPS)])


def test_equinox():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(6, 1, width_size=16, depth=1, key=jax.random.key(1))
    tx = mulo.optimizer(SMALL_FC_H4.checkpoint(), learning_rate=10.0)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit(donate="all")
    def step(model, state):
        loss, grads = eqx.filter_value_and_grad(lambda model: square_error(jax.vmap(model)(INPUTS)))(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array), value=loss)
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(NUM_STEPS):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    assert_learned(losses)


def test_equinox_under_mup():
    eqx = pytest.importorskip("equinox")

    def params(width):
        return eqx.filter(
            eqx.nn.MLP(6, 1, width_size=width, depth=2, key=jax.random.key(1)), eqx.is_inexact_array
        )

    mup = mulo.mup.infer(params(16), params(8), layout="out_in")  # Equinox stores (out, in)
    roles = {leaf.path: leaf.role for leaf in mup.leaves if len(leaf.shape) == 2}
    assert list(roles.values()) == [mulo.mup.Role.INPUT, mulo.mup.Role.HIDDEN, mulo.mup.Role.OUTPUT]
    state = jax.eval_shape(mulo.optimizer(SMALL_FC_H4.checkpoint("mup"), mup=mup).init, params(16))
    assert jax.tree.leaves(state)


def test_plain_tree_with_the_state_as_carry_of_a_scan():
    params = {"w": jnp.zeros((6, 1)), "b": jnp.zeros(1)}
    targets = INPUTS @ jnp.ones((6, 1)) * 0.1

    def loss_fn(params):
        return jnp.mean(jnp.square(INPUTS @ params["w"] + params["b"][None] - targets))

    def step(optimizer_state, _):
        loss, grads = jax.value_and_grad(loss_fn)(optimizer_state.params)
        return mulo.apply(optimizer_state, grads)[1], loss

    _, losses = jax.lax.scan(step, mulo.init(params, SMALL_FC_H32.checkpoint()), None, length=NUM_STEPS)
    assert_learned(losses)
