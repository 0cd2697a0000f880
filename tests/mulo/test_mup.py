"""Roles, rules and the inference of infinite dimensions."""

import itertools

import jax
import jax.numpy as jnp
import pytest

import mulo
from mulo.mup import RULES, Role
from tests.closeness import assert_trees_close
from tests.descriptors import SMALL_FC_H32

IN, OUT = 12, 10


def mlp(width, depth=3, inputs=IN, outputs=OUT):
    """Shapes of an MLP with `depth` hidden layers."""
    sizes = [inputs, *[width] * depth, outputs]
    return {
        f"layer_{i}": {
            "w": jax.ShapeDtypeStruct((n, m), jnp.float32),
            "b": jax.ShapeDtypeStruct((m,), jnp.float32),
        }
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    }


def by_path(mup):
    return {leaf.path: leaf for leaf in mup.leaves}


def test_roles_and_multipliers_of_an_mlp():
    leaves = by_path(mulo.mup.infer(mlp(64), mlp(16)))
    got = {
        path: (leaf.role.value, leaf.infinite, leaf.fan_in, leaf.update_multiplier, leaf.adam_lr_multiplier)
        for path, leaf in leaves.items()
    }
    assert got == {
        "layer_0/b": ("vector", (0,), 1, 1.0, 1.0),
        "layer_0/w": ("input", (1,), 12, 1.0, 1.0),
        "layer_1/b": ("vector", (0,), 1, 1.0, 1.0),
        "layer_1/w": ("hidden", (0, 1), 64, 1 / 64, 16 / 64),
        "layer_2/b": ("vector", (0,), 1, 1.0, 1.0),
        "layer_2/w": ("hidden", (0, 1), 64, 1 / 64, 16 / 64),
        "layer_3/b": ("vector", (), 1, 1.0, 1.0),
        "layer_3/w": ("output", (0,), 64, 1.0, 1.0),
    }


@pytest.mark.parametrize(
    ("role", "init_std", "forward", "update", "adam"),
    [
        (Role.INPUT, 1 / 8, 1, 1, 1),
        (Role.HIDDEN, 1 / 8, 1, 1 / 64, 1 / 4),
        (Role.OUTPUT, 0, 1 / 64, 1, 1),
        (Role.VECTOR, 0, 1, 1, 1),
        (Role.SCALAR, 0, 1, 1, 1),
    ],
)
def test_the_table_of_rules_at_fan_in_64_and_base_fan_in_16(role, init_std, forward, update, adam):
    rule = RULES[role]
    got = (rule.init_std(64), rule.forward_multiplier(64), rule.update_multiplier(64))
    assert (*got, rule.adam_lr_multiplier(64, 16)) == (init_std, forward, update, adam)


def test_narrower_than_the_base():
    hidden = by_path(mulo.mup.infer(mlp(8), mlp(16)))["layer_1/w"]
    assert (hidden.update_multiplier, hidden.adam_lr_multiplier) == (1 / 8, 2.0)


def test_base_width_itself_with_delta():
    leaves = by_path(mulo.mup.infer(mlp(16), mlp(16), mlp(32)))
    assert leaves["layer_1/w"].role is Role.HIDDEN
    assert (leaves["layer_1/w"].update_multiplier, leaves["layer_1/w"].adam_lr_multiplier) == (1 / 16, 1.0)
    assert leaves["layer_3/w"].role is Role.OUTPUT


def test_arrays_and_shapes_give_the_same():
    arrays = jax.tree.map(lambda s: jnp.zeros(s.shape), mlp(8))
    assert mulo.mup.infer(arrays, mlp(4)) == mulo.mup.infer(mlp(8), mlp(4))
    assert hash(mulo.mup.infer(arrays, mlp(4))) == hash(mulo.mup.infer(mlp(8), mlp(4)))


def convnet(width):
    shapes = {
        "conv_in": (3, 3, 3, width),
        "conv_hidden": (3, 3, width, 2 * width),
        "head": (2 * width, OUT),
        "gain": (width,),
        "position": (1, 7, width),
        "temperature": (),
        "fixed": (5, 6),
    }
    return {name: jnp.zeros(shape) for name, shape in shapes.items()}


def test_roles_of_convolutions_norms_and_scalars():
    leaves = by_path(mulo.mup.infer(convnet(8), convnet(4)))
    assert {path: (leaf.role.value, leaf.fan_in) for path, leaf in leaves.items()} == {
        "conv_in": ("input", 27),
        "conv_hidden": ("hidden", 72),
        "head": ("output", 16),
        "gain": ("vector", 1),
        "position": ("input", 7),
        "temperature": ("scalar", 1),
        "fixed": ("input", 5),
    }
    assert leaves["conv_hidden"].update_multiplier == 1 / 72


def test_overrides():
    shapes = [{"kernel": jnp.zeros((width, 2, 3))} for width in (8, 4)]
    mup = mulo.mup.infer(*shapes, overrides={"kernel": Role.OUTPUT})
    assert mup.leaves[0].role is Role.OUTPUT


ERRORS = {
    "ambiguous": (
        lambda: mulo.mup.infer({"k": jnp.zeros((8, 2, 3))}, {"k": jnp.zeros((4, 2, 3))}),
        r"The role of k, shape \(8, 2, 3\), cannot be told: its axes \(0,\) grow .*overrides=\{'k'",
    ),
    "same width": (
        lambda: mulo.mup.infer(mlp(8), mlp(8)),
        "No parameter differs in shape between the widths.*`delta`",
    ),
    "no parameters": (lambda: mulo.mup.infer({}, {}), "No parameter differs in shape"),
    "depth": (
        lambda: mulo.mup.infer(mlp(8, depth=2), mlp(4, depth=3)),
        r"Parameter layer_3/b is there at one width only\. .*same depth",
    ),
    "depth of delta": (
        lambda: mulo.mup.infer(mlp(8), mlp(8), mlp(4, depth=1)),
        "is there at one width only",
    ),
    "rank": (
        lambda: mulo.mup.infer({"w": jnp.zeros((8, 4))}, {"w": jnp.zeros(4)}),
        r"Parameter w has shape \(8, 4\) at one width and \(4,\) at the other; wanted the same number",
    ),
    "unknown override": (
        lambda: mulo.mup.infer(mlp(8), mlp(4), overrides={"layer_9/w": Role.INPUT}),
        "overrides names 'layer_9/w', which is no parameter. There are: layer_0/b, ",
    ),
    "override that is no role": (
        lambda: mulo.mup.infer(mlp(8), mlp(4), overrides={"layer_0/w": "hidden"}),
        r"overrides gives 'hidden' for layer_0/w; wanted a mulo\.mup\.Role",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, message = ERRORS[case]
    with pytest.raises(mulo.InputError, match=message):
        call()


def zeros(shapes):
    return jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (zeros(mlp(16)), r"inferred for layer_0/b of shape \(8,\), but the parameter has shape \(16,\)"),
        ({"other": jnp.zeros(3)}, "has no parameter other; it was inferred for another model"),
    ],
    ids=["width", "model"],
)
def test_mup_of_another_network_is_refused(params, message):
    mup = mulo.mup.infer(mlp(8), mlp(4))
    checkpoint = SMALL_FC_H32.checkpoint("mup")
    with pytest.raises(mulo.InputError, match=message):
        mulo.optimizer(checkpoint, mup=mup).init(params)
    with pytest.raises(mulo.InputError, match=message):
        mulo.init(params, checkpoint, mup=mup)


def test_multipliers_scale_the_updates_and_nothing_else():
    params = jax.tree.map(lambda s: jnp.ones(s.shape), mlp(4, depth=2, inputs=3, outputs=2))
    mup = mulo.mup.infer(params, mlp(8, depth=2, inputs=3, outputs=2))
    checkpoint = SMALL_FC_H32.checkpoint("mup", golden=False)
    results = []
    for parametrization in (mup, mulo.mup.STANDARD):
        tx = mulo.optimizer(checkpoint, mup=parametrization)
        results.append(jax.jit(tx.update)(params, tx.init(params), params))
    (updates, state), (standard_updates, standard_state) = results
    multipliers = mup.update_multipliers(params)
    assert multipliers["layer_1"]["w"] == 1 / 4
    assert_trees_close(updates, jax.tree.map(lambda u, m: u * m, standard_updates, multipliers))
    assert_trees_close(state, standard_state)
