"""Parameters that carry their sharding with them: Flax's boxes and variables."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import mulo
from tests.descriptors import CELO, CELO2, CELO_ADAM, DIRECTION_FC_ORTHOGONAL, SMALL_FC_H4, VELO

ROWS = {row.name: row for row in (SMALL_FC_H4, VELO, CELO, CELO_ADAM, CELO2, DIRECTION_FC_ORTHOGONAL)}
COMPILED = ("adam", "celo_adam", "direction_fc_orthogonal")
OPTIMIZERS = pytest.mark.parametrize("name", ["adam", *ROWS])
X = jnp.cos(jnp.arange(8 * 4.0)).reshape(8, 4)
BOXES = {
    "partitioned": (nn.with_partitioning, ("x", "y")),
    "logical": (nn.with_logical_partitioning, ("embed", "mlp")),
}
RULES = (("embed", "x"), ("mlp", "y"))


def make(name):
    if name == "adam":
        return optax.adam(0.01)
    return mulo.optimizer(ROWS[name].checkpoint(golden=False), num_steps=ROWS[name].num_steps)


@pytest.fixture(autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def mesh_of(kind=AxisType.Auto):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))


class Net(nn.Module):
    box: object
    names: tuple

    @nn.compact
    def __call__(self, x):
        kernel, bias = nn.initializers.lecun_normal(), nn.initializers.zeros
        kernel, bias = self.box(kernel, self.names), self.box(bias, self.names[1:])
        x = nn.Dense(8, kernel_init=kernel, bias_init=bias)(x)
        return nn.Dense(8, kernel_init=nn.initializers.lecun_normal())(nn.tanh(x))


@pytest.mark.parametrize("box", BOXES)
@OPTIMIZERS
def test_linen_boxes(name, box):
    net, tx, mesh = Net(*BOXES[box]), make(name), mesh_of()

    def create(key):
        return TrainState.create(apply_fn=net.apply, params=net.init(key, X)["params"], tx=tx)

    def train(state):
        def loss_fn(params):
            return jnp.mean(jnp.square(state.apply_fn({"params": params}, X)))

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, value=loss)
        return state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)

    shapes = jax.eval_shape(create, jax.random.key(0))
    specs = nn.get_partition_spec(shapes)
    for x, spec in zip(leaves_of(shapes), leaves_of(specs), strict=True):
        assert len(spec) <= len(x.shape), (x, spec)
    assert jax.tree.structure(jax.eval_shape(train, shapes)) == jax.tree.structure(shapes)
    if name not in COMPILED:
        return
    rules = RULES if box == "logical" else [("x", "x"), ("y", "y")]
    shardings = nn.logical_to_mesh_sharding(specs, mesh, rules)
    with jax.set_mesh(mesh):
        state = jax.jit(create, out_shardings=shardings)(jax.random.key(0))
        after = jax.jit(train, in_shardings=(shardings,), out_shardings=shardings)(state)
        after = jax.jit(train, in_shardings=(shardings,), out_shardings=shardings)(after)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    kernel = after.params["Dense_0"]["kernel"].value
    assert kernel.sharding.spec == P("x", "y")
    assert bool(jnp.all(jnp.isfinite(kernel)))
    if name != "adam":
        found = jax.tree_util.tree_leaves_with_path(after.opt_state)
        inside = [x for path, x in found if "Dense_0" in str(path) and x.shape == (4,)]
        assert all(x.sharding.spec == P("x") for x in inside)


def leaves_of(tree):
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, P))


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, AxisType.Explicit) for name in ("adam", "celo_adam", "celo")), ("celo_adam", AxisType.Auto)],
    ids=str,
)
def test_nnx_variables(name, kind):
    def network():
        rngs = nnx.Rngs(0)
        init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("x", "y"))
        zeros = nnx.with_partitioning(nnx.initializers.zeros_init(), ("y",))
        return nnx.Linear(4, 8, rngs=rngs, kernel_init=init, bias_init=zeros)

    @nnx.jit
    def train(model, optimizer):
        def loss_fn(model):
            return jnp.sum(jnp.square(model.kernel[...])) + jnp.sum(jnp.sin(model.bias[...] + 1.0))

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads, value=loss)

    with jax.set_mesh(mesh_of(kind)):
        model = network()
        optimizer = nnx.Optimizer(model, make(name), wrt=nnx.Param)
        before = np.asarray(model.kernel[...])
        for variable in jax.tree.leaves(nnx.state(optimizer), is_leaf=lambda x: isinstance(x, nnx.Variable)):
            names = variable.get_metadata().get("out_sharding")
            assert names is None or len(names) <= variable.get_value().ndim
        for _ in range(2):
            train(model, optimizer)
        assert model.kernel[...].sharding.spec == P("x", "y")
    assert np.all(np.isfinite(model.kernel[...]))
    assert not np.array_equal(model.kernel[...], before)
