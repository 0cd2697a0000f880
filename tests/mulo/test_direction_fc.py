"""DirectionFC with weights for which the right steps are known: sizes, schedule, decay, rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import mulo
from mulo.mup import LeafRule, Role
from tests.closeness import assert_trees_equal
from tests.descriptors import DIRECTION_FC, direction_fc_golden_theta
from tests.mulo.step_sizes import rms, sizes_of_steps

PARAMS = {"b": jnp.ones(5), "w": jnp.linspace(0.5, 2.0, 12).reshape(3, 4)}
GRADS = {"b": jnp.arange(1.0, 6.0), "w": jnp.linspace(-1.0, 3.0, 12).reshape(3, 4)}


def all_updates(optimizer, theta, num_steps, count, params=PARAMS, grads=GRADS, mup=None):
    """The updates of the first `count` steps where every gradient is the same."""
    update = jax.jit(lambda state: optimizer.update(theta, state, grads, params, None, mup))
    state, made = optimizer.init(theta, params, num_steps, mup), []
    for _ in range(count):
        updates, state = update(state)
        made.append(updates)
    return made


def updates_of(optimizer, theta, num_steps, made, *inputs, **named):
    """The updates of step `made`; 0 is the first."""
    return all_updates(optimizer, theta, num_steps, made + 1, *inputs, **named)[made]


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("linear", [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
        ("cosine", [1.0, 0.5 + 0.5 * 0.5**0.5, 0.5, 0.5 - 0.5 * 0.5**0.5, 0.0, 0.0]),
        ("constant", [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]),
    ],
)
def test_steps_are_of_the_size_that_the_schedule_says_and_none_after_the_run(schedule, factors):
    optimizer = mulo.DirectionFC(step_mult=0.01, schedule=schedule)
    theta = optimizer.init_theta(jax.random.key(3))
    for updates, factor in zip(all_updates(optimizer, theta, 4, len(factors)), factors, strict=True):
        assert rms(updates["w"]) == pytest.approx(0.01 * factor, rel=1e-4, abs=1e-9)
        assert rms(updates["b"]) == pytest.approx(0.01 * factor, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(("num_steps", "size"), [(10, 1.0), (1000, 1.0), (4000, 0.5), (100_000, 0.1)])
def test_in_longer_runs_than_a_thousand_steps_are_smaller_and_decay_is_not(num_steps, size):
    optimizer = mulo.DirectionFC(step_mult=0.01, schedule="constant")
    theta = optimizer.init_theta(jax.random.key(0))
    updates = updates_of(optimizer, theta, num_steps, 0)
    assert rms(updates["w"]) == pytest.approx(0.01 * size, rel=1e-4)
    decayed = updates_of(mulo.DirectionFC(schedule="constant", weight_decay=500.0), theta, num_steps, 0)
    difference = np.asarray(decayed["w"] - updates["w"])
    np.testing.assert_allclose(difference, -500.0 / num_steps * PARAMS["w"], rtol=1e-3, atol=1e-7)


def test_it_begins_near_the_direction_of_adam():
    optimizer = mulo.DirectionFC(schedule="constant")
    updates = updates_of(optimizer, optimizer.init_theta(jax.random.key(0)), 100, 9)
    for name, update in updates.items():
        wanted = -np.sign(np.asarray(GRADS[name]))  # Adam's, where all gradients are the same
        cosine = np.sum(update * wanted) / np.linalg.norm(update) / np.linalg.norm(wanted)
        assert cosine > 0.9


def test_weights_of_rank_two_decay_by_the_share_of_the_run():
    plain, decayed = (mulo.DirectionFC(schedule="constant", weight_decay=decay) for decay in (0.0, 2.0))
    theta = plain.init_theta(jax.random.key(0))
    without, with_decay = (updates_of(optimizer, theta, 100, 0) for optimizer in (plain, decayed))
    np.testing.assert_allclose(with_decay["w"] - without["w"], -0.02 * PARAMS["w"], rtol=1e-4)
    assert_trees_equal(with_decay["b"], without["b"])


@pytest.mark.parametrize(("num_steps", "total"), [(100, 0.4), (1000, 4.0), (4000, 4.0)])
def test_short_runs_decay_in_proportion_where_decay_steps_says_so(num_steps, total):
    plain = mulo.DirectionFC(schedule="constant")
    decayed = mulo.DirectionFC(schedule="constant", weight_decay=4.0, decay_steps=1000.0)
    theta = plain.init_theta(jax.random.key(0))
    without, with_decay = (updates_of(optimizer, theta, num_steps, 0) for optimizer in (plain, decayed))
    wanted = -total / num_steps * PARAMS["w"]
    np.testing.assert_allclose(with_decay["w"] - without["w"], wanted, rtol=1e-3, atol=1e-7)


def test_each_kind_of_tensor_has_its_rate():
    params = {"hidden": jnp.ones((8, 8)), "in": jnp.ones((3, 8)), "vector": jnp.ones(8)}
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
    roles = {"hidden": Role.HIDDEN, "in": Role.INPUT, "vector": Role.VECTOR}
    mup = {
        name: LeafRule.by_axes(p.shape, (0,) if p.ndim > 1 else (), role=roles[name])
        for name, p in params.items()
    }
    optimizer = mulo.DirectionFC(step_mult=0.01)
    theta = optimizer.init_theta(jax.random.key(0))
    theta["rates"] = {"hidden": jnp.log(2.0) / 10, "matrix": jnp.log(3.0) / 10, "vector": jnp.log(5.0) / 10}
    updates = updates_of(optimizer, theta, 10, 0, params, grads, mup)
    sizes = {name: rms(update) / 0.01 for name, update in updates.items()}
    assert sizes == pytest.approx({"hidden": 0.125 * 32 * 2, "in": 3.0, "vector": 5.0}, rel=1e-3)


@pytest.mark.parametrize(("overshoot", "growth"), [(0.0, 8.0), (0.5, 4.0), (0.2, 20.0)])
def test_steps_grow_while_gradients_agree_for_half_of_the_run_and_to_a_bound(overshoot, growth):
    optimizer = mulo.DirectionFC(schedule="constant", growth=growth, overshoot=overshoot)
    found = sizes_of_steps(optimizer, PARAMS, GRADS, [1] * 20, 20)
    # The first gradient has no momentum before it; all after it agree by 1.
    changes = [0.0] + [growth * max(0.0, 1 - 2 * t / 20) / 20 * (1 + overshoot) for t in range(1, 20)]
    np.testing.assert_allclose(found, np.exp(np.minimum(np.cumsum(changes), 2.0)), rtol=1e-3)
    assert (found[-1] > 7) == (growth == 20.0)


def test_in_longer_runs_than_a_thousand_steps_they_grow_less():
    optimizer = mulo.DirectionFC(schedule="constant", growth=100.0, overshoot=0.0)
    for num_steps, share in [(1000, 1.0), (4000, 0.25)]:
        first, second = sizes_of_steps(optimizer, PARAMS, GRADS, [1, 1], num_steps)
        assert second / first == pytest.approx(np.exp(0.1 * share * (1 - 2 / 1000)), rel=1e-5)


def test_steps_that_have_grown_become_smaller_where_gradients_turn_around_and_no_smaller_than_at_first():
    optimizer = mulo.DirectionFC(schedule="constant", growth=20.0, overshoot=0.0)
    found = sizes_of_steps(optimizer, PARAMS, GRADS, [1, 1, 1, 1, *[-1, 1] * 10], 48)
    assert found[3] > 2
    assert found[4] < found[3]
    assert found.min() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(("factor", "growth"), [(1e-7, 0.0), (1e5, 0.0), (1e-7, 20.0), (1e5, 20.0)])
def test_steps_do_not_depend_on_the_scale_of_gradients(factor, growth):
    optimizer = mulo.DirectionFC(growth=growth)
    theta = optimizer.init_theta(jax.random.key(1))
    scaled = jax.tree.map(lambda g: factor * g, GRADS)
    for made in (0, 3):
        wanted = updates_of(optimizer, theta, 10, made)
        found = updates_of(optimizer, theta, 10, made, grads=scaled)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6), found, wanted)


@pytest.mark.parametrize("fields", [{}, {"normalised": False}, {"epsilon": 1e-12}], ids=str)
def test_a_tensor_without_gradients_only_decays(fields):
    """Frozen tensors; and under muP hidden weights in the first step, where the output layer is zero."""
    optimizer = mulo.DirectionFC(weight_decay=0.5, schedule="constant", **fields)
    theta = optimizer.init_theta(jax.random.key(0))
    update = jax.jit(lambda grads, state: optimizer.update(theta, state, grads, PARAMS, None, None))
    updates, state = update({**GRADS, "w": jnp.zeros((3, 4))}, optimizer.init(theta, PARAMS, 10))
    np.testing.assert_allclose(updates["w"], -0.05 * PARAMS["w"], rtol=1e-6)
    assert rms(updates["b"]) > 0
    updates, state = update(GRADS, state)
    assert rms(updates["w"] + 0.05 * PARAMS["w"]) > 1e-3
    updates, _ = update({**GRADS, "w": jnp.zeros((3, 4))}, state)  # momentum goes on
    assert rms(updates["w"] + 0.05 * PARAMS["w"]) > 1e-3


def test_without_normalisation_the_size_is_that_of_the_network():
    optimizer = mulo.DirectionFC(normalised=False, schedule="constant", hidden_size=2)
    theta = direction_fc_golden_theta(optimizer)
    theta["mlp"]["w2"] *= 3.0
    updates = updates_of(optimizer, theta, 10, 0)
    assert rms(updates["w"]) == pytest.approx(0.03, rel=1e-3)


def test_the_length_of_the_run_is_asked_for_and_the_loss_is_not():
    checkpoint = DIRECTION_FC.checkpoint()
    with pytest.raises(mulo.InputError, match=r"needs num_steps, the number of updates"):
        mulo.optimizer(checkpoint)
    with pytest.raises(mulo.InputError, match=r"needs num_steps, the number of updates"):
        checkpoint.optimizer.init(checkpoint.theta, PARAMS, None)
    tx = mulo.optimizer(checkpoint, num_steps=10)
    updates, _ = jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)
    assert rms(updates["w"]) > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "step"}, "No schedule is called 'step'"),
        ({"hidden_size": 1}, "wanted at least 2"),
        ({"growth": 1e39}, r"growth is 1e\+39; wanted 0 to 1000"),
        ({"overshoot": 1.5}, "overshoot is 1.5; wanted 0 to 1"),
        ({"epsilon": 2.0}, "epsilon is 2.0; wanted 0 to 1"),
        ({"epsilon": 1e-46}, "epsilon is 1e-46; wanted 0, or 1e-12 to 1"),
        ({"newton_schulz": True, "normalised": False}, "newton_schulz is True and normalised False"),
    ],
)
def test_what_it_cannot_be_is_refused(fields, message):
    with pytest.raises(mulo.InputError, match=message):
        mulo.DirectionFC(**fields)


def near_orthogonal(matrices):
    """Three Newton-Schulz iterations on the singular values. matrices: [..., m, n]."""
    left, singular, right = np.linalg.svd(matrices, full_matrices=False)
    singular = singular / np.linalg.norm(singular, axis=-1, keepdims=True)
    for _ in range(3):
        singular = 3.4445 * singular - 4.775 * singular**3 + 2.0315 * singular**5
    return left * singular[..., np.newaxis, :] @ right


def test_newton_schulz_makes_directions_of_matrices_near_orthogonal_and_as_large_as_before():
    shapes = {"b": (5,), "conv": (3, 2, 4, 5), "stacked": (2, 6, 9), "w": (16, 12)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    draw = np.random.default_rng(4)
    grads = jax.tree.map(lambda p: draw.normal(size=p.shape).astype(np.float32), params)
    plain, orthogonal = (
        mulo.DirectionFC(schedule="constant", newton_schulz=newton_schulz) for newton_schulz in (False, True)
    )
    theta = plain.init_theta(jax.random.key(0))
    without, with_it = (updates_of(o, theta, 100, 2, params, grads) for o in (plain, orthogonal))
    assert_trees_equal(with_it["b"], without["b"])
    # A kernel of a convolution is one matrix of all that it sums over.
    for name, shape in {"conv": (24, 5), "stacked": (2, 6, 9), "w": (16, 12)}.items():
        wanted = near_orthogonal(np.asarray(np.reshape(without[name], shape), np.float64))
        wanted *= 0.01 / np.sqrt(np.mean(wanted**2))
        np.testing.assert_allclose(np.reshape(with_it[name], shape), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("spec", [P("x"), P(None, None, "x"), P(None, None, None, "x")], ids=str)
def test_kernels_of_convolutions_may_be_sharded_along_any_axis(spec):
    optimizer = mulo.DirectionFC(newton_schulz=True)
    theta = optimizer.init_theta(jax.random.key(0))
    draw = np.random.default_rng(0)
    params, grads = ({"conv": draw.normal(size=(8, 3, 8, 16)).astype(np.float32)} for _ in range(2))
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))

    @jax.jit
    def first_updates(params, grads):
        return optimizer.update(theta, optimizer.init(theta, params, 10), grads, params, None, None)[0]

    wanted = first_updates(params, grads)["conv"]
    found = first_updates(*jax.device_put((params, grads), NamedSharding(mesh, spec)))["conv"]
    assert found.sharding.is_equivalent_to(NamedSharding(mesh, spec), 4)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
