"""Time and memory of one step of each learned optimizer, beside AdamW's; what each keeps between steps."""

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
from mulo.optimizers.base import LearnedOptimizer

WIDTHS = (784, 1024, 1024, 128)


def make_params() -> dict[str, jax.Array]:
    """An MLP of 2 million parameters."""
    rng = np.random.default_rng(0)
    params = {}
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(WIDTHS)):
        params[f"w{index}"] = jnp.asarray(rng.normal(size=(fan_in, fan_out)) / fan_in**0.5, jnp.float32)
        params[f"b{index}"] = jnp.zeros(fan_out, jnp.float32)
    return params


def compile_step(tx: optax.GradientTransformation) -> tuple[Callable[[], Any], int, int]:
    """A step that goes on from the last one, temporary bytes of its program, and bytes of its state."""
    tx = optax.with_extra_args_support(tx)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, value=jnp.float32(1.0))
        return optax.apply_updates(params, updates), state

    params = make_params()
    grads = jax.tree.map(lambda p: 1e-3 * jnp.cos(p * 100.0), params)
    carry = [params, tx.init(params)]
    compiled = step.lower(*carry, grads).compile()
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(carry[1]))

    def call():
        carry[:] = compiled(*carry, grads)
        return carry

    return call, compiled.memory_analysis().temp_size_in_bytes, state_bytes


def learned(optimizer: LearnedOptimizer) -> optax.GradientTransformation:
    """A learned optimizer with random weights, so that every input counts."""
    theta = optimizer.init_theta(jax.random.key(0))
    checkpoint = mulo.Checkpoint(optimizer=optimizer, theta=theta, parametrization="sp")
    return mulo.optimizer(checkpoint, num_steps=1000)


def transforms(hidden_sizes: list[int]) -> dict[str, optax.GradientTransformation]:
    """AdamW, SmallFC with networks of these sizes, and the others as their authors released them."""
    optimizers = {
        **{f"small_fc_h{hidden}": mulo.SmallFC(hidden_size=hidden) for hidden in hidden_sizes},
        "velo": mulo.VeLO(),
        "muvelo": mulo.MuVeLO(),
        "celo": mulo.Celo(),
        "celo_adam": mulo.CeloAdam(),
        "celo2_base": mulo.Celo2(newton_schulz=False, adam_names=""),
        "celo2": mulo.Celo2(),
        "direction_fc": mulo.DirectionFC(),
        "mulo_x": mulo.load("mulo-x").optimizer,
    }
    return {"adamw": optax.adamw(1e-3), **{name: learned(one) for name, one in optimizers.items()}}


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    arguments = make_parser("transform", __doc__).parse_args(argv)
    steps = {name: compile_step(tx) for name, tx in transforms(arguments.hidden_sizes).items()}
    seconds = median_seconds({name: call for name, (call, _, _) in steps.items()}, arguments.repeats)
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
                "state_over_params": state / parameter_bytes,
            }
            for name, (_, temporary, state) in steps.items()
        ],
    )


if __name__ == "__main__":
    main()
