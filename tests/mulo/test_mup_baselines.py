"""Multipliers against the tables of Tensor Programs V; the optax transform; helpers for models."""

import jax
import jax.numpy as jnp
import optax
import pytest

import mulo
from mulo.mup import Leaf, scale_by_mup
from tests.closeness import assert_trees_close, assert_trees_equal

GROWTH = 4  # of the width, between base and target


def mlp(width):
    return {
        "input": {"w": (12, width), "b": (width,)},
        "hidden": {"w": (width, width), "b": (width,)},
        "output": {"w": (width, 10), "b": (10,)},
    }


def transformer(width):
    heads, head_dim = width // 4, 4
    return {
        "embedding": {"e": (17, width)},
        "positions": {"e": (9, width)},
        "norm": {"gain": (width,), "b": (width,)},
        "query": {"w": (width, heads, head_dim), "b": (heads, head_dim)},
        "attended": {"w": (heads, head_dim, width), "b": (width,)},
        "up": {"w": (width, 4 * width), "b": (4 * width,)},
        "down": {"w": (4 * width, width), "b": (width,)},
        "unembedding": {"w": (width, 17)},
    }


def ones(shapes):
    return jax.tree.map(jnp.ones, shapes, is_leaf=lambda x: isinstance(x, tuple))


# Columns of the tables, written as exponents of the width: by what power of it a factor of the width
# changes the entry. "Input weights & all biases"; a bias of fixed length has no width.
INPUT = {"multiplier": 0, "sgd": 1, "adam": 0}
HIDDEN = {"multiplier": 0, "sgd": 0, "adam": -1}
FIXED = {"multiplier": 0, "sgd": 0, "adam": 0}
TABLE_8 = {
    "input": INPUT,
    "hidden": HIDDEN,
    "fixed": FIXED,
    "output": {"multiplier": -1, "sgd": 1, "adam": 0},
}
TABLE_3 = {
    "input": INPUT,
    "hidden": HIDDEN,
    "fixed": FIXED,
    "output": {"multiplier": 0, "sgd": -1, "adam": -1},
}
COLUMNS = {
    "input/w": "input", "input/b": "input", "hidden/w": "hidden", "hidden/b": "input", "output/w": "output",
    "output/b": "fixed", "embedding/e": "input", "positions/e": "input", "norm/gain": "input",
    "norm/b": "input",
    "query/w": "hidden", "query/b": "input", "attended/w": "hidden", "attended/b": "input", "up/w": "hidden",
    "up/b": "input", "down/w": "hidden", "down/b": "input", "unembedding/w": "output",
}  # fmt: skip


@pytest.mark.parametrize("network", [mlp, transformer])
@pytest.mark.parametrize(("form", "table"), [("mup", TABLE_8), ("standard", TABLE_3)])
def test_every_multiplier_grows_as_in_the_tables_of_tensor_programs_v(network, form, table):
    def multipliers(width, optimizer):
        shapes = [ones(network(n)) for n in (width, 16, 128)]
        tree = mulo.mup.infer(*shapes, form=form).multipliers(shapes[0], optimizer)
        return dict(zip(paths, jax.tree.leaves(tree), strict=True))

    leaves = jax.tree_util.tree_leaves_with_path(ones(network(16)))
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    for optimizer in ("adam", "sgd"):
        wide, narrow = multipliers(16 * GROWTH, optimizer), multipliers(16, optimizer)
        for path in paths:
            wanted = GROWTH ** table[COLUMNS[path]][optimizer]
            assert wide[path] / narrow[path] == wanted, (path, optimizer)
            assert form == "standard" or narrow[path] == 1, path
    if form == "mup":
        mup = mulo.mup.infer(ones(network(16 * GROWTH)), ones(network(16)))
        for leaf in mup.leaves:
            exponent = table[COLUMNS[leaf.path]]["multiplier"]
            assert leaf.forward_multiplier == leaf.fan_in**exponent


def test_sgd_where_fan_in_and_fan_out_grow_differently():
    shapes = [{"w": jnp.ones((n, n * n))} for n in (8, 4)]
    assert mulo.mup.infer(*shapes).multipliers(shapes[0], "sgd") == {"w": 2.0}


@pytest.fixture(name="network")
def make_network():
    shapes = [ones(mlp(width)) for width in (16, 4)]
    return shapes[0], mulo.mup.infer(*shapes)


WRAPPERS = {
    "chain": lambda tx, _: optax.chain(optax.scale(1.0), tx),
    "masked": lambda tx, mask: optax.chain(
        optax.masked(tx, mask), optax.masked(optax.identity(), jax.tree.map(lambda m: not m, mask))
    ),
    "partition": lambda tx, mask: optax.partition(
        {"ours": tx, "theirs": optax.identity()}, jax.tree.map(lambda m: "ours" if m else "theirs", mask)
    ),
    "inject_hyperparams": lambda tx, _: optax.inject_hyperparams(
        lambda factor: optax.chain(tx, optax.scale(factor))
    )(factor=1.0),
}


@pytest.mark.parametrize("optimizer", ["learned", "adam", "sgd"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_transform_inside_optax_wrappers(network, wrapper, optimizer):
    params, mup = network
    mask = jax.tree.map(lambda p: wrapper not in ("masked", "partition") or p.ndim == 2, params)
    tx = WRAPPERS[wrapper](scale_by_mup(mup, optimizer), mask)
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    wanted = jax.tree.map(
        lambda p, factor, m: p * (factor if m else 1.0), params, mup.multipliers(params, optimizer), mask
    )
    assert wanted["hidden"]["w"][0, 0] != 1 or optimizer == "sgd"
    assert_trees_equal(updates, wanted)


def test_muadam_is_adam_with_a_learning_rate_for_each_leaf(network, standard_promotion):
    del standard_promotion
    params, mup = network
    grads = jax.tree.map(lambda p: 0.3 * p, params)
    muadam = optax.chain(optax.scale_by_adam(), scale_by_mup(mup, "adam"), optax.scale(-0.1))
    updates, _ = muadam.update(grads, muadam.init(params))
    adam = optax.adam(0.1)
    plain, _ = adam.update(grads, adam.init(params))
    plain["hidden"]["w"] = plain["hidden"]["w"] * 0.25
    assert_trees_close(updates, plain)


def test_dtypes_are_kept(network):
    params, mup = network
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    updates, _ = scale_by_mup(mup, "adam").update(params, optax.EmptyState())
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}


def test_standard_parametrization_changes_nothing(network):
    params, _ = network
    updates, _ = scale_by_mup(mulo.mup.STANDARD, "sgd").update(params, optax.EmptyState())
    assert updates is params


ERRORS = {
    "no mup": (lambda _: scale_by_mup(None, "adam"), "mup is of type NoneType; wanted what mulo.mup.infer"),
    "optimizer": (
        lambda mup: scale_by_mup(mup, "adan"),
        "No kind of optimizer for muP is called 'adan'. Did you mean 'adam'?",
    ),
    "other network": (
        lambda mup: scale_by_mup(mup, "adam").update({"w": jnp.ones(3)}, optax.EmptyState()),
        "This muP has no parameter w; it was inferred for another model",
    ),
    "no fan-in": (lambda _: mulo.mup.output_multiplier(0), "fan_in is 0; wanted a number above 0"),
    "scaling": (
        lambda _: mulo.mup.residual_multiplier(4, "liner"),
        "No scaling of residual branches is called 'liner'. Did you mean 'linear'?",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(network, case):
    call, message = ERRORS[case]
    with pytest.raises(mulo.InputError, match=message):
        call(network[1])


@pytest.mark.parametrize(
    ("scaling", "branch", "adam", "sgd"), [("sqrt", 1 / 4, 1 / 4, 1), ("linear", 1 / 16, 1, 16)]
)
def test_depth_multipliers_as_tensor_programs_vi_and_completep_state_them(scaling, branch, adam, sgd):
    assert mulo.mup.residual_multiplier(16, scaling) == branch
    assert mulo.mup.residual_lr_multiplier(16, scaling) == adam
    assert mulo.mup.residual_lr_multiplier(16, scaling, "learned") == adam
    assert mulo.mup.residual_lr_multiplier(16, scaling, "sgd") == sgd


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("scaling", ["sqrt", "linear"])
def test_residual_networks_of_any_depth_change_alike(scaling, optimizer):
    """The first steps of linear residual networks change the output by the same at depth 4 and 64."""
    width, inputs = 32, jax.random.normal(jax.random.key(1), (8, 32))

    def change(depth):
        factor = mulo.mup.residual_multiplier(depth, scaling)
        factor_of_lr = mulo.mup.residual_lr_multiplier(depth, scaling, optimizer)
        weights = jax.random.normal(jax.random.key(0), (depth, width, width)) / width**0.5

        def network(weights):
            return jax.lax.scan(lambda x, w: (x + factor * x @ w, None), inputs, weights)[0]

        grads = jax.grad(lambda w: jnp.mean(network(w)[:, 0]))(weights)
        steps = jnp.sign(grads) * 0.01 / width if optimizer == "adam" else grads
        return jnp.sqrt(jnp.mean((network(weights - factor_of_lr * steps) - network(weights)) ** 2))

    slope = jnp.log(change(64) / change(4)) / jnp.log(64 / 4)
    assert abs(slope) < 0.15, slope


def test_lr_multiplier_of_leaves_by_pattern():
    shapes = [{"blocks": {"w": jnp.ones((n, n))}, "in": jnp.ones((3, n))} for n in (8, 4)]
    factor = mulo.mup.residual_lr_multiplier(16)
    mup = mulo.mup.infer(*shapes, overrides={"blocks/*": Leaf(lr_multiplier=factor)})
    for optimizer, wanted in {"adam": 1 / 8, "sgd": 1 / 4, "learned": 1 / 32}.items():
        got = mup.multipliers(shapes[0], optimizer)
        assert got["blocks"]["w"] == wanted
        assert got["in"] == (2 if optimizer == "sgd" else 1)
