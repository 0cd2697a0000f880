"""mulo.optimizer and mulo.init: what they accept, what they refuse, and what reaches the optimizer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from tests.closeness import assert_trees_close, assert_trees_equal
from tests.descriptors import SMALL_FC_H4, SMALL_FC_H32

PARAMS = {"b": jnp.ones(3), "w": jnp.ones((2, 3))}
BUILD = {
    "optimizer": lambda source, **kwargs: mulo.optimizer(source, **kwargs),
    "init": lambda source, **kwargs: mulo.init(PARAMS, source, **kwargs),
}
both_forms = pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)


@dataclasses.dataclass(frozen=True)
class Recorder:
    """A learned optimizer whose updates are made of all that it is given."""

    needs_num_steps: bool = True

    @property
    def name(self):
        return "recorder"

    def config(self):
        return {}

    def init_theta(self, key):
        del key
        return {"scale": jnp.float32(2.0)}

    def init(self, theta, params, num_steps, mup):
        del theta, params, mup
        return {"num_steps": jnp.float32(num_steps)}

    def update(self, theta, state, grads, params, loss, mup):
        del params
        total = theta["scale"] * state["num_steps"] * (1.0 if loss is None else loss)
        if mup is None:
            return jax.tree.map(lambda g: g * total, grads), state
        return jax.tree.map(lambda g, rule: g * total * rule.update_multiplier, grads, mup), state


def recorder_checkpoint(**kwargs):
    recorder = Recorder(**kwargs)
    return mulo.Checkpoint(optimizer=recorder, theta=recorder.init_theta(None), parametrization="sp")


@both_forms
def test_num_steps_is_asked_for_where_it_is_needed(build):
    with pytest.raises(mulo.InputError, match="'recorder' needs num_steps, the number of updates"):
        build(recorder_checkpoint())
    build(recorder_checkpoint(), num_steps=10)
    build(SMALL_FC_H4.checkpoint())


@both_forms
@pytest.mark.parametrize("num_steps", [0, -1, 1.5, True, "100"])
def test_num_steps_that_is_no_length_is_refused(build, num_steps):
    message = f"num_steps is {num_steps!r}; wanted a whole number of updates, at least 1"
    with pytest.raises(mulo.InputError, match=message):
        build(SMALL_FC_H4.checkpoint(), num_steps=num_steps)


@both_forms
def test_a_checkpoint_meta_trained_under_mup_asks_for_mup(build):
    with pytest.raises(mulo.InputError, match=r"under muP .*mulo\.mup\.infer\(.*mulo\.mup\.STANDARD"):
        build(SMALL_FC_H4.checkpoint("mup"))
    build(SMALL_FC_H4.checkpoint("mup"), mup=mulo.mup.STANDARD)


@both_forms
def test_mup_of_another_type_is_refused(build):
    with pytest.raises(mulo.InputError, match=r"mup is of type bool; wanted what mulo\.mup\.infer returns"):
        build(SMALL_FC_H4.checkpoint("mup"), mup=True)


@both_forms
def test_a_source_of_another_type_is_refused(build):
    with pytest.raises(mulo.InputError, match="given as dict; wanted the name or path of a checkpoint"):
        build(SMALL_FC_H4.checkpoint().theta)


@both_forms
def test_a_theta_of_another_size_is_refused(build):
    good = SMALL_FC_H4.checkpoint(golden=False)
    mixed = dataclasses.replace(good, optimizer=mulo.SmallFC(hidden_size=8))
    with pytest.raises(
        mulo.InputError, match=r"not made for this small_fc: leaf \S+ has shape \(4,\); .* has shape \(8"
    ):
        build(mixed)
    without = dataclasses.replace(good, theta={key: good.theta[key] for key in list(good.theta)[1:]})
    with pytest.raises(mulo.InputError, match="is not there; wanted that it has shape"):
        build(without)


def test_nothing_goes_to_the_device_before_init():
    checkpoint = SMALL_FC_H4.checkpoint(golden=False)
    with jax.transfer_guard("disallow"):
        mulo.optimizer(checkpoint)


@pytest.mark.parametrize("state", ["another optimizer's", "optax's", None])
def test_a_state_of_something_else_is_refused(state):
    tx = mulo.optimizer("mulo-x", mup=mulo.mup.STANDARD, num_steps=10)
    wanted = "DirectionFCState" if state == "another optimizer's" else "TransformState"
    other = mulo.optimizer("mulo-s", mup=mulo.mup.STANDARD)
    states = {"another optimizer's": other.init(PARAMS), "optax's": optax.adam(1.0).init(PARAMS), None: None}
    with pytest.raises(mulo.InputError, match=rf"direction_fc has {wanted}\. .*tx\.init\(params\)"):
        tx.update(PARAMS, states[state], PARAMS)


def test_other_types_are_refused_in_one_line():
    with pytest.raises(mulo.InputError, match=r"state is of type int; wanted what mulo\.init returned"):
        mulo.apply(3, PARAMS)
    with pytest.raises(mulo.InputError, match=r"mulo\.load was given NoneType; wanted the name or path"):
        mulo.load(None)


@both_forms
def test_a_name_goes_through_load(build):
    with pytest.raises(mulo.CheckpointError, match="no-such-optimizer"):
        build("no-such-optimizer")


def test_params_are_asked_for():
    tx = mulo.optimizer(SMALL_FC_H4.checkpoint())
    with pytest.raises(ValueError, match=r"needs the parameters: call tx\.update\(grads, state, params\)"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_loss_num_steps_and_mup_reach_the_optimizer():
    mup = mulo.mup.infer({"w": jnp.ones((8, 4))}, {"w": jnp.ones((4, 2))})
    params = {"w": jnp.ones((8, 4))}
    tx = optax.chain(optax.scale(1.0), mulo.optimizer(recorder_checkpoint(), mup=mup, num_steps=5))
    updates, _ = tx.update(params, tx.init(params), params, value=jnp.float32(3.0), something_else=1)
    wanted = {"w": jnp.full((8, 4), 2.0 * 5 * 3 / 8)}
    assert_trees_close(updates, wanted)
    optimizer_state = mulo.init(params, recorder_checkpoint(), mup=mup, num_steps=5)
    assert_trees_close(mulo.apply(optimizer_state, params, value=jnp.float32(3.0))[0], wanted)


def test_num_steps_as_an_injected_hyperparameter():
    tx = optax.inject_hyperparams(mulo.optimizer)(source=recorder_checkpoint(), num_steps=5)
    updates, _ = jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)
    assert_trees_close(updates, jax.tree.map(lambda p: 10.0 * p, PARAMS))


def test_golden_theta_is_normalised_momentum():
    checkpoint = SMALL_FC_H32.checkpoint()
    tx = mulo.optimizer(checkpoint)
    grads = {"b": jnp.array([1.0, -2.0, 3.0]), "w": jnp.array([[1.0, -1.0, 2.0], [0.5, 0.0, 4.0]])}
    updates, _ = jax.jit(tx.update)(grads, tx.init(PARAMS), PARAMS)
    momentum = jax.tree.map(lambda g: 0.1 * g, grads)
    wanted = jax.tree.map(lambda m: -0.01 * m / jnp.sqrt(1e-5 + jnp.mean(jnp.square(m))), momentum)
    assert_trees_close(updates, wanted)


def test_weights_may_be_numpy_arrays():
    checkpoint = SMALL_FC_H4.checkpoint(golden=False)
    frozen = dataclasses.replace(checkpoint, theta=jax.tree.map(np.asarray, checkpoint.theta))
    results = []
    for source in (checkpoint, frozen):
        tx = mulo.optimizer(source)
        results.append(jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS))
    assert_trees_equal(*results)


def test_python_numbers_as_parameters_compile_once():
    # A function of its own: wrappers of one function share their count of compilations.
    step = jax.jit(lambda optimizer_state, grads: mulo.apply(optimizer_state, grads))
    optimizer_state = mulo.init({"temperature": 1.0}, SMALL_FC_H4.checkpoint())
    for _ in range(2):
        _, optimizer_state = step(optimizer_state, {"temperature": jnp.float32(0.5)})
    assert step._cache_size() == 1


def test_one_array_twice_in_the_parameters_can_be_donated():
    shared = jnp.ones(3)
    optimizer_state = mulo.init({"a": shared, "b": shared}, SMALL_FC_H4.checkpoint())
    _, optimizer_state = jax.jit(mulo.apply, donate_argnums=0)(optimizer_state, {"a": shared, "b": shared})
    assert_trees_equal(optimizer_state.params["a"], optimizer_state.params["b"])
    assert not shared.is_deleted()


def test_states_save_with_orbax(tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint")
    checkpoint = SMALL_FC_H4.checkpoint(golden=False)
    tx = mulo.optimizer(checkpoint)
    _, optimizer_state = jax.jit(mulo.apply)(mulo.init(PARAMS, checkpoint), PARAMS)
    saved = {"two_line": optimizer_state, "transform": tx.init(PARAMS)}
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", saved)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.tree.map(jnp.zeros_like, saved))
    assert_trees_equal(restored, saved)
