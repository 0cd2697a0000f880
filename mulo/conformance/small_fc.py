"""Traces of small_fc_lopt, in standard parametrization and under muP."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mulo.conformance.comparing import Deviation, compare, compare_accumulators
from mulo.conformance.traces import Trace
from mulo.importers import from_reference
from mulo.optimizers._accumulators import Decays, accumulate, bound_gradient, init_accumulators
from mulo.optimizers._features import (
    SMALL_FC_FEATURES,
    element_features,
    inverse_rms,
    make_ingredients,
    mean_squares_of,
    time_features,
)
from mulo.optimizers.small_fc import SmallFC, effective_decays

PARAMS_TOLERANCE = 1e-6
"""Relative to the root mean square of the array: rounding between jit, op by op, and other JAX versions."""
INTERNALS_TOLERANCE = 5e-6
"""The same for steps, features and accumulators."""


def make_optimizer(trace: Trace, max_global_norm: float = 0.0) -> SmallFC:
    """The optimizer that the trace is of."""
    return SmallFC(
        hidden_size=int(trace.arrays["meta/hidden_size"]),
        step_mult=trace.number("meta/step_mult"),
        exp_mult=trace.number("meta/exp_mult"),
        max_global_norm=max_global_norm,
    )


def replay(trace: Trace, max_global_norm: float = 0.0) -> dict[str, list[Any]]:
    """Runs the prescribed gradients through our optimizer.

    Returns:
      "params" and "steps" after each update and "state" before the first and after each, as lists.
    """
    optimizer, mup = make_optimizer(trace, max_global_norm), trace.rules()
    _, theta = from_reference("small_fc", trace.tree("theta"))
    params, grads = trace.tree("params0"), trace.tree("grads")
    update = functools.partial(optimizer.update, theta, loss=None)

    @jax.jit
    def advance(state, grads, params):
        # Both in one program: what they share is compiled once.
        unscaled, _ = update(state=state, grads=grads, params=params, mup=None)
        return unscaled, *update(state=state, grads=grads, params=params, mup=mup)

    state = optimizer.init(theta, params)
    history = {"params": [], "steps": [], "state": [state]}
    for t in range(len(next(iter(grads.values())))):
        grads_t = {leaf: g[t] for leaf, g in grads.items()}
        unscaled, updates, state = advance(state, grads_t, params)
        params = {leaf: params[leaf] + updates[leaf] for leaf in params}
        history["params"].append(params)
        history["steps"].append({leaf: -u for leaf, u in unscaled.items()})
        history["state"].append(state)
    return history


def deviations(trace: Trace) -> Iterator[Deviation]:
    """Every comparison that the trace allows."""
    history = replay(trace)
    yield from _compare_decays(trace)
    for quantity, tolerance in (("params", PARAMS_TOLERANCE), ("steps", INTERNALS_TOLERANCE)):
        for leaf, reference in trace.tree(quantity).items():
            ours = np.stack([step[leaf] for step in history[quantity]])
            yield compare(f"{quantity}/{leaf}", ours, reference, tolerance)
    for group, index in (("acc_step5", 5), ("acc_step14", 14), ("acc_last", len(history["params"]))):
        yield from _compare_statistics(trace, group, history["state"][index])
    yield from _compare_features(trace, history)
    clipped = trace.tree("params_clip_grad")
    if clipped:
        history = replay(trace, max_global_norm=1.0)
        for leaf, reference in clipped.items():
            ours = np.stack([step[leaf] for step in history["params"]])
            yield compare(f"params_clip_grad/{leaf}", ours, reference, PARAMS_TOLERANCE)


def _compare_decays(trace: Trace) -> Iterator[Deviation]:
    ours = effective_decays(from_reference("small_fc", trace.tree("theta"))[1]["decays"])
    names = {"momentum": "momentum", "rms": "second_moment", "adafactor": "factored"}
    for recorded, field in names.items():
        yield compare(
            f"decays/{recorded}",
            getattr(ours, field),
            trace.arrays[f"decays/{recorded}"],
            INTERNALS_TOLERANCE,
        )


def _compare_statistics(trace: Trace, group: str, state: Any) -> Iterator[Deviation]:
    # Under muP the reference takes an infinite gradient for 3.4e38: its tensor is NaN from then on, its
    # momenta are finite and of no use.
    infinite = {leaf: np.isinf(g[: int(state.step)]).any(axis=0) for leaf, g in trace.tree("grads").items()}
    yield compare(f"{group}/iteration", state.step, trace.arrays[f"{group}/iteration"], 0.0)
    yield from compare_accumulators(trace, group, state.accumulators, INTERNALS_TOLERANCE, excluded=infinite)


def _compare_features(trace: Trace, history: dict[str, list[Any]]) -> Iterator[Deviation]:
    t = int(trace.arrays["debug/step_index"])
    decays = effective_decays(from_reference("small_fc", trace.tree("theta"))[1]["decays"])
    time = time_features(history["state"][t].step)
    yield compare("debug/time_features", time, trace.arrays["debug/time_features"], INTERNALS_TOLERANCE)
    for leaf, reference in trace.tree("debug/features_norm").items():
        param = np.atleast_1d(history["params"][t - 1][leaf])
        grads = trace.arrays[f"grads/{leaf}"][: t + 1].reshape(-1, *param.shape)
        yield compare(
            f"debug/features_norm/{leaf}",
            _recorded_layout(decays, grads, param).reshape(reference.shape),
            reference,
            INTERNALS_TOLERANCE,
        )


@jax.jit
def _recorded_layout(decays: Decays, grads: jax.Array, param: jax.Array) -> jax.Array:
    """Features after gradients [t, *shape], in the reference's order: [*shape, F]."""
    accumulators, _ = jax.lax.scan(
        lambda accumulators, grad: (accumulate(decays, accumulators, bound_gradient(grad)), None),
        init_accumulators(param),
        grads,
    )
    ingredients, along_axes = make_ingredients(accumulators, grads[-1], param)
    features = [*element_features(ingredients), *along_axes.row, *along_axes.col]
    normalised = [jnp.broadcast_to(f * inverse_rms(mean_squares_of([f])[0]), param.shape) for f in features]
    rows = SMALL_FC_FEATURES
    order = np.argsort([*rows.element_rows, *rows.row_rows, *rows.col_rows])
    return jnp.stack([normalised[index] for index in order], axis=-1)
