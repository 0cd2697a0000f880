"""VeLO, Celo and Celo2 beside their traces: known weights, tensors together and alone, and broken input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import mulo
from mulo.mup import LeafRule
from mulo.optimizers import _tensors
from tests.closeness import all_finite, assert_trees_close, assert_trees_equal
from tests.conftest import QUICK_COMPILATION
from tests.descriptors import CELO, CELO2, CELO_ADAM, VELO

pytestmark = pytest.mark.optimized

PLANNERS = pytest.mark.parametrize("row", [VELO, CELO, CELO_ADAM], ids=lambda row: row.name)
ALL = pytest.mark.parametrize("row", [VELO, CELO, CELO_ADAM, CELO2], ids=lambda row: row.name)


def random_tree(shapes, seed):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {
        name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def steps(optimizer, theta, params, grads, losses, num_steps=50):
    """Updates at each step, and the last state; the parameters stay as they are."""
    update = jax.jit(lambda state, g, loss: optimizer.update(theta, state, g, params, loss, None))
    state, made = optimizer.init(theta, params, num_steps), []
    for g, loss in zip(grads, losses, strict=True):
        updates, state = update(state, g, loss)
        made.append(updates)
    return made, state


@pytest.mark.parametrize("row", [VELO, CELO], ids=lambda row: row.name)
def test_with_known_weights_it_is_normalised_momentum(row):
    optimizer = row.make()
    params, *grads = (random_tree({"w": (3, 4)}, seed) for seed in range(3))
    made, _ = steps(optimizer, row.golden_theta(optimizer), params, grads, [1.0, 0.5])
    momentum, scale = np.zeros((3, 4)), np.sqrt(np.mean(np.square(params["w"])) + 1e-9)
    for updates, g in zip(made, grads, strict=True):
        momentum = 0.9 * momentum + 0.1 * np.asarray(g["w"], np.float64)
        expected = -0.001 * scale * momentum / np.sqrt(1e-5 + np.mean(np.square(momentum)))
        np.testing.assert_allclose(updates["w"], expected, rtol=1e-4, atol=1e-8)


def test_with_known_weights_celo_adam_is_adam():
    optimizer = CELO_ADAM.make()
    params, *grads = (random_tree({"w": (3, 4)}, seed) for seed in range(4))
    made, _ = steps(optimizer, CELO_ADAM.golden_theta(optimizer), params, grads, [1.0, 0.5, 2.0])
    with jax.numpy_dtype_promotion("standard"):
        adam = optax.adam(1e-3, eps=1e-8, eps_root=1e-10)
        state = adam.init(params)
        for updates, g in zip(made, grads, strict=True):
            expected, state = adam.update(g, state)
            assert_trees_close(updates, expected, tolerance=5e-5)  # 1 - 0.999 in float32, as the reference


def test_celo2_has_adam_for_biases_and_steps_of_size_step_mult_for_the_rest():
    optimizer = mulo.Celo2(step_mult=0.01)
    params, g = (random_tree({"b": (5,), "w": (4, 6)}, seed) for seed in range(2))
    theta = optimizer.init_theta(jax.random.key(3))
    ((updates,), _) = steps(optimizer, theta, params, [g], [None])
    assert float(jnp.sqrt(jnp.mean(jnp.square(updates["w"])))) == pytest.approx(0.01, rel=1e-5)
    g = np.asarray(g["b"], np.float64)
    expected = -0.01 * 20 * 0.1 * g / np.sqrt(0.05 * g * g + 1e-8)
    np.testing.assert_allclose(updates["b"], expected, rtol=1e-5)


@pytest.mark.parametrize("row", [VELO, CELO2], ids=lambda row: row.name)
@pytest.mark.parametrize("at_once", [0, 10**6], ids=["in turn", "side by side"])
def test_tensors_of_one_shape_get_what_they_get_alone(row, at_once, monkeypatch):
    shapes = {"a": (3, 4), "bias": (5,), "c": (3, 4), "d": (3, 4), "e": (5,), "f": (2, 3)}
    params, *grads = (random_tree(shapes, seed) for seed in range(3))
    optimizer = row.make()
    theta = optimizer.init_theta(jax.random.key(5))
    monkeypatch.setattr(_tensors, "MAX_AT_ONCE", at_once)
    together, _ = steps(optimizer, theta, params, grads, [1.0, 0.5])
    monkeypatch.setattr(_tensors, "group_by_shape", lambda tensors: [(i,) for i in range(len(tensors))])
    alone, _ = steps(optimizer, theta, params, grads, [1.0, 0.5])
    # As tests/conftest.py compiles, roundings are 1.3e-5 of a bias update that is 1e-3 of the others.
    assert_trees_close(together, alone, tolerance=3e-5 if QUICK_COMPILATION else 5e-6)


@pytest.mark.parametrize(
    ("row", "axis_type"),
    [
        pytest.param(VELO, AxisType.Auto, id="velo-auto"),
        pytest.param(VELO, AxisType.Explicit, id="velo-explicit"),
        pytest.param(CELO2, AxisType.Auto, id="celo2-auto", marks=pytest.mark.slow),  # explicit asks for more
        pytest.param(CELO2, AxisType.Explicit, id="celo2-explicit"),
    ],
)
def test_tensors_of_one_shape_that_are_sharded(row, axis_type):
    """Stacked, they stay spread over the devices; narrow ones and donated ones too."""
    shapes = {"a": (8, 4), "c": (8, 4), "w": (16, 8)}
    optimizer = row.make()
    theta = optimizer.init_theta(jax.random.key(5))
    params, g = (random_tree(shapes, seed) for seed in range(2))
    params["c"], g["c"] = params["c"].astype(jnp.bfloat16), g["c"].astype(jnp.bfloat16)
    wanted, _ = steps(optimizer, theta, params, [g, g], [1.0, 1.0])
    sharding = NamedSharding(jax.make_mesh((8,), ("x",), axis_types=(axis_type,)), P("x", None))
    params, g = jax.device_put((params, g), sharding)
    update = jax.jit(lambda state, g: optimizer.update(theta, state, g, params, 1.0, None), donate_argnums=0)
    state = jax.jit(lambda params: optimizer.init(theta, params, 50))(params)
    _, state = update(state, g)
    updates, after = update(state, g)
    assert state.accumulators.second_moment["a"].is_deleted()
    for name in shapes:
        assert after.accumulators.second_moment[name].sharding.is_equivalent_to(sharding, 2)
        assert updates[name].dtype == params[name].dtype
        tolerance = 1e-2 if name == "c" else 1e-5  # bfloat16; sums are taken shard by shard
        assert_trees_close(updates[name].astype(jnp.float32), wanted[1][name].astype(jnp.float32), tolerance)


def test_the_program_does_not_grow_with_tensors_of_one_shape():
    optimizer = VELO.make()
    theta = optimizer.init_theta(jax.random.key(0))

    def program_size(num_layers):
        params = {f"w{i}": jnp.ones((3, 4)) for i in range(num_layers)}
        state = optimizer.init(theta, params, 50)
        lowered = jax.jit(lambda s, g, p: optimizer.update(theta, s, g, p, jnp.float32(1.0), None))
        text = lowered.lower(state, params, params).as_text()
        return sum(text.count(operation) for operation in ("multiply", "rsqrt", "dot_general"))

    assert program_size(20) == program_size(2)


@PLANNERS
def test_the_length_of_the_run_and_the_loss_are_asked_for(row):
    checkpoint, params = row.checkpoint(), {"w": jnp.ones((2, 3))}
    with pytest.raises(mulo.InputError, match=r"needs num_steps, the number of updates"):
        mulo.optimizer(checkpoint)
    with pytest.raises(mulo.InputError, match=r"needs num_steps, the number of updates"):
        mulo.init(params, checkpoint)
    with pytest.raises(mulo.InputError, match=r"needs num_steps, the number of updates"):
        checkpoint.optimizer.init(checkpoint.theta, params, None)
    tx = mulo.optimizer(checkpoint, num_steps=10)
    with pytest.raises(
        mulo.InputError, match=r"needs the loss: tx.update\(grads, state, params, value=loss\)"
    ):
        tx.update(params, tx.init(params), params)
    with pytest.raises(mulo.InputError, match=r"needs the loss"):
        mulo.apply(mulo.init(params, checkpoint, num_steps=10), params)
    with pytest.raises(mulo.InputError, match=r"The loss has shape \(4,\); wanted a scalar"):
        tx.update(params, tx.init(params), params, value=jnp.ones(4))


@PLANNERS
def test_a_loss_that_is_not_finite_does_no_harm(row):
    optimizer = row.make()
    theta = optimizer.init_theta(jax.random.key(0))
    params, *grads = (random_tree({"w": (3, 4)}, seed) for seed in range(5))
    _, before = steps(optimizer, theta, params, grads[:3], [1.0, 0.5, 0.7])
    for broken in (jnp.nan, -jnp.inf):
        made, after = steps(optimizer, theta, params, grads, [1.0, 0.5, 0.7, broken])
        assert all_finite((made, after))
        assert_trees_equal(after.progress.losses, before.progress.losses)
        assert int(after.progress.step) == 4
    # An infinite one counts as twice the largest mean, as any that is larger than that.
    infinite, large = (steps(optimizer, theta, params, grads, [1.0, 0.5, 0.7, x]) for x in (jnp.inf, 1e9))
    assert_trees_equal(infinite, large)
    assert all_finite(infinite)
    assert all_finite(steps(optimizer, theta, params, grads[:1], [jnp.inf]))


@ALL
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, 1e30])
def test_one_bad_gradient_does_not_last(row, value):
    optimizer = row.make()
    theta = optimizer.init_theta(jax.random.key(0))
    params, *grads = (random_tree({"b": (3,), "w": (3, 4)}, seed) for seed in range(4))
    grads[1]["w"] = grads[1]["w"].at[0, 0].set(value)
    made, state = steps(optimizer, theta, params, grads, [1.0, 0.5, 0.7])
    assert all_finite((made, state))


@ALL
def test_scalars_and_leaves_without_entries(row):
    optimizer = row.make()
    theta = row.golden_theta(optimizer)
    params = {"empty": jnp.ones((0, 3)), "scalar": jnp.float32(2.0), "w": jnp.ones((2, 3))}
    (updates, _), state = steps(optimizer, theta, params, [params, params], [1.0, 0.5])
    assert updates["empty"].shape == (0, 3)
    assert updates["scalar"].shape == () and updates["scalar"] != 0
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(theta, params, 50))
    # Leaves without entries are not heard by the others.
    theta = optimizer.init_theta(jax.random.key(0))
    rest = {name: params[name] for name in ("scalar", "w")}
    (updates, _), _ = steps(optimizer, theta, params, [params, params], [1.0, 0.5])
    (alone, _), _ = steps(optimizer, theta, rest, [rest, rest], [1.0, 0.5])
    assert_trees_close({name: updates[name] for name in rest}, alone)
    assert steps(optimizer, theta, {}, [{}], [1.0])[0] == [{}]


@ALL
def test_multipliers_are_factors_on_the_step_of_a_leaf(row):
    optimizer = row.make()
    theta = optimizer.init_theta(jax.random.key(0))
    params, g = (random_tree({"bias": (3,), "w": (3, 4)}, seed) for seed in range(2))
    state = optimizer.init(theta, params, 50)

    def updates(multiplier):
        bias = LeafRule.by_axes((3,), ())
        mup = {"bias": bias, "w": LeafRule.by_axes((3, 4), (0,), lr_multiplier=multiplier)}
        return jax.jit(lambda state: optimizer.update(theta, state, g, params, 1.0, mup))(state)[0]

    plain, scaled = updates(1.0), updates(0.25)
    assert_trees_close(scaled["bias"], plain["bias"], tolerance=1e-6)
    np.testing.assert_allclose(scaled["w"], 0.25 * plain["w"], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mulo.VeLO(num_banks=0), r"num_banks is 0; wanted a whole number from 1 to 4096"),
        (lambda: mulo.MuVeLO(interp_mult=-1.0), r"interp_mult is -1.0; wanted a finite number"),
        (lambda: mulo.Celo(learned_rate=1), r"learned_rate is 1; wanted True or False"),
        (lambda: mulo.CeloAdam(lstm_hidden_size=2.0), r"lstm_hidden_size is 2.0; wanted a whole number"),
        (lambda: mulo.Celo2(adam_names=None), r"adam_names is None; wanted a text"),
    ],
)
def test_what_cannot_be_built_is_refused(make, message):
    with pytest.raises(mulo.InputError, match=message):
        make()
