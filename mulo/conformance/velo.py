"""Traces of VeLO and muVeLO."""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mulo.conformance.comparing import Deviation, compare, compare_accumulators
from mulo.conformance.traces import Trace
from mulo.errors import InputError
from mulo.importers import from_reference
from mulo.optimizers import _schedule
from mulo.optimizers._accumulators import INITIAL_DECAYS, accumulate, init_accumulators
from mulo.optimizers._features import (
    VELO_FEATURES,
    element_features,
    inverse_rms,
    make_ingredients,
    mean_squares_of,
)
from mulo.optimizers._tensors import take_apart
from mulo.optimizers.velo import MuVeLO, Plan, VeLO, VeLOState, clip_gradient

PARAMS_TOLERANCE = 1e-5
"""Relative to the root mean square of the array, after all updates."""
LOSS_TOLERANCE = 5e-4
"""The same for the features of the loss: quotients of differences of nearly equal means. Sums taken in
another order move them by 2e-4; the formulas in float64 differ as much from the reference."""
PLAN_TOLERANCE = 1e-4
"""The same for controls and step sizes, which follow from them."""
STEPS_TOLERANCE = 5e-4
"""The same for single steps, which are mixtures by controls of both signs."""
INTERNALS_TOLERANCE = 5e-6
"""The same for features and accumulators, which depend on gradients and parameters alone."""


class Step(NamedTuple):
    """What one update of ours gave."""

    params: dict[str, jax.Array]  # after it
    steps: dict[str, jax.Array]  # before muP's multipliers
    plan: Plan
    loss_features: jax.Array  # [9]
    state: VeLOState  # after it


def make_optimizer(trace: Trace, config: dict[str, Any]) -> VeLO:
    """The optimizer that the trace is of."""
    if "meta/interp_mult" not in trace.arrays:
        return VeLO(**config)
    return MuVeLO(**{
        **config,
        "interp_mult": trace.number("meta/interp_mult"),
        "param_scale": bool(trace.arrays["meta/param_scale_mult"]),
        "step_mult": trace.number("meta/step_mult"),
        "exp_mult": trace.number("meta/exp_mult"),
    })  # fmt: skip


def reference_theta(trace: Trace) -> dict[str, np.ndarray]:
    """The reference's weights: as recorded, or drawn again where the trace has their recipe alone."""
    if "meta/theta_seed" not in trace.arrays:
        return trace.tree("theta")
    generator = np.random.RandomState(int(trace.arrays["meta/theta_seed"]))
    theta, digest = {}, hashlib.sha256()
    for name in map(str, trace.arrays["meta/theta_names"]):
        shape = tuple(trace.arrays[f"theta_check/{name}/shape"])
        normal = generator.standard_normal(int(np.prod(shape))).reshape(shape)
        theta[name.removeprefix("theta/")] = array = (normal * _std(name, shape)).astype(np.float32)
        digest.update(array.astype("<f4").tobytes())
    if digest.hexdigest() != str(trace.arrays["meta/theta_sha256"]):
        raise InputError("The weights drawn from meta/theta_seed have not the digest meta/theta_sha256.")
    return theta


def _std(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of one array of a recipe."""
    last = name.rpartition("/")[2]
    if "lstm_init_state" in name:
        return 0.5
    if last.startswith("b"):
        return 0.1
    if "ff_mod_stack" in name:
        return 1 / np.sqrt(VELO_FEATURES.size if last.startswith("w0__") else shape[1])
    return 1 / np.sqrt(shape[0])


def replay(trace: Trace, optimizer: VeLO, theta: Any) -> list[Step]:
    """Runs the prescribed gradients and losses through our optimizer."""
    mup, grads = trace.rules(), trace.tree("grads")

    @jax.jit
    def advance(state, grads, params, loss):
        # All in one program: what they share is compiled once.
        _, schedule = _schedule.advance(state.progress, loss, optimizer.name)
        plan = optimizer.plan(theta, state.lstm, schedule, take_apart(state.accumulators, grads, params, mup))
        unscaled, _ = optimizer.update(theta, state, grads, params, loss, None)
        updates, after = optimizer.update(theta, state, grads, params, loss, mup)
        new_params = jax.tree.map(jnp.add, params, updates)
        return Step(new_params, jax.tree.map(jnp.negative, unscaled), plan, schedule[-9:], after)

    params = trace.tree("params0")
    state = optimizer.init(theta, params, int(trace.arrays["meta/num_steps"]))
    history = []
    for t, loss in enumerate(trace.arrays["losses"]):
        history.append(advance(state, {leaf: g[t] for leaf, g in grads.items()}, params, loss))
        params, state = history[-1].params, history[-1].state
    return history


def deviations(trace: Trace) -> Iterator[Deviation]:
    """Every comparison that the trace allows."""
    config, theta = from_reference("velo", reference_theta(trace))
    history = replay(trace, make_optimizer(trace, config), theta)
    for quantity, tolerance in (("params", PARAMS_TOLERANCE), ("steps", STEPS_TOLERANCE)):
        for leaf, reference in trace.tree(quantity).items():
            ours = np.stack([getattr(step, quantity)[leaf] for step in history])
            yield compare(f"{quantity}/{leaf}", ours, reference, tolerance)
    plans = {
        "lstm_features": ([step.plan.inputs for step in history], LOSS_TOLERANCE),
        "loss_features": ([step.loss_features for step in history], LOSS_TOLERANCE),
        "controls": ([step.plan.controls for step in history], PLAN_TOLERANCE),
        "lr_mult": ([step.plan.step_sizes for step in history], PLAN_TOLERANCE),
    }
    for name, (ours, tolerance) in plans.items():
        yield compare(f"debug/{name}", np.stack(ours), trace.arrays[f"debug/{name}"], tolerance)
    for group, index in (("acc_step5", 5), ("acc_step19", 19), ("acc_last", len(history))):
        yield from _compare_state(trace, group, history[index - 1].state)
    yield from _compare_features(trace, history)


def _compare_state(trace: Trace, group: str, state: VeLOState) -> Iterator[Deviation]:
    yield from compare_accumulators(trace, group, state.accumulators, INTERNALS_TOLERANCE)
    yield from compare_recurrent(trace, group, state.progress, state.lstm, PLAN_TOLERANCE)


def compare_recurrent(
    trace: Trace, group: str, progress: _schedule.Progress, lstm: Any, tolerance: float
) -> Iterator[Deviation]:
    """State of the LSTM and the running means of the loss."""
    for name, ours in (("lstm_hidden", lstm.hidden), ("lstm_cell", lstm.cell)):
        reference = trace.arrays[f"{group}/{name}"]
        yield compare(f"{group}/{name}", np.broadcast_to(ours, reference.shape), reference, tolerance)
    losses = progress.losses
    fields = {"means": "means", "running_min": "minima", "decays": "decays", "iteration": "count"}
    for name, field in fields.items():
        reference = trace.arrays[f"{group}/loss_buffer/{name}"]
        ours = getattr(losses, field)
        yield compare(f"{group}/loss_buffer/{name}", ours, reference, INTERNALS_TOLERANCE)


def _compare_features(trace: Trace, history: list[Step]) -> Iterator[Deviation]:
    t = int(trace.arrays["debug/step_index"])
    for leaf, reference in trace.tree("debug/features_norm").items():
        param = np.atleast_1d(history[t - 1].params[leaf])
        grads = trace.arrays[f"grads/{leaf}"][: t + 1].reshape(-1, *param.shape)
        ours = _recorded_layout(grads, param).reshape(reference.shape)
        yield compare(f"debug/features_norm/{leaf}", ours, reference, INTERNALS_TOLERANCE)


@jax.jit
def _recorded_layout(grads: jax.Array, param: jax.Array) -> jax.Array:
    """Features after gradients [t, *shape], in the reference's order: [*shape, F]."""
    grads = clip_gradient(grads)
    accumulators, _ = jax.lax.scan(
        lambda accumulators, grad: (accumulate(INITIAL_DECAYS, accumulators, grad), None),
        init_accumulators(param),
        grads,
    )
    ingredients, along_axes = make_ingredients(accumulators, grads[-1], param, features=VELO_FEATURES)
    features = [*element_features(ingredients), *along_axes.row, *along_axes.col]
    normalised = [jnp.broadcast_to(f * inverse_rms(mean_squares_of([f])[0]), param.shape) for f in features]
    rows = VELO_FEATURES
    order = np.argsort([*rows.element_rows, *rows.row_rows, *rows.col_rows])
    return jnp.stack([normalised[index] for index in order], axis=-1)
