"""Time to trace and compile a step: of a transformer in training, or of the optimizer on many tensors."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.measure import finish, make_parser
from benchmarks.transform import transforms

NUM_TENSORS = 100
TRANSFORMER = (
    (256, 768),
    (256, 256),
    (256, 1024),
    (1024, 256),
    (1024,),
    (256,),
    (256,),
    (256,),
    (256,),
    (256,),
)
"""Of one layer; ten layers of them are 100 tensors."""


VOCABULARY, LENGTH, NUM_HEADS = 256, 64, 4
"""Of the transformer whose whole training step is compiled."""


def make_shapes(num_kinds: int) -> list[tuple[int, ...]]:
    """100 tensors of so many different shapes; of six, those of a transformer of ten layers."""
    if num_kinds == len(set(TRANSFORMER)):
        return [shape for _ in range(NUM_TENSORS // len(TRANSFORMER)) for shape in TRANSFORMER]
    kinds = [(32 + 8 * (i // 2), 64) if i % 2 else (32 + 8 * (i // 2),) for i in range(num_kinds)]
    return [kinds[i % num_kinds] for i in range(NUM_TENSORS)]


def compile_seconds(tx: optax.GradientTransformation, shapes: list[tuple[int, ...]]) -> float:
    """Wall time of tracing and compiling a step, without a compilation cache."""
    tx = optax.with_extra_args_support(tx)
    params = {f"p{i}": jax.ShapeDtypeStruct(shape, jnp.float32) for i, shape in enumerate(shapes)}

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params, value=jnp.float32(1.0))
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    begin = time.perf_counter()
    jax.jit(step).lower(params, state, params).compile()
    return time.perf_counter() - begin


def init_transformer(key: jax.Array, num_blocks: int, width: int) -> dict[str, Any]:
    """Initial parameters of a decoder of `num_blocks` blocks, 12 leaves each, as nanoGPT has them."""
    shapes = {
        **{f"{norm}_{name}": (width,) for norm in ("ln1", "ln2") for name in ("scale", "bias")},
        "qkv": (width, 3 * width),
        "qkv_b": (3 * width,),
        "out": (width, width),
        "out_b": (width,),
        "up": (width, 4 * width),
        "up_b": (4 * width,),
        "down": (4 * width, width),
        "down_b": (width,),
    }
    blocks = {f"block{i}": {name: shape for name, shape in shapes.items()} for i in range(num_blocks)}
    tree = {"embed": (VOCABULARY, width), "position": (LENGTH, width), "norm": (width,), **blocks}
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten([jax.random.normal(k, s) * 0.02 for k, s in zip(keys, leaves, strict=True)])


def transformer_loss(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
    """Cross-entropy of the next token, blocks written out one after the other. tokens: [B, T], int32."""
    x = params["embed"][tokens] + params["position"][None]
    for name in sorted(name for name in params if name.startswith("block")):
        x = _block(params[name], x)
    logits = (_norm(x) * params["norm"]) @ params["embed"].T
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    return jnp.mean(losses)


def _norm(x: jax.Array) -> jax.Array:
    return jax.nn.standardize(x, axis=-1, epsilon=1e-6)


def _block(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    batch, length, width = x.shape
    qkv = (_norm(x) * p["ln1_scale"] + p["ln1_bias"]) @ p["qkv"] + p["qkv_b"]
    query, key, value = jnp.split(qkv.reshape(batch, length, NUM_HEADS, -1), 3, axis=-1)
    attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    x = x + attended.reshape(batch, length, width) @ p["out"] + p["out_b"]
    hidden = jax.nn.gelu((_norm(x) * p["ln2_scale"] + p["ln2_bias"]) @ p["up"] + p["up_b"])
    return x + hidden @ p["down"] + p["down_b"]


def training_step_seconds(tx: optax.GradientTransformation, num_blocks: int, width: int) -> dict[str, float]:
    """Wall times of tracing and of compiling a whole training step of the transformer."""
    tx = optax.with_extra_args_support(tx)
    params = jax.eval_shape(lambda key: init_transformer(key, num_blocks, width), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((8, LENGTH), jnp.int32)

    def step(params: Any, state: Any, tokens: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(transformer_loss)(params, tokens)
        updates, state = tx.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state, loss

    state = jax.eval_shape(tx.init, params)
    begin = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, tokens)
    traced = time.perf_counter()
    lowered.compile()
    done = time.perf_counter()
    return {"trace_seconds": traced - begin, "seconds": done - begin}


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = make_parser("compile_time", __doc__)
    parser.add_argument("--optimizers", nargs="+", help="these alone, as the rows call them")
    parser.add_argument("--blocks", type=int, default=12, help="of the transformer; 0: the optimizer alone")
    parser.add_argument("--width", type=int, default=256, help="of the transformer")
    arguments = parser.parse_args(argv)
    rows = []
    for name, tx in transforms(arguments.hidden_sizes).items():
        if arguments.optimizers and name not in arguments.optimizers:
            continue
        if arguments.blocks:
            row = {"optimizer": name, "blocks": arguments.blocks, "width": arguments.width}
            rows.append({**row, **training_step_seconds(tx, arguments.blocks, arguments.width)})
            continue
        for num_kinds in (len(set(TRANSFORMER)), 50):
            shapes = make_shapes(num_kinds)
            row = {"optimizer": name, "num_tensors": len(shapes), "num_shapes": len(set(shapes))}
            rows.append({**row, "seconds": compile_seconds(tx, shapes)})
    finish("compile_time", arguments, rows)


if __name__ == "__main__":
    main()
