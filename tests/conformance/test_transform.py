"""What every learned optimizer promises as an optax transform and in the two-line form."""

import flax.serialization
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import mulo
from tests.closeness import all_finite, assert_trees_close, assert_trees_equal
from tests.conformance.conftest import loss_of, make_step, run
from tests.descriptors import ROW_OF_EACH_NORMALISATION, ROW_OF_EACH_STATE, ROWS

pytestmark = pytest.mark.optimized

each_normalisation = pytest.mark.parametrize(
    "row", ROW_OF_EACH_NORMALISATION, ids=lambda row: row.name, indirect=True
)
"""For what sums over a tensor, memory and narrow dtypes may break."""

each_state = pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=() if row in ROW_OF_EACH_STATE else pytest.mark.slow) for row in ROWS],
    ids=lambda row: row.name,
    indirect=True,
)
"""For what knows no more of an optimizer than its state: one row for all that have the same kind."""


def apply_with_loss(optimizer_state, grads):
    return mulo.apply(optimizer_state, grads, value=loss_of(grads))


def types(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x), jax.typeof(x).weak_type), tree)


@pytest.mark.numeric
def test_jit_and_op_by_op_agree(tx, params, grads, wanted):
    assert_trees_close(wanted, run(make_step(tx), params, tx.init(params), grads))


def test_scan_and_a_loop_agree(tx, step, params, grads, wanted):
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *grads)
    (got, _), _ = jax.lax.scan(lambda carry, g: (step(*carry, g), None), (params, tx.init(params)), stacked)
    assert_trees_close(got, wanted[0])


def test_one_compilation_and_stable_state_types(tx, params, grads):
    state = tx.init(params)
    step = jax.jit(make_step(tx))
    _, new_state = run(step, params, state, grads)
    assert step._cache_size() == 1
    assert types(new_state) == types(state)


def test_init_is_shapes_only(tx, params):
    abstract = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    got, real = jax.eval_shape(tx.init, abstract), tx.init(params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), got) == jax.tree.map(lambda x: (x.shape, x.dtype), real)


def test_vmap_over_theta_and_one_theta_at_a_time_agree(row, params, grads):
    optimizer = row.make()
    both = [optimizer.init_theta(jax.random.key(seed)) for seed in (3, 4)]

    def first_updates(theta):
        state = optimizer.init(theta, params, row.num_steps)
        return optimizer.update(theta, state, grads[0], params, jnp.float32(1.0), None)[0]

    def stack(trees):
        return jax.tree.map(lambda *x: jnp.stack(x), *trees)

    got = jax.jit(jax.vmap(first_updates))(stack(both))
    assert_trees_close(got, stack(map(jax.jit(first_updates), both)), tolerance=1e-5)
    assert not jnp.allclose(got["w"][0], got["w"][1])


@each_normalisation
def test_donated_buffers(tx, params, grads, wanted):
    state, donated = tx.init(params), jax.tree.map(jnp.copy, params)
    got = run(jax.jit(make_step(tx), donate_argnums=(0, 1)), donated, state, grads)
    assert_trees_equal(got, wanted)
    assert all(x.is_deleted() for x in jax.tree.leaves(donated))


@each_normalisation
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_parameters_have_float32_statistics(tx, params, grads, dtype):
    params, *grads = (jax.tree.map(lambda x: x.astype(dtype), tree) for tree in (params, *grads))
    state = tx.init(params)
    update = jax.jit(tx.update)
    for g in grads:
        updates, state = update(g, state, params, value=loss_of(g))
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
    # The same values held in float32 give the same step, to the rounding of the narrow dtype.
    wide, *wide_grads = (jax.tree.map(lambda x: x.astype(jnp.float32), tree) for tree in (params, *grads))
    wide_state = tx.init(wide)
    for g in wide_grads:
        wide_updates, wide_state = update(g, wide_state, wide, value=loss_of(g))
    assert_trees_close(updates, wide_updates, tolerance=2 * float(jnp.finfo(dtype).eps))
    assert_trees_close(state, wide_state)


@each_normalisation
def test_state_follows_sharded_parameters(tx, step, params, grads, wanted):
    mesh = jax.make_mesh((8,), ("x",))
    shardings = {"b": NamedSharding(mesh, P()), "w": NamedSharding(mesh, P("x", None))}
    sharded, *sharded_grads = (jax.device_put(tree, shardings) for tree in (params, *grads))
    state = jax.jit(tx.init)(sharded)
    got_params, got_state = run(step, sharded, state, sharded_grads)
    assert got_params["w"].sharding.is_equivalent_to(shardings["w"], 2)
    followers = [x for x in jax.tree.leaves(got_state) if x.shape == (8, 4)]
    assert followers
    assert all(x.sharding.is_equivalent_to(shardings["w"], 2) for x in followers)
    # Sums over a tensor are taken shard by shard, in another order than on one device.
    assert_trees_close((got_params, got_state), wanted, tolerance=1e-5)


def test_state_survives_flax_serialization(tx, step, params, grads, wanted):
    saved = run(step, params, tx.init(params), grads[:2])
    restored = flax.serialization.from_bytes(saved, flax.serialization.to_bytes(saved))
    assert_trees_equal(step(*restored, grads[2]), wanted)


def test_two_line_form_gives_the_same_bits(row, checkpoint, tx, params, grads):
    @jax.jit
    def both(params, state, optimizer_state, grads):
        loss = loss_of(grads)
        updates, state = tx.update(grads, state, params, value=loss)
        mine, optimizer_state = mulo.apply(optimizer_state, grads, value=loss)
        return updates, mine, optax.apply_updates(params, updates), state, optimizer_state

    state = tx.init(params)
    optimizer_state = mulo.init(params, checkpoint, num_steps=row.num_steps)
    for g in grads:
        updates, mine, params, state, optimizer_state = both(params, state, optimizer_state, g)
        assert_trees_equal(mine, updates)
        assert_trees_equal(optimizer_state.params, params)
        assert_trees_equal(optimizer_state.inner, state.inner)
    assert both._cache_size() == 1


@each_state
def test_two_line_form_survives_flax_serialization(row, checkpoint, params, grads):
    step = jax.jit(apply_with_loss)
    fresh = mulo.init(params, checkpoint, num_steps=row.num_steps)
    _, saved = step(fresh, grads[0])
    restored = flax.serialization.from_bytes(fresh, flax.serialization.to_bytes(saved))
    assert_trees_equal(step(restored, grads[1]), step(saved, grads[1]))


@each_state
def test_two_line_form_donated(row, checkpoint, params, grads):
    optimizer_state = mulo.init(params, checkpoint, num_steps=row.num_steps)
    donated = jax.tree.leaves(optimizer_state)
    step = jax.jit(apply_with_loss, donate_argnums=0)
    for g in grads:
        _, optimizer_state = step(optimizer_state, g)
    assert all(x.is_deleted() for x in donated)
    kept = jax.tree.leaves((params, checkpoint.theta))
    assert not any(x.is_deleted() for x in kept)
    assert all_finite(optimizer_state)


def test_two_line_form_follows_sharded_parameters(row, checkpoint, params):
    mesh = jax.make_mesh((8,), ("x",))
    sharding = NamedSharding(mesh, P("x", None))
    sharded = {"b": params["b"], "w": jax.device_put(params["w"], sharding)}
    optimizer_state = mulo.init(sharded, checkpoint, num_steps=row.num_steps)
    assert optimizer_state.params["w"].sharding.is_equivalent_to(sharding, 2)
