"""Time and memory of one step of the learned optimizer, beside AdamW's."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mulo
from benchmarks.measure import finish, make_parser, median_seconds

WIDTHS = (784, 1024, 1024, 128)


def make_params() -> dict[str, jax.Array]:
    """An MLP of 2 million parameters."""
    rng = np.random.default_rng(0)
    params = {}
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(WIDTHS)):
        params[f"w{index}"] = jnp.asarray(rng.normal(size=(fan_in, fan_out)) / fan_in**0.5, jnp.float32)
        params[f"b{index}"] = jnp.zeros(fan_out, jnp.float32)
    return params


def compile_step(tx: optax.GradientTransformation) -> tuple[Callable[[], Any], int]:
    """A step that goes on from the last one, and the temporary bytes of its program."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = make_params()
    grads = jax.tree.map(lambda p: 1e-3 * jnp.cos(p * 100.0), params)
    carry = [params, tx.init(params)]
    compiled = step.lower(*carry, grads).compile()

    def call():
        carry[:] = compiled(*carry, grads)
        return carry

    return call, compiled.memory_analysis().temp_size_in_bytes


def learned(hidden_size: int) -> optax.GradientTransformation:
    """A learned optimizer with random weights, so that every input counts."""
    small_fc = mulo.SmallFC(hidden_size=hidden_size)
    theta = small_fc.init_theta(jax.random.key(0))
    return mulo.optimizer(mulo.Checkpoint(optimizer=small_fc, theta=theta, parametrization="sp"))


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    arguments = make_parser("transform", __doc__).parse_args(argv)
    transforms = {"adamw": optax.adamw(1e-3)}
    transforms |= {f"small_fc_h{hidden}": learned(hidden) for hidden in arguments.hidden_sizes}
    steps = {name: compile_step(tx) for name, tx in transforms.items()}
    seconds = median_seconds({name: call for name, (call, _) in steps.items()}, arguments.repeats)
    parameter_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(make_params()))
    finish(
        "transform",
        arguments,
        [
            {
                "optimizer": name,
                "seconds": seconds[name],
                "over_adamw": seconds[name] / seconds["adamw"],
                "temporary_over_params": temporary / parameter_bytes,
            }
            for name, (_, temporary) in steps.items()
        ],
    )


if __name__ == "__main__":
    main()
