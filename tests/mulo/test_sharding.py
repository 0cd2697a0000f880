"""Where states live: what passes in optax.adam passes in ours, on meshes of both kinds and in shard_map."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import mulo
from tests.closeness import assert_trees_close
from tests.descriptors import CELO, CELO2, CELO_ADAM, DIRECTION_FC_ORTHOGONAL, SMALL_FC_H4, VELO

ROWS = {row.name: row for row in (SMALL_FC_H4, VELO, CELO, CELO_ADAM, CELO2, DIRECTION_FC_ORTHOGONAL)}
OPTIMIZERS = pytest.mark.parametrize("name", ["adam", *ROWS])
SHAPES = {"b": (8,), "c": (8,), "k": (2, 4, 8), "s": (), "w": (8, 4)}
SPECS = {
    "rows": {"b": P(), "c": P(), "k": P(), "s": P(), "w": P("x", None)},
    "columns": {"b": P(), "c": P(), "k": P(None, None, "x"), "s": P(), "w": P(None, "y")},
    "both": {"b": P("x"), "c": P(), "k": P("y", None, "x"), "s": P(), "w": P("x", "y")},
}
COMPILED = ("adam", "celo_adam", "celo")
"""Types are known without compilation, which takes most of the time; of these numbers are looked at too."""
EACH_SPEC = pytest.mark.parametrize("specs", SPECS.values(), ids=SPECS)


@functools.cache
def make(name):
    if name == "adam":
        return optax.adam(0.01)
    return mulo.optimizer(ROWS[name].checkpoint(golden=False), num_steps=ROWS[name].num_steps)


def make_mesh(kind):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))


def parameters():
    return {
        name: jax.random.normal(jax.random.fold_in(jax.random.key(0), i), shape)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def place(tree, mesh, specs):
    return {name: jax.device_put(x, NamedSharding(mesh, specs[name])) for name, x in tree.items()}


def step(tx, params, state):
    grads = jax.tree.map(jnp.cos, params)
    updates, state = tx.update(grads, state, params, value=jnp.sum(params["s"]))
    return optax.apply_updates(params, updates), state


def types(tree):
    return jax.tree.map(lambda x: str(jax.typeof(x)), tree)


@pytest.fixture(autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


@EACH_SPEC
@OPTIMIZERS
def test_explicit_mesh(name, specs):
    tx = make(name)
    with jax.set_mesh(make_mesh(AxisType.Explicit)) as mesh:
        mesh = jax.sharding.get_mesh()
        params = place(parameters(), mesh, specs)
        state = tx.init(params)
        assert types(jax.jit(tx.init)(params)) == types(state)
        assert types(jax.eval_shape(tx.init, params)) == types(state)

        def twice(params, state):
            return jax.lax.scan(lambda carry, _: (step(tx, *carry), None), (params, state), length=2)[0]

        assert types(jax.eval_shape(twice, params, state)) == types((params, state))
        if name not in COMPILED:
            return
        after = jax.jit(twice, donate_argnums=1)(params, state)
        assert types(after) == types((params, state))
    plain = parameters()
    wanted = jax.jit(twice)(plain, tx.init(plain))
    assert_trees_close(after[0], wanted[0], tolerance=1e-4)


@EACH_SPEC
@OPTIMIZERS
def test_automatic_mesh(name, specs):
    tx = make(name)
    mesh = make_mesh(AxisType.Auto)
    params = place(parameters(), mesh, specs)
    for init in (tx.init, jax.jit(tx.init)):
        if name != "adam" or init is tx.init:  # Adam's jitted zeros are constants, on one device
            assert_follows(params, init(params), specs)
    jax.eval_shape(tx.init, jax.tree.map(as_shape, params))
    if name != "adam":
        row = ROWS[name]
        state = mulo.init(params, row.checkpoint(golden=False), num_steps=row.num_steps)
        assert_follows(params, state.inner, specs)
        assert_follows(params, state.params, specs)


def as_shape(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def assert_follows(params, state, specs):
    """A statistic of a parameter's shape has its sharding, and any other the part that is left of it."""
    seen = set()
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        key = getattr(path[-1], "key", None)
        if key not in params:
            continue
        spec = [*specs[key], *[None] * (params[key].ndim - len(specs[key]))]
        # Of fewer axes: what is left without one of them.
        left = (
            [spec] if x.shape == params[key].shape else [spec[:i] + spec[i + 1 :] for i in range(len(spec))]
        )
        wanted = [NamedSharding(params[key].sharding.mesh, P(*names)) for names in left or [[]]]
        assert x.size == 1 or any(x.sharding.is_equivalent_to(s, x.ndim) for s in wanted), (path, x.sharding)
        assert len(x.sharding.device_set) == 8, path
        seen.add(key)
    assert seen == set(params)


@pytest.mark.parametrize("size", [8, 16384])
@OPTIMIZERS
def test_a_network_of_its_own_on_each_device(name, size):
    tx = make(name)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    shapes = {"b": (3,), "s": (), "w": (size, 8)}
    many = {
        key: jax.random.normal(jax.random.fold_in(jax.random.key(0), i), (8, *shape))
        for i, (key, shape) in enumerate(shapes.items())
    }

    def train(params):
        def scanned(carry, _):
            return step(tx, *carry), None

        return jax.lax.scan(scanned, (params, tx.init(params)), length=2)[0][0]

    def one(params):
        return jax.tree.map(lambda x: x[None], train(jax.tree.map(lambda x: x[0], params)))

    spread = jax.shard_map(one, mesh=mesh, in_specs=P("x"), out_specs=P("x"))
    jax.eval_shape(spread, many)
    if name not in COMPILED[:2]:
        return
    got = jax.jit(spread)(many)
    wanted = jax.jit(train)(jax.tree.map(lambda x: x[3], many))
    assert_trees_close(jax.tree.map(lambda x: x[3], got), wanted, tolerance=1e-4)


@OPTIMIZERS
def test_one_network_in_shard_map_with_the_batch_spread(name):
    tx = make(name)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))

    def loss_fn(params, x):
        return jnp.mean(x @ params["w"]) + jnp.sum(jnp.sin(params["b"]))

    def train(params, batch):
        def scanned(carry, x):
            params, state = carry
            loss, grads = jax.value_and_grad(loss_fn)(params, x)
            loss, grads = jax.lax.pmean((loss, grads), "x")
            updates, state = tx.update(grads, state, params, value=loss)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(scanned, (params, tx.init(params)), batch)[0][0]

    params = {name: parameters()[name] for name in ("b", "w")}
    batch = jnp.cos(jnp.arange(2 * 16 * 8.0)).reshape(2, 16, 8)
    spread = jax.shard_map(train, mesh=mesh, in_specs=(P(), P(None, "x")), out_specs=P())
    assert jax.tree.structure(jax.eval_shape(spread, params, batch)) == jax.tree.structure(params)


def mup_shapes(width, depth=4):
    heads, stack = (width, 8, width // 8), (depth, width)
    return {"bias": stack, "in": (3, 3, 4, width), "out": (width, 8), "q": heads, "stack": (*stack, width)}


MUP_SPECS = {
    "one axis": {"bias": P(None, "x"), "in": P(None, None, "x"), "out": P("x"), "q": P(None, "x")}
    | {"stack": P("x", None, "y")},
    "two axes": {"bias": P("x", "y"), "in": P(None, None, "x", "y"), "out": P("x", "y"), "q": P("x", "y")}
    | {"stack": P(None, "x", "y")},
}


@pytest.mark.parametrize("specs", MUP_SPECS.values(), ids=MUP_SPECS)
@pytest.mark.parametrize("name", ROWS)
def test_explicit_mesh_where_mup_knows_heads_kernels_and_stacks(name, specs):
    trees = [
        {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in mup_shapes(*sizes).items()}
        for sizes in ((32,), (16,), (16, 2))
    ]
    said = {"q": mulo.mup.Leaf(fan_in_axes=(0,)), "in": mulo.mup.Leaf(fan_in_axes=(0, 1, 2))}
    mup = mulo.mup.infer(*trees[:2], other_depth=trees[2], overrides=said)
    row = ROWS[name]
    tx = mulo.optimizer(row.checkpoint("mup", golden=False), mup=mup, num_steps=row.num_steps)

    def train(params):
        def scanned(carry, _):
            params, state = carry
            grads = jax.tree.map(jnp.cos, params)
            updates, state = tx.update(grads, state, params, value=jnp.sum(params["out"]))
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(scanned, (params, tx.init(params)), length=2)[0]

    with jax.set_mesh(make_mesh(AxisType.Explicit)):
        mesh = jax.sharding.get_mesh()
        params = {
            key: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, specs[key]))
            for key, x in trees[0].items()
        }
        after, state = jax.eval_shape(train, params)
        assert types(after) == types(jax.eval_shape(lambda x: x, params))
        assert types(state) == types(jax.eval_shape(tx.init, params))
