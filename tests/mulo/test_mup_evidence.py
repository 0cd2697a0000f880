"""What leaves say of one another: stacks, biases, layouts, and narrow places inside of a network."""

import warnings

import jax
import jax.numpy as jnp
import pytest

import mulo
from mulo.mup import Leaf, Role
from tests.mulo.test_mup_infer import infer, tree


def structure(mup):
    """Role, fan-in axes and stacked axes of every leaf."""
    return {leaf.path: (leaf.role.value, leaf.fan_in_axes, leaf.stacked_axes) for leaf in mup.leaves}


def blocks(n, layers=3):
    """A scan of transformer blocks, with norms, between an embedding and a head."""
    return {
        "embed": (11, n),
        "blocks": {
            "norm": {"scale": (layers, n), "bias": (layers, n)},
            "up": {"kernel": (layers, n, 4 * n), "bias": (layers, 4 * n)},
            "down": {"kernel": (layers, 4 * n, n)},
            "gate": (layers,),
            "frequencies": (7,),
        },
        "head": (n, 11),
    }


STACKED = {
    "embed": ("input", (0,), ()),
    "blocks/norm/scale": ("vector", (), (0,)),
    "blocks/norm/bias": ("vector", (), (0,)),
    "blocks/up/kernel": ("hidden", (1,), (0,)),
    "blocks/up/bias": ("vector", (), (0,)),
    "blocks/down/kernel": ("hidden", (1,), (0,)),
    "blocks/gate": ("scalar", (), (0,)),
    "blocks/frequencies": ("vector", (), ()),
    "head": ("output", (0,), ()),
}


def test_one_bias_tells_what_is_stacked_beside_it():
    assert structure(infer(blocks, (8,), (4,))) == STACKED


def test_stacks_are_the_same_from_another_depth_and_from_overrides():
    assert structure(infer(blocks, (8,), (4,), other_depth=tree(**blocks(4, layers=2)))) == STACKED

    def without_bias(n):
        shapes = blocks(n)
        del shapes["blocks"]["up"]["bias"]
        return shapes

    with pytest.raises(mulo.InputError, match=r"of blocks/down/kernel.*other_depth"):
        infer(without_bias, (8,), (4,))
    said = {"*/kernel": Leaf(stacked_axes=(0,))}
    wanted = {path: leaf for path, leaf in STACKED.items() if path != "blocks/up/bias"}
    assert structure(infer(without_bias, (8,), (4,), overrides=said)) == wanted


CASES = {
    "bias with axes of length 1": (
        lambda n: {"c": {"w": (3, 3, 5, n), "b": (n, 1, 1)}, "o": (n, 2)},
        {"c/b": ("vector", (), ()), "c/w": ("input", (0, 1, 2), ())},
    ),
    "gain with axes of length 1": (lambda n: {"g": (1, 1, 1, n)}, {"g": ("vector", (), ())}),
    "norm with axes of length 1": (
        lambda n: {"l": {"scale": (n, 1, 1), "bias": (n, 1, 1)}},
        {"l/scale": ("vector", (), ()), "l/bias": ("vector", (), ())},
    ),
    "bias in two dimensions": (
        lambda n: {"l": {"w": (n, 2 * n), "b": (1, 2 * n)}},
        {"l/w": ("hidden", (0,), ()), "l/b": ("vector", (), ())},
    ),
    "first layer of one input": (
        lambda n: {"l": {"w": (1, n), "b": (n,)}, "o": {"w": (n, 1), "b": (1,)}},
        {"l/w": ("input", (0,), ()), "o/w": ("output", (0,), ()), "l/b": ("vector", (), ())},
    ),
    "transposed convolution": (
        lambda n: {"c": {"w": (3, 3, 2 * n, n), "b": (2 * n,)}},
        {"c/w": ("hidden", (0, 1, 3), ())},
    ),
    "queries from what does not grow": (
        lambda n: {"q": (6, n, 4), "o": (n, 4, 6), "e": (9, n)},
        {"q": ("input", (0,), ()), "o": ("output", (0, 1), ())},
    ),
    "flat dictionary": (
        lambda n: {"l/w": (4, n, 2 * n), "l/b": (4, 2 * n), "layers.0.w": (5, n), "layers.0.b": (n,)},
        {"l/w": ("hidden", (1,), (0,)), "l/b": ("vector", (), (0,)), "layers.0.w": ("input", (0,), ())},
    ),
    "weights that do not grow": (
        lambda n: {"w": {"kernel": (5, 6), "bias": (6,)}, "h": (n, n)},
        {"w/kernel": ("input", (0,), ()), "w/bias": ("vector", (), ())},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_structure(case):
    make, wanted = CASES[case]
    got = structure(infer(make, (8,), (4,)))
    assert {path: got[path] for path in wanted} == wanted


SILENT = {
    "embedding and head in one layer": lambda n: {"e": (11, n), "p": (7, n), "w": (n, n), "h": (n, 11)},
    "embedding and head side by side": lambda n: {
        "ends": {"e": (11, n), "h": (n, 11)}, "p": (7, n), "w": (n, n)
    },
    "autoencoder": lambda n: {"i": (64, n), "w": (n, n // 2), "v": (n // 2, n), "o": (n, 64)},
    "policy and value": lambda n: {
        "trunk": {"i": (6, n), "w": (n, n)}, "policy": {"w": (n, 6)}, "value": {"w": (n, 1)}
    },
    "language model with a value head": lambda n: {
        "model": {"e": (11, n), "p": (7, n), "block": {"w": (n, n)}, "head": (n, 11)}, "value": (n, 1)
    },
    "heads of one size": lambda n: {"i": (6, n), "w": (n, n), "heads": [(n, 5), (n, 5), (n, 5)]},
    "two critics": lambda n: {
        name: {"i": (6, n), "w": (n, n), "o": (n, 2)} for name in ("one", "two")
    },
    "images to images": lambda n: {"i": (3, 3, 3, n), "w": (3, 3, n, n), "o": (3, 3, n, 3)},
}  # fmt: skip


@pytest.mark.parametrize("case", SILENT)
def test_the_ends_of_a_network_are_not_asked_for(case):
    make = SILENT[case]

    def shapes(n):
        return jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
            make(n),
            is_leaf=lambda x: isinstance(x, tuple),
        )

    mup = mulo.mup.infer(shapes(8), shapes(4))
    assert any(leaf.role is Role.OUTPUT for leaf in mup.leaves)


def feed_forward(n, num_blocks=1):
    """Only the width inside of the blocks grows."""
    block = {"attention": (6, 6), "up": {"w": (6, n)}, "down": {"w": (n, 6)}}
    return {"e": (11, 6), **{f"block_{i}": block for i in range(num_blocks)}, "head": (6, 11)}


def adapted(n, num_blocks=1):
    """Low-rank adapters in modules of their own."""
    adapter = {"a": {"w": (n, 2)}, "b": {"w": (2, n)}}
    block = {"base": {"w": (n, n)}, "adapter": adapter}
    return {"e": (11, n), **{f"block_{i}": block for i in range(num_blocks)}, "head": (n, 11)}


ASKED = {
    "only the feed-forward width grows": (feed_forward, "*/down/w"),
    "in two blocks": (lambda n: feed_forward(n, 2), "*/down/w"),
    "low-rank adapter": (adapted, "*/a/w"),
    "low-rank adapters": (lambda n: adapted(n, 3), "*/a/w"),
    "tied embedding": (lambda n: {**adapted(n), "head": (n,)}, "*/a/w"),
    "flat": (lambda n: {"a": (n, 2), "b": (2, n), "e": (11, n), "w": (n, n), "h": (n, 11)}, "a"),
    "few keys in every block": (
        lambda n: {
            "e": (11, n),
            "one": {"q": {"w": (n, n)}, "k": {"w": (n, 16)}},
            "two": {"q": {"w": (n, n)}, "k": {"w": (n, 16)}},
            "head": (n, 11),
        },
        "*/k/w",
    ),
    "choice of experts": (
        lambda n: {
            "e": (11, n),
            "block": {"choice": {"w": (n, 4)}, "experts": {"w": (4, n, 2 * n), "b": (4, 2 * n)}},
            "head": (n, 11),
        },
        "*/choice/w",
    ),
    "bottleneck": (lambda n: {"e": (64, n), "in": (n, 16), "out": (16, n), "d": (n, 64)}, "in"),
}  # fmt: skip


@pytest.mark.parametrize("case", ASKED)
def test_narrow_places_inside_are_asked_for(case):
    make, pattern = ASKED[case]
    with pytest.raises(mulo.InputError, match=r"Role\.OUTPUT.*Role\.HIDDEN.*without that") as error:
        infer(make, (32,), (8,))
    assert str(error.value).split()[3].rstrip(",").endswith(pattern.removeprefix("*"))
    assert "\n" not in str(error.value)
    roles = {
        leaf.path: leaf.role for leaf in infer(make, (32,), (8,), overrides={pattern: Role.HIDDEN}).leaves
    }
    assert roles.get("head", Role.OUTPUT) in (Role.OUTPUT, Role.INPUT, Role.VECTOR)
    infer(make, (32,), (8,), overrides={pattern: Role.OUTPUT})


def outputs_first(n, bias=True):
    sizes = {"one": (n, 5), "two": (n, n), "three": (3, n)}
    return {name: {"weight": shape, **({"bias": shape[:1]} if bias else {})} for name, shape in sizes.items()}


LAYOUTS = {
    "biases": (outputs_first, {}, r"one/weight, shape \(8, 5\), seems to be stored outputs first.*out_in"),
    "biases in one layer": (
        lambda n: {"w1": (n, 5), "b1": (n,), "w2": (n, n), "b2": (n,), "w3": (3, n), "b3": (3,)},
        {},
        "layout='out_in'",
    ),
    "the other way round": (
        lambda n: {"one": {"w": (5, n), "b": (n,)}, "two": {"w": (n, n), "b": (n,)}},
        {"layout": "out_in"},
        "layout='in_out'",
    ),
    "one layer of several": (
        lambda n: {"one": {"w": (5, n), "b": (n,)}, "two": {"w": (2 * n, n), "b": (2 * n,)}},
        {},
        r"two/w.*say of this one overrides=\{'two/w': mulo.mup.Leaf\(fan_in_axes=\(1,\)\)\}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_biases_that_contradict_the_layout(case):
    make, keywords, message = LAYOUTS[case]
    with pytest.raises(mulo.InputError, match=message):
        infer(make, (8,), (4,), **keywords)


def test_a_layout_that_the_biases_contradict_can_be_said_all_the_same():
    def make(n):
        return {"norm_and_weight": {"gain": (n,), "w": (n, 10)}, "e": (5, n)}

    with pytest.raises(mulo.InputError, match=r"Leaf\(fan_in_axes=\(0,\)\)"):
        infer(make, (8,), (4,))
    mup = infer(make, (8,), (4,), overrides={"*/w": Leaf(fan_in_axes=(0,))})
    assert structure(mup)["norm_and_weight/w"] == ("output", (0,), ())


def test_equinox_layers_tell_their_layout_and_their_embeddings():
    eqx = pytest.importorskip("equinox")

    def shapes(n):
        keys = jax.random.split(jax.random.key(0), 3)
        model = {
            "embedding": eqx.nn.Embedding(11, n, key=keys[0]),
            "hidden": eqx.nn.Linear(n, n, use_bias=False, key=keys[1]),
            "head": eqx.nn.Linear(n, 11, use_bias=False, key=keys[2]),
        }
        return eqx.filter(model, eqx.is_inexact_array)

    with pytest.raises(mulo.InputError, match=r"weight, shape .* Equinox.* pass layout='out_in'"):
        mulo.mup.infer(shapes(8), shapes(4))
    assert structure(mulo.mup.infer(shapes(8), shapes(4), layout="out_in", form="standard")) == {
        "embedding/weight": ("input", (0,), ()),
        "hidden/weight": ("hidden", (1,), ()),
        "head/weight": ("output", (1,), ()),
    }


def test_of_several_weights_stored_outputs_first_the_output_is_asked_for():
    def make(n):
        return {
            "tokens.weight": (11, n),
            "places.weight": (7, n),
            "l.weight": (3 * n, n),
            "head.weight": (11, n),
        }

    with pytest.raises(
        mulo.InputError, match=r"Role\.OUTPUT, fan_in_axes=\(1,\).*Role\.INPUT, fan_in_axes=\(0,\)"
    ):
        infer(make, (8,), (4,), layout="out_in")
    said = {"tokens.*": Role.INPUT, "places.*": Role.INPUT}
    assert structure(infer(make, (8,), (4,), layout="out_in", overrides=said)) == {
        "tokens.weight": ("input", (0,), ()),
        "places.weight": ("input", (0,), ()),
        "l.weight": ("hidden", (1,), ()),
        "head.weight": ("output", (1,), ()),
    }
    first_and_last = infer(lambda n: {"i": (n, 5), "w": (n, n), "o": (3, n)}, (8,), (4,), layout="out_in")
    assert structure(first_and_last)["o"] == ("output", (1,), ())


def test_a_network_without_outputs_in_standard_form_is_said():
    def make(n):
        return {"e": (11, n), "w": (n, n)}

    with pytest.warns(UserWarning, match="No parameter of this network has the role OUTPUT.*tied"):
        infer(make, (8,), (4,), form="standard")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        infer(make, (8,), (4,))
