"""Variance of the meta-gradient per inner step, for each estimator on the same task.

    python -m benchmarks.estimators --out benchmarks/results/estimators.json

Many inner runs of one pair each are followed from start to end at a fixed theta. A meta-gradient is the mean
over `SLOTS` such runs at one of their truncations: each at its own, or, for ES-Single, all at the same. Its
variance is summed over the entries of theta, and multiplied with the inner steps that it costs. Every number
has a standard error, from leaving out a sixteenth of the runs at a time (jackknife).
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

import mulo
from benchmarks.measure import finish
from meta_train.config import MetaTrainConfig
from meta_train.estimators import ESTIMATORS
from meta_train.presets import PRESETS
from meta_train.programs import build_optimizer, build_programs
from meta_train.slot import SlotKeys, SlotProgram, advance, reset
from mulo.optimizers.base import Theta

SLOTS = 8
NUM_GROUPS = 16
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


def sample(config: MetaTrainConfig, theta: Theta, num_runs: int) -> np.ndarray:
    """Gradients of whole inner runs, [num_runs, W, size of theta], float64."""
    compiled = build_programs(config)[TASK]
    num_truncations = config.max_horizon // config.truncation_length
    one_run = jax.jit(
        jax.vmap(_make_run(compiled.program, num_truncations), in_axes=(None, None, 0)),
    )
    keys = jax.random.split(jax.random.key(1), (num_runs // SLOTS, SLOTS))
    return np.concatenate([np.asarray(one_run(theta, compiled.source, some), np.float64) for some in keys])


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

        num_steps = num_truncations * program.loop.truncation_length
        state = reset(program, theta, reset_key, source, jnp.zeros([], jnp.int32), num_steps)
        return jax.lax.scan(truncation, state, jnp.arange(num_truncations))[1]

    return run


def describe(
    gradients: np.ndarray, reference: np.ndarray, *, lockstep: bool, inner_steps: int
) -> dict[str, float]:
    """The numbers of one row. Gradients, and those of the reference: [num_runs, W, size of theta].

    Within a truncation runs differ by chance; between truncations the gradient itself differs. Slots at
    places of their own average over both, slots in step over the first alone.
    """
    num_runs = len(gradients)
    within = gradients.var(axis=0, ddof=1).sum(axis=-1).mean()
    # The variance of the means holds some of that within: it is taken out.
    between = gradients.mean(axis=0).var(axis=0).sum() - within / num_runs
    cost = (within / SLOTS + max(between, 0.0) / (1 if lockstep else SLOTS)) * inner_steps
    means, reference_means = gradients.mean(axis=1), reference.mean(axis=1)
    signal = product_of_means(means, means)
    squares = signal * product_of_means(reference_means, reference_means)
    cross = product_of_means(means, reference_means)
    return {
        "variance_times_inner_steps": float(cost),
        "squared_mean": signal,
        "inner_steps_to_signal": float(cost / signal) if signal > 0 else np.nan,
        "cosine_with_nres": cross / np.sqrt(squares) if squares > 0 else np.nan,
    }


def product_of_means(a: np.ndarray, b: np.ndarray) -> float:
    """Scalar product of the means that rows a_i, b_i are drawn about; from pairs i != j, so without noise."""
    num_rows = len(a)
    return float(a.sum(axis=0) @ b.sum(axis=0) - np.sum(a * b)) / (num_rows * (num_rows - 1))


def summarise(gradients: np.ndarray, reference: np.ndarray, **how: Any) -> dict[str, Any]:
    """What `describe` gives, each with its standard error; `None` for what cannot be told from noise."""
    whole = describe(gradients, reference, **how)
    rows = []
    for group in np.array_split(np.arange(len(gradients)), NUM_GROUPS):
        rows.append(describe(np.delete(gradients, group, axis=0), np.delete(reference, group, axis=0), **how))
    errors = {name: np.std([row[name] for row in rows]) * np.sqrt(NUM_GROUPS - 1) for name in whole}
    if not whole["squared_mean"] > 2 * errors["squared_mean"]:
        whole["inner_steps_to_signal"] = whole["cosine_with_nres"] = np.nan
    record: dict[str, Any] = {}
    for name, value in whole.items():
        known = np.isfinite(value)
        record[name] = float(value) if known else None
        record[f"{name}_error"] = float(errors[name]) if known and np.isfinite(errors[name]) else None
    return record


def measure(num_runs: int) -> list[dict[str, Any]]:
    """One record for each theta and estimator."""
    records = []
    for where, theta in make_thetas(CONFIG).items():
        gradients = {
            name: sample(dataclasses.replace(CONFIG, estimator=name), theta, num_runs) for name in ESTIMATORS
        }
        for name, estimator in ESTIMATORS.items():
            numbers = summarise(
                gradients[name],
                gradients["nres"],
                lockstep=estimator.lockstep,
                inner_steps=SLOTS * estimator.num_copies * CONFIG.truncation_length,
            )
            records.append({"theta": where, "estimator": name, **numbers})
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
