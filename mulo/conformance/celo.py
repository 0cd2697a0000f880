"""Traces of Celo, Celo-Adam and Celo2."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mulo.conformance.comparing import Deviation, compare, compare_accumulators
from mulo.conformance.traces import Trace
from mulo.conformance.velo import INTERNALS_TOLERANCE, LOSS_TOLERANCE, compare_recurrent
from mulo.importers import from_reference
from mulo.optimizers import _schedule
from mulo.optimizers.base import LearnedOptimizer
from mulo.optimizers.celo import Celo, CeloAdam, schedule_step
from mulo.optimizers.celo2 import Celo2

PARAMS_TOLERANCE = 5e-6
"""Relative to the root mean square of the array: rounding between jit, op by op, and other JAX versions."""
PLAN_TOLERANCE = 2e-5
"""Relative, of the rate; it is positive and of order one, and less sensitive than VeLO's mixtures."""
RUNS = ("quad", "mlp", "noisy")


def celo_deviations(trace: Trace) -> Iterator[Deviation]:
    """Every comparison that a trace of Celo allows."""
    config, theta = from_reference("celo", trace.tree("theta"))
    for run in RUNS:
        state = yield from _compare_run(trace, run, Celo(**config), theta, PARAMS_TOLERANCE)
        if f"{run}/last/lstm_cell" in trace.arrays:
            yield from compare_accumulators(
                trace, f"{run}/last", state.accumulators, INTERNALS_TOLERANCE, params=f"{run}/params0"
            )
            yield from compare_recurrent(trace, f"{run}/last", state.progress, state.lstm, PLAN_TOLERANCE)


def celo_adam_deviations(trace: Trace) -> Iterator[Deviation]:
    """Every comparison that a trace of Celo-Adam allows."""
    config, theta = from_reference("celo_adam", trace.tree("theta"))
    for run in RUNS:
        state = yield from _compare_run(trace, run, CeloAdam(**config), theta, PARAMS_TOLERANCE)
        if f"{run}/last/lstm_cell" not in trace.arrays:
            continue
        yield from compare_recurrent(trace, f"{run}/last", state.progress, state.lstm, PLAN_TOLERANCE)
        for name, tree in (("mom", state.momentum), ("rms", state.second_moment)):
            for leaf, ours in tree.items():
                key = f"{run}/last/{name}/{leaf}"
                yield compare(key, np.asarray(ours)[..., None], trace.arrays[key], INTERNALS_TOLERANCE)


def celo2_deviations(trace: Trace) -> Iterator[Deviation]:
    """Every comparison that a trace of Celo2 allows."""
    base, _ = from_reference("celo2_base", trace.tree("theta"))
    config, theta = from_reference("celo2", trace.tree("theta"))
    optimizers = {"celo2base": Celo2(**base), "celo2": Celo2(**config, weight_decay=0.01)}
    for name, optimizer in optimizers.items():
        history, _ = _replay(trace, "", optimizer, theta, None)
        for leaf, reference in trace.tree(f"{name}/params").items():
            yield compare(f"{name}/params/{leaf}", history["params"][leaf], reference, PARAMS_TOLERANCE)


def _compare_run(
    trace: Trace, run: str, optimizer: LearnedOptimizer, theta: Any, tolerance: float
) -> Iterator[Deviation]:
    """Compares one run; returns our state at its end."""
    num_steps = trace.arrays.get(f"{run}/num_steps", trace.arrays["meta/num_steps"])
    history, state = _replay(trace, f"{run}/", optimizer, theta, int(num_steps))
    for leaf, reference in trace.tree(f"{run}/params").items():
        yield compare(f"{run}/params/{leaf}", history["params"][leaf], reference, tolerance)
    reference = trace.arrays[f"{run}/lr_mult"]
    rates = np.broadcast_to(history["rate"][:, None], reference.shape)
    yield compare(f"{run}/lr_mult", rates, reference, PLAN_TOLERANCE)
    features = trace.arrays[f"{run}/loss_features"]
    yield compare(f"{run}/loss_features", history["loss_features"], features, LOSS_TOLERANCE)
    return state


def _replay(
    trace: Trace, prefix: str, optimizer: LearnedOptimizer, theta: Any, num_steps: int | None
) -> tuple[dict[str, Any], Any]:
    """Runs the prescribed gradients and losses through our optimizer.

    Returns:
      "params" after each update and, of optimizers with a schedule, "rate" and "loss_features" at each, with
      a leading axis over the updates; the last state.
    """
    params, grads = trace.tree(f"{prefix}params0"), trace.tree(f"{prefix}grads")
    losses = trace.arrays.get(f"{prefix}losses")

    @jax.jit
    def advance(state, grads, params, loss):
        shown = {}
        if loss is not None:
            _, features = _schedule.advance(state.progress, loss, optimizer.name)
            plan = schedule_step(theta, state.progress, state.lstm, loss, optimizer.name)
            shown = {"rate": plan.rate, "loss_features": features[-_schedule.NUM_LOSS_FEATURES :]}
        updates, state = optimizer.update(theta, state, grads, params, loss, None)
        return {"params": jax.tree.map(jnp.add, params, updates), **shown}, state

    state = optimizer.init(theta, params, num_steps)
    history = []
    for t in range(len(next(iter(grads.values())))):
        loss = None if losses is None else losses[t]
        step, state = advance(state, {leaf: g[t] for leaf, g in grads.items()}, params, loss)
        history.append(step)
        params = step["params"]
    return jax.tree.map(lambda *x: np.stack(x), *history), state
