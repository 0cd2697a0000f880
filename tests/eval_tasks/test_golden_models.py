"""The ViT and the transformer against traces of the reference's, forward and backward."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from eval_tasks.models.parametrization import PARAMETRIZATIONS
from eval_tasks.models.transformer import Transformer
from eval_tasks.models.vit import ViT
from mulo.mup import infer

pytestmark = pytest.mark.optimized

GOLDEN = Path(__file__).parents[1] / "golden" / "mup_models.npz"
MULTIPLIERS = {"input_multiplier": 2.0, "output_multiplier": 3.0}
HIDDEN_LR_MULTIPLIER = 0.5  # of the recorded run, on hidden weights; 1 here

TRANSFORMER_NAMES = (
    (r"embed_in/embeddings", "embedding/embedding"),
    (r"h(\d)_attn/linear", r"block_\1/attention/out"),
    (r"h(\d)_attn", r"block_\1/attention"),
    (r"h(\d)_mlp/linear_1", r"block_\1/linear_1"),
    (r"h(\d)_mlp/linear", r"block_\1/linear_0"),
    (r"h(\d)_ln_1", r"block_\1/norm_0"),
    (r"h(\d)_ln_2", r"block_\1/norm_1"),
    (r"h_f", "norm"),
    (r"linear_out", "head"),
    (r"/w$", "/kernel"),
    (r"/(b|offset)$", "/bias"),
)
VIT_NAMES = (
    (r"cls", "class_token"),
    (r"Transformer/posembed_input/pos_embedding", "positions"),
    (r"Transformer/encoder_norm", "norm"),
    (r"Transformer/encoderblock_(\d)", r"block_\1"),
    (r"MultiHeadDotProductAttention_0", "attention"),
    (r"LayerNorm_(\d)", r"norm_\1"),
    (r"MlpBlock_0/Dense_(\d)", r"linear_\1"),
)


def transformer(width=16):
    return Transformer(width, 2, 2, 20, PARAMETRIZATIONS["mup"], positions="none", eps=1e-5, **MULTIPLIERS)


def vit(width=16):
    return ViT(width, 2, 2, 5, PARAMETRIZATIONS["mup"], patch_size=4, **MULTIPLIERS)


def golden_tree(prefix, names, like):
    """The reference's leaves by our names and shapes: its (d, heads, head_dim) kernels are our (d, d)."""
    shapes, tree = {path: leaf.shape for path, leaf in flatten_dict(like, sep="/").items()}, {}
    with np.load(GOLDEN) as arrays:
        for key in arrays.files:
            if key.startswith(prefix + "/"):
                path = key.removeprefix(prefix + "/")
                for pattern, ours in names:
                    path = re.sub(pattern, ours, path)
                value = arrays[key]
                tree[path] = value if "mup_lrs" in prefix else value.reshape(shapes[path])
    assert tree.keys() == shapes.keys()
    return unflatten_dict(tree, sep="/")


def batch_of(name):
    with np.load(GOLDEN) as arrays:
        return arrays[f"{name}/batch/image"], arrays[f"{name}/batch/label"], arrays[f"{name}/loss"]


CASES = (
    pytest.param("mutransformer", "/mu_transformer", TRANSFORMER_NAMES, transformer, id="transformer"),
    pytest.param("muvit", "/params", VIT_NAMES, vit, id="vit"),
)


@pytest.mark.numeric
@pytest.mark.parametrize(("name", "scope", "names", "make"), CASES)
def test_forward_pass_and_gradient_match_the_reference(name, scope, names, make):
    inputs, labels, wanted_loss = batch_of(name)
    like = jax.eval_shape(make().init, jax.random.key(0), inputs)["params"]
    params = golden_tree(f"{name}/params{scope}", names, like)
    # The reference leaves padding, token 0, out of the loss; it stands at the ends only, where nothing that
    # counts sees it.
    counted = np.float32(inputs != 0) if name == "mutransformer" else np.ones(len(inputs), np.float32)

    @jax.jit
    def loss_fn(params):
        logits = make().apply({"params": params}, inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(losses * counted) / counted.sum()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    wanted = flatten_dict(golden_tree(f"{name}/grads{scope}", names, like), sep="/")
    for path, got in flatten_dict(grads, sep="/").items():
        # A key's bias cancels in the softmax: its gradient is rounding of the size of the query's.
        scale = np.sqrt(np.mean(np.square(wanted[path.replace("key/bias", "query/bias")])))
        np.testing.assert_allclose(got, wanted[path], atol=2e-5 * scale, err_msg=path)


@pytest.mark.parametrize(("name", "scope", "names", "make"), CASES)
def test_update_multipliers_match_the_reference(name, scope, names, make):
    inputs, _, _ = batch_of(name)
    target, base = (
        jax.eval_shape(make(width).init, jax.random.key(0), inputs)["params"] for width in (16, 8)
    )
    wanted = flatten_dict(golden_tree(f"{name}/mup_lrs{scope}", names, target), sep="/")
    for path, got in flatten_dict(infer(target, base).update_multipliers(target), sep="/").items():
        factor = HIDDEN_LR_MULTIPLIER if got != 1 else 1.0
        if name == "muvit" and path.endswith("out/kernel"):
            factor *= 2  # the reference counts head_dim only, not the two heads: one half of the true fan-in
        np.testing.assert_allclose(got * factor, wanted[path], rtol=1e-6, err_msg=path)
