"""Inner steps per second of AdamW, over those of a whole meta-step of PES, on the same task."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from benchmarks.measure import finish, make_parser, median_seconds
from eval_tasks.data.source import draw_batch
from meta_train.config import MetaTrainConfig
from meta_train.programs import CompiledProgram, build_programs
from meta_train.slot import SlotKeys

TASK = "mlp-w32-d2_digits"
NUM_PAIRS = 8
NUM_STEPS = 50
BATCH_SIZE = 64


def make_program(hidden_size: int) -> CompiledProgram:
    """One slot of 8 antithetic pairs."""
    config = MetaTrainConfig(
        tasks=(TASK,),
        estimator="pes",
        hidden_size=hidden_size,
        batch_size=BATCH_SIZE,
        truncation_length=NUM_STEPS,
        min_horizon=NUM_STEPS,
        num_pairs=NUM_PAIRS,
        pairs_per_slot=NUM_PAIRS,
    )
    return build_programs(config)[TASK]


def meta_step(hidden_size: int) -> Callable[[], Any]:
    """A meta-step that goes on from the last one: 16 particles, 50 inner steps, and the gradient."""
    program = make_program(hidden_size)
    optimizer = program.program.loop.optimizer
    theta = optimizer.init_theta(jax.random.key(0))
    keys = SlotKeys(jax.random.key(1), jax.random.key(2))
    carry = [program.reset(theta, jax.random.key(3))]

    def call():
        gradient, carry[0], statistics = program.advance(theta, carry[0], keys, program.source)
        return gradient, carry[0], statistics

    return call


def adamw() -> Callable[[], Any]:
    """As many inner runs and steps of AdamW, with the same task and the same drawing of batches."""
    loop, source = (program := make_program(4)).program.loop, program.source
    tx = optax.adamw(1e-3)

    @functools.partial(jax.jit, donate_argnums=0)
    def unroll(carry, key, source):
        def run_step(params, state, batch_key):
            batch = draw_batch(source, "train", batch_key, BATCH_SIZE)
            loss, grads = jax.value_and_grad(loop.task.loss)(params, batch_key, batch)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        def step(carry, step_key):
            return jax.vmap(run_step)(*carry, jax.random.split(step_key, 2 * NUM_PAIRS))

        return jax.lax.scan(step, carry, jax.random.split(key, NUM_STEPS))

    params = jax.vmap(loop.task.init)(jax.random.split(jax.random.key(0), 2 * NUM_PAIRS))
    carry, key = [(params, jax.vmap(tx.init)(params))], jax.random.key(2)

    def call():
        carry[0], losses = unroll(carry[0], key, source)
        return carry[0], losses

    return call


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    arguments = make_parser("meta_step", __doc__).parse_args(argv)
    calls = {"adamw": adamw()}
    calls |= {f"small_fc_h{hidden}": meta_step(hidden) for hidden in arguments.hidden_sizes}
    seconds = median_seconds(calls, arguments.repeats)
    inner_steps = 2 * NUM_PAIRS * NUM_STEPS
    finish(
        "meta_step",
        arguments,
        [
            {
                "optimizer": name,
                "seconds": value,
                "inner_steps_per_second": inner_steps / value,
                "slower_than_adamw": value / seconds["adamw"],
            }
            for name, value in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
