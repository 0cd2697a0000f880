"""Roles and fan-in of what networks are made of, from shapes at two widths."""

import functools

import jax
import jax.numpy as jnp
import pytest

import mulo
from mulo.mup import Leaf, Role


def tree(**shapes):
    """Arrays of these shapes; a dict is a layer."""
    return {
        name: tree(**shape) if isinstance(shape, dict) else jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in shapes.items()
    }


def infer(make, *settings, **keywords):
    """Infers from `tree(**make(*setting))` of each setting."""
    return mulo.mup.infer(*(tree(**make(*setting)) for setting in settings), **keywords)


def found(mup):
    return {leaf.path: (leaf.role.value, leaf.fan_in, leaf.fan_out) for leaf in mup.leaves}


def attention(features, heads, head_dim, kv_heads=None, bias=True):
    """A layer of Flax's: queries, keys and values from features, and back."""
    kv_heads = kv_heads or heads

    def layer(kernel, bias_shape):
        return {"kernel": kernel, **({"bias": bias_shape} if bias else {})}

    return {
        "q": layer((features, heads, head_dim), (heads, head_dim)),
        "k": layer((features, kv_heads, head_dim), (kv_heads, head_dim)),
        "o": layer((heads, head_dim, features), (features,)),
    }


GROWTHS = {
    "head_dim": ((48, 3, 16), (24, 3, 8)),
    "heads": ((48, 6, 8), (24, 3, 8)),
    "both": ((48, 6, 16), (24, 3, 8)),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("growth", GROWTHS)
def test_attention_counts_every_contracted_dimension(growth, bias):
    (features, heads, head_dim), base = GROWTHS[growth]
    mup = infer(functools.partial(attention, bias=bias), (features, heads, head_dim), base)
    inner = heads * head_dim
    wanted = {
        "q/kernel": ("hidden", features, inner),
        "k/kernel": ("hidden", features, inner),
        "o/kernel": ("hidden", inner, features),
    }
    if bias:
        wanted |= {
            "q/bias": ("vector", 1, inner),
            "k/bias": ("vector", 1, inner),
            "o/bias": ("vector", 1, features),
        }
    assert found(mup) == wanted
    assert dict(zip(found(mup), mup.leaves, strict=True))["o/kernel"].update_multiplier == 1 / inner


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("target", "base"),
    [((48, 6, 8, 2), (24, 6, 4, 2)), ((64, 8, 8, 4), (32, 4, 8, 2))],
    ids=["few heads of growing dimension", "growing heads"],
)
def test_grouped_queries(target, base, bias):
    features, _, head_dim, kv_heads = target
    keys = found(infer(functools.partial(attention, bias=bias), target, base))["k/kernel"]
    assert keys == ("hidden", features, kv_heads * head_dim)


def test_keys_of_a_fixed_number_of_fixed_heads_are_ambiguous():
    """They may or may not be multiplied like an output: no shape can say."""
    make = functools.partial(attention, bias=False)
    settings = (64, 8, 8, 2), (32, 4, 8, 2)
    with pytest.raises(
        mulo.InputError, match=r"of k/kernel.* Leaf\(role=Role.OUTPUT, fan_in_axes=\(0,\)\), .*"
    ):
        infer(make, *settings)
    mup = infer(make, *settings, overrides={"*k/kernel": Role.HIDDEN})
    assert found(mup)["k/kernel"] == ("hidden", 64, 16)


CASES = {
    "dense": (lambda n: {"l": {"w": (n, 2 * n), "b": (2 * n,)}}, {"l/w": ("hidden", 8, 16)}),
    "first and last": (lambda n: {"i": (5, n), "o": (n, 3)}, {"i": ("input", 5, 8), "o": ("output", 8, 3)}),
    "embedding, square by chance": (lambda n: {"e": (8, n)}, {"e": ("input", 8, 8)}),
    "positions": (lambda n: {"p": (1, 7, n)}, {"p": ("input", 7, 8)}),
    "convolution": (lambda n: {"c": (3, 3, n, 2 * n)}, {"c": ("hidden", 72, 16)}),
    "first convolution": (lambda n: {"c": (3, 3, 1, n)}, {"c": ("input", 9, 8)}),
    "last convolution": (lambda n: {"c": (1, 1, n, 3)}, {"c": ("output", 8, 3)}),
    "depthwise": (lambda n: {"c": (3, 3, 1, n)}, {"c": ("input", 9, 8)}),
    "1-d convolution with bias": (
        lambda n: {"c": {"w": (5, n, n), "b": (n,)}},
        {"c/w": ("hidden", 40, 8), "c/b": ("vector", 1, 8)},
    ),
    "first 1-d convolution": (lambda n: {"c": (5, 3, n)}, {"c": ("input", 15, 8)}),
    "3-d convolution with bias": (
        lambda n: {"c": {"w": (3, 3, 3, n, n), "b": (n,)}},
        {"c/w": ("hidden", 216, 8)},
    ),
    "stacked dense with bias": (
        lambda n: {"l": {"w": (4, n, 2 * n), "b": (4, 2 * n)}},
        {"l/w": ("hidden", 8, 16), "l/b": ("vector", 1, 16)},
    ),
    "fused queries, keys, values": (
        lambda n: {"l": {"w": (n, 3, 2, n), "b": (3, 2, n)}},
        {"l/w": ("hidden", 8, 48), "l/b": ("vector", 1, 48)},
    ),
    "low rank, and nothing else": (
        lambda n: {"a": (n, 2), "b": (2, n)},
        {"a": ("output", 8, 2), "b": ("input", 2, 8)},
    ),
    "temperature": (lambda n: {"t": (), "x": (n,)}, {"t": ("scalar", 1, 1)}),
    "what does not grow": (lambda n: {"f": (5, 6), "x": (n,)}, {"f": ("input", 5, 6)}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_layers(case):
    make, wanted = CASES[case]
    got = found(infer(make, (8,), (4,)))
    assert {path: got[path] for path in wanted} == wanted


AMBIGUOUS = {
    "1-d convolution or stack": (
        lambda n: {"w": (5, n, n)},
        r"w, shape \(5, 8, 8\).*\(1, 2\) grow with width \(\(5, 4, 4\) at base width\).*"
        r"Leaf\(role=Role\.HIDDEN, fan_in_axes=\(0, 1\)\), a kernel that sums .*"
        r"Leaf\(role=Role\.HIDDEN, fan_in_axes=\(1,\), stacked_axes=\(0,\)\), a stack .*other_depth",
    ),
    "queries or attention output": (
        lambda n: {"w": (n, 3, n)},
        r"fan_in_axes=\(0, 1\)\), a kernel.*fan_in_axes=\(0,\)\), a kernel",
    ),
    "stacked queries": (lambda n: {"w": (5, n, n, 4)}, r"stacked_axes=\(0,\)"),
    "3-d convolution or stack": (lambda n: {"w": (5, 3, 3, n, n)}, r"stacked_axes=\(0,\)"),
    "low-rank pair in a layer": (
        lambda n: {"l": {"w": (n, n), "a": (n, 2), "b": (2, n)}, "e": (5, n)},
        r"l/a, shape \(8, 2\).*Leaf\(role=Role\.OUTPUT, fan_in_axes=\(0,\)\), a kernel onto few outputs.*"
        r"Leaf\(role=Role\.HIDDEN, fan_in_axes=\(0,\)\), the first of a low-rank pair",
    ),
    "bias of several axes in a flat dictionary": (
        lambda n: {"q": (n, n // 2, n), "q_bias": (n // 2, n), "o": (n // 2, n, n)},
        r"q_bias, shape \(4, 8\).*Leaf\(role=Role\.VECTOR, fan_in_axes=\(\)\), the bias of another leaf.*"
        r"Leaf\(role=Role\.HIDDEN, fan_in_axes=\(0,\)\)",
    ),
}


def test_an_override_settles_a_low_rank_pair_and_a_bias():
    def make(n):
        pair = {"w": (n, n), "a": (n, 2), "b": (2, n)}
        return {"l": pair, "flat": {"q": (n, n // 2, n), "q_bias": (n // 2, n), "o": (n // 2, n, n)}}

    got = found(infer(make, (8,), (4,), overrides={"l/a": Role.HIDDEN, "*/q_bias": Role.VECTOR}))
    assert (got["l/a"], got["l/b"]) == (("hidden", 8, 2), ("input", 2, 8))
    assert got["flat/q_bias"] == ("vector", 1, 32)


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_is_ambiguous_is_an_error(case):
    make, message = AMBIGUOUS[case]
    with pytest.raises(mulo.InputError, match=message) as error:
        infer(make, (8,), (4,))
    assert "\n" not in str(error.value)


def test_another_depth_shows_the_stacks():
    def make(n, layers):
        return {
            "w": (layers, n, n),
            "q": (layers, n, 2, n // 2),
            "o": (layers, 2, n // 2, n),
            "gain": (layers, n),
            "lora_a": (layers, n, 3),
            "scale": (layers,),
            "convolution": (5, n, n),
        }

    mup = infer(make, (8, 4), (4, 4), other_depth=tree(**make(4, 2)))
    assert found(mup) == {
        "w": ("hidden", 8, 8),
        "q": ("hidden", 8, 8),
        "o": ("hidden", 8, 8),
        "gain": ("vector", 1, 8),
        "lora_a": ("output", 8, 3),
        "scale": ("scalar", 1, 1),
        "convolution": ("hidden", 40, 8),
    }
    assert {
        leaf.path: leaf.stacked_axes for leaf in mup.leaves if leaf.path != "convolution"
    } == dict.fromkeys(("w", "q", "o", "gain", "lora_a", "scale"), (0,))
    # Base and target may have different depths too, once the stacks are known.
    assert found(infer(make, (8, 6), (4, 4), other_depth=tree(**make(4, 2)))) == found(mup)


def test_another_depth_at_another_width_is_refused():
    def make(n, layers):
        return {"w": (layers, n, n)}

    with pytest.raises(
        mulo.InputError, match=r"\(4, 4, 4\) in `base` and \(2, 8, 8\) in `other_depth`.*at its width"
    ):
        infer(make, (8, 4), (4, 4), other_depth=tree(**make(8, 2)))


def test_overrides_give_axes_roles_and_factors_by_pattern():
    def make(n):
        return {"a": {"out": {"w": (3, n, n)}}, "b": {"out": {"w": (3, n, n)}}, "x": (n, 2), "e": (3, n, n)}

    mup = infer(
        make,
        (8,),
        (4,),
        overrides={
            "*/out/w": Leaf(fan_in_axes=(0, 1)),
            "a/*": Leaf(lr_multiplier=0.5),
            "b/out/w": Leaf(fan_in_axes=(-2,)),  # the path itself goes before the pattern
            "x": Role.HIDDEN,
            "e": Leaf(stacked_axes=(0,)),
        },
    )
    assert found(mup) == {
        "a/out/w": ("hidden", 24, 8),
        "b/out/w": ("hidden", 8, 24),
        "x": ("hidden", 8, 2),
        "e": ("hidden", 8, 8),
    }
    leaves = {leaf.path: leaf for leaf in mup.leaves}
    assert leaves["a/out/w"].update_multiplier == 0.5 / 24
    assert leaves["a/out/w"].adam_lr_multiplier == 0.25
    assert leaves["e"].stacked_axes == (0,)


OVERRIDE_ERRORS = {
    "no match": ({"*/nothing": Role.HIDDEN}, r"overrides names '\*/nothing', which is no parameter"),
    "contradiction": (
        {"l/*": Role.HIDDEN, "*/w": Role.INPUT},
        r"Two patterns of overrides match l/w and say different things: role .*HIDDEN",
    ),
    "axes": ({"l/w": Leaf(fan_in_axes=(3,))}, r"gives fan_in_axes \(3,\) for l/w, which has 2 axes"),
    "twice": ({"l/w": Leaf(fan_in_axes=(0,), stacked_axes=(-2,))}, r"an axis of l/w twice: \[0, 0\]"),
}


@pytest.mark.parametrize("case", OVERRIDE_ERRORS)
def test_errors_of_overrides(case):
    overrides, message = OVERRIDE_ERRORS[case]
    with pytest.raises(mulo.InputError, match=message):
        infer(lambda n: {"l": {"w": (n, n)}}, (8,), (4,), overrides=overrides)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"role": "hidden"}, "The role of a Leaf is 'hidden'; wanted a mulo.mup.Role"),
        ({"fan_in_axes": 0}, r"fan_in_axes of a Leaf is 0; wanted a tuple of axes, as \(0, 1\)"),
        ({"lr_multiplier": 0.0}, "lr_multiplier of a Leaf is 0.0; wanted a number above 0"),
    ],
)
def test_errors_of_leaf(fields, message):
    with pytest.raises(mulo.InputError, match=message):
        Leaf(**fields)


def equinox(n):
    """Linear (out, in), Conv (out, in, height, width), its bias (out, 1, 1), Embedding (tokens, features)."""
    return {
        "conv": {"weight": (n, 3, 5, 5), "bias": (n, 1, 1)},
        "hidden_conv": {"weight": (2 * n, n, 3, 3)},
        "line": {"weight": (n, n, 3)},
        "linear": {"weight": (2 * n, n), "bias": (2 * n,)},
        "stack": {"weight": (4, n, 2 * n)},
        "embedding": {"weight": (11, n)},
        "head": {"weight": (10, n), "bias": (10,)},
    }


def test_weights_stored_outputs_first():
    got = found(infer(equinox, (8,), (4,), layout="out_in"))
    weights = {path.removesuffix("/weight"): fans for path, fans in got.items() if path.endswith("weight")}
    assert weights == {
        "conv": ("input", 75, 8),
        "hidden_conv": ("hidden", 72, 16),
        "line": ("hidden", 24, 8),
        "linear": ("hidden", 8, 16),
        "stack": ("hidden", 16, 8),
        "embedding": ("input", 11, 8),  # the head is told by its bias, so this has none
        "head": ("output", 8, 10),
    }
    with pytest.raises(
        mulo.InputError, match=r"of embedding/weight.*role=Role.INPUT, fan_in_axes=\(0,\)\), an embed"
    ):
        infer(equinox, (8,), (4,), layout="out_in", form="standard")
    # The head is told from an embedding by its bias.
    said = {"embedding/*": Leaf(fan_in_axes=(0,))}
    settled = infer(equinox, (8,), (4,), layout="out_in", form="standard", overrides=said)
    assert found(settled)["embedding/weight"] == ("input", 11, 8)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"layout": "out"}, "No layout of weights is called 'out'. "),
        ({"form": "standart"}, "No form of muP is called 'standart'. Did you mean 'standard'?"),
    ],
)
def test_unknown_words(keywords, message):
    with pytest.raises(mulo.InputError, match=message):
        infer(lambda n: {"w": (n, n)}, (8,), (4,), **keywords)


def test_linen_network_with_scanned_layers():
    nn = pytest.importorskip("flax.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            features = x.shape[-1]
            x = x + nn.MultiHeadDotProductAttention(num_heads=2, use_bias=False)(nn.LayerNorm()(x))
            return x + nn.Dense(features, use_bias=False)(nn.gelu(nn.Dense(2 * features)(x))), None

    class Net(nn.Module):
        width: int
        depth: int

        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(11, self.width)(tokens)
            x = nn.Conv(self.width, (3,), feature_group_count=self.width)(x)
            blocks = nn.scan(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth
            )
            return nn.Dense(11)(blocks()(x, None)[0])

    def shapes(width, depth):
        tokens = jnp.zeros((1, 5), jnp.int32)
        return jax.eval_shape(lambda: Net(width, depth).init(jax.random.key(0), tokens)["params"])

    mup = mulo.mup.infer(shapes(16, 3), shapes(8, 3), other_depth=shapes(8, 2))
    # The one bias in the scan tells that all is stacked.
    assert mulo.mup.infer(shapes(16, 3), shapes(8, 3)) == mup
    assert {leaf.stacked_axes for leaf in mup.leaves if "Scan" in leaf.path} == {(0,)}
    got = {
        path.replace("MultiHeadDotProductAttention", "Attention"): fans for path, fans in found(mup).items()
    }
    block = "ScanBlock_0"
    assert {path: fans for path, fans in got.items() if fans[0] != "vector"} == {
        "Conv_0/kernel": ("input", 3, 16),
        "Dense_0/kernel": ("output", 16, 11),
        "Embed_0/embedding": ("input", 11, 16),
        f"{block}/Attention_0/key/kernel": ("hidden", 16, 16),
        f"{block}/Attention_0/out/kernel": ("hidden", 16, 16),
        f"{block}/Attention_0/query/kernel": ("hidden", 16, 16),
        f"{block}/Attention_0/value/kernel": ("hidden", 16, 16),
        f"{block}/Dense_0/kernel": ("hidden", 32, 16),
        f"{block}/Dense_1/kernel": ("hidden", 16, 32),
    }


def test_nnx_network():
    nnx = pytest.importorskip("flax.nnx")

    def shapes(width, heads):
        def make():
            rngs = nnx.Rngs(0)
            return nnx.Dict(
                embed=nnx.Embed(11, width, rngs=rngs),
                norm=nnx.LayerNorm(width, rngs=rngs),
                attention=nnx.MultiHeadAttention(heads, width, rngs=rngs),
                conv=nnx.Conv(width, width, (3, 3), rngs=rngs),
                head=nnx.Linear(width, 11, rngs=rngs),
            )

        return nnx.state(nnx.eval_shape(make), nnx.Param)

    got = found(mulo.mup.infer(shapes(16, 4), shapes(8, 2)))
    assert {path: fans for path, fans in got.items() if fans[0] != "vector"} == {
        "attention/key/kernel": ("hidden", 16, 16),
        "attention/out/kernel": ("hidden", 16, 16),
        "attention/query/kernel": ("hidden", 16, 16),
        "attention/value/kernel": ("hidden", 16, 16),
        "conv/kernel": ("hidden", 144, 16),
        "embed/embedding": ("input", 11, 16),
        "head/kernel": ("output", 16, 11),
    }
    assert got["attention/query/bias"] == ("vector", 1, 16)


def test_haiku_network():
    hk = pytest.importorskip("haiku")

    def shapes(width):
        def forward(images):
            x = hk.Conv2D(width, 3)(images)
            x = hk.DepthwiseConv2D(1, 3)(x)
            x = hk.LayerNorm(-1, True, True)(x).mean((1, 2))
            return hk.Linear(10)(hk.nets.MLP([width, width])(x))

        return jax.eval_shape(hk.transform(forward).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))

    got = found(mulo.mup.infer(shapes(16), shapes(8)))
    assert {path: fans for path, fans in got.items() if fans[0] != "vector"} == {
        "conv2_d/w": ("input", 27, 16),
        "depthwise_conv2_d/w": ("input", 9, 16),
        "mlp/~/linear_0/w": ("hidden", 16, 16),
        "mlp/~/linear_1/w": ("hidden", 16, 16),
        "linear/w": ("output", 16, 10),
    }


def test_summary():
    def make(n):
        name = "a_very_long_name_of_a_module/" * 4
        return {f"{name}layer": {"kernel": (n, n)}, "in": (3, n), "out": (n, 10), "t": ()}

    text = str(infer(make, (128,), (32,)))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    assert lines[0].split()[:5] == ["path", "shape", "infinite", "role", "init"]
    path, *cells = lines[1].split()
    assert path.startswith("a_very_long_") and "…" in path and path.endswith("layer/kernel")
    assert cells == ["128x128", "0,1", "hidden", "0.0884", "1", "0.00781", "0.25", "1"]
    assert lines[3].split() == ["out", "128x10", "0", "output", "0", "0.00781", "1", "1", "4"]
    assert lines[4].split() == ["t", "()", "-", "scalar", "0", "1", "1", "1", "1"]
    assert "muP form" in text
    assert "Standard form" in infer(make, (128,), (32,), form="standard").summary()
    assert str(mulo.mup.STANDARD) == "Standard parametrization: every multiplier is 1."
