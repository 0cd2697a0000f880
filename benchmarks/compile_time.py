"""Time to compile one step on a network of many tensors: VeLO's hypernetwork works tensor by tensor."""

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


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = make_parser("compile_time", __doc__)
    parser.add_argument("--optimizers", nargs="+", help="these alone, as the rows call them")
    arguments = parser.parse_args(argv)
    rows = []
    for name, tx in transforms(arguments.hidden_sizes).items():
        if arguments.optimizers and name not in arguments.optimizers:
            continue
        for num_kinds in (len(set(TRANSFORMER)), 50):
            shapes = make_shapes(num_kinds)
            row = {"optimizer": name, "num_tensors": len(shapes), "num_shapes": len(set(shapes))}
            rows.append({**row, "seconds": compile_seconds(tx, shapes)})
    finish("compile_time", arguments, rows)


if __name__ == "__main__":
    main()
