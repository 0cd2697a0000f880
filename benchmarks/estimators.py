"""Variance of the meta-gradient per inner step, for each estimator on the same task.

    python -m benchmarks.estimators --out benchmarks/results/estimators.json

Many inner runs of one pair each are followed from start to end at a fixed theta. A meta-gradient is the mean
over `SLOTS` such runs at one of their truncations: each at its own, or, for ES-Single, all at the same. Its
variance is summed over the entries of theta, and multiplied with the inner steps that it costs.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

import mulo
from benchmarks.measure import finish
from meta_train.config import PRESETS, MetaTrainConfig
from meta_train.estimators import ESTIMATORS
from meta_train.programs import build_optimizer, build_programs
from meta_train.slot import SlotKeys, SlotProgram, advance, reset
from mulo.optimizers.base import Theta

SLOTS = 8
TASK = "mlp-w16-d2_digits"
CONFIG = dataclasses.replace(
    PRESETS["quick"],
    tasks=(TASK,),
    batch_size=64,
    min_horizon=400,
    max_horizon=400,
    num_pairs=1,
    pairs_per_slot=1,
)


def make_thetas(config: MetaTrainConfig) -> dict[str, Theta]:
    """Where the gradient is taken: before meta-training, and after that of the released `mulo-quick`."""
    initial = build_optimizer(config).init_theta(jax.random.key(0))
    return {"initial": initial, "mulo-quick": mulo.load("mulo-quick").theta}


def sample(config: MetaTrainConfig, theta: Theta, num_runs: int) -> tuple[np.ndarray, float]:
    """Gradients of whole inner runs, [num_runs, W, size of theta], float64; and seconds."""
    compiled = build_programs(config)[TASK]
    num_truncations = config.max_horizon // config.truncation_length
    one_run = jax.jit(
        jax.vmap(_make_run(compiled.program, num_truncations), in_axes=(None, None, 0)),
    )
    keys = jax.random.split(jax.random.key(1), (num_runs // SLOTS, SLOTS))
    jax.block_until_ready(one_run(theta, compiled.source, keys[0]))
    began = time.perf_counter()
    gradients = [np.asarray(one_run(theta, compiled.source, some), np.float64) for some in keys]
    return np.concatenate(gradients), time.perf_counter() - began


def _make_run(program: SlotProgram, num_truncations: int) -> Callable[[Theta, Any, jax.Array], jax.Array]:
    redraw = program.estimator.redraw

    def run(theta: Theta, source: Any, key: jax.Array) -> jax.Array:
        reset_key, perturbation_key, unroll_key = jax.random.split(key, 3)

        def truncation(state: Any, index: jax.Array) -> tuple[Any, jax.Array]:
            keys = SlotKeys(
                perturbation=jax.random.fold_in(perturbation_key, jnp.where(redraw, index, 0)),
                unroll=jax.random.fold_in(unroll_key, index),
            )
            gradient, state, _ = advance(program, theta, state, keys, source)
            return state, jax.flatten_util.ravel_pytree(gradient)[0]

        state = reset(program, theta, reset_key, source, jnp.zeros([], jnp.int32))
        return jax.lax.scan(truncation, state, jnp.arange(num_truncations))[1]

    return run


def describe(gradients: np.ndarray, lockstep: bool) -> tuple[float, np.ndarray]:
    """Variance of a meta-gradient of `SLOTS` slots, summed over theta; and its mean, [size of theta].

    Within a truncation runs differ by chance; between truncations the gradient itself differs. Slots at
    places of their own average over both, slots in step over the first alone.
    """
    num_runs = len(gradients)
    within = gradients.var(axis=0, ddof=1).sum(axis=-1).mean()
    # The variance of the means holds some of that within: it is taken out.
    between = gradients.mean(axis=0).var(axis=0).sum() - within / num_runs
    variance = within / SLOTS + max(between, 0.0) / (1 if lockstep else SLOTS)
    return float(variance), gradients.mean(axis=(0, 1))


def measure(num_runs: int) -> list[dict[str, Any]]:
    """One record for each theta and estimator."""
    records = []
    for where, theta in make_thetas(CONFIG).items():
        means: dict[str, np.ndarray] = {}
        for name, estimator in ESTIMATORS.items():
            gradients, seconds = sample(dataclasses.replace(CONFIG, estimator=name), theta, num_runs)
            variance, means[name] = describe(gradients, estimator.lockstep)
            inner_steps = SLOTS * estimator.num_copies * CONFIG.truncation_length
            error = gradients.mean(axis=1).var(axis=0, ddof=1).sum() / num_runs
            signal = float(means[name] @ means[name] - error)
            records.append(
                {
                    "theta": where,
                    "estimator": name,
                    "variance_times_inner_steps": variance * inner_steps,
                    "squared_mean": signal,
                    "inner_steps_to_signal": variance * inner_steps / signal if signal > 0 else None,
                    "inner_steps_per_second": gradients.size
                    / gradients.shape[-1]
                    * estimator.num_copies
                    * CONFIG.truncation_length
                    / seconds,
                }
            )
        for record in records[-len(ESTIMATORS) :]:
            mean, reference = means[record["estimator"]], means["nres"]
            record["cosine_with_nres"] = float(
                mean @ reference / np.linalg.norm(mean) / np.linalg.norm(reference)
            )
    return records


def main() -> None:
    """Prints the table and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=512, help="inner runs followed for each estimator")
    parser.add_argument("--out", type=Path, help="JSON file, default in benchmarks/results")
    arguments = parser.parse_args()
    finish("estimators", arguments, measure(arguments.repeats))


if __name__ == "__main__":
    main()
