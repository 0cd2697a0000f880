"""Replays a recorded trace of a reference implementation and compares: `python -m mulo.conformance FILE.npz`.

A trace holds weights, initial parameters and prescribed gradients, and what the reference computed
from them. The format of the files is described in `tests/golden/README.md`.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mulo.errors import InputError
from mulo.optimizers._accumulators import (
    Decays,
    accumulate,
    bound_gradient,
    factored_axes,
    init_accumulators,
)
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


@dataclasses.dataclass(frozen=True)
class Deviation:
    """How far one array is from its reference."""

    name: str
    absolute: float  # largest absolute difference over the entries compared
    relative: float  # that, over the root mean square of the reference's entries compared
    tolerance: float  # on `relative`
    num_compared: int
    num_excluded: int  # entries at which the reference is not finite, or follows an infinite gradient
    num_nonfinite: int  # entries of ours that are not finite

    @property
    def within(self) -> bool:
        """Whether ours is finite everywhere and within the tolerance."""
        return self.num_nonfinite == 0 and self.relative <= self.tolerance


def compare(name: str, ours: Any, reference: np.ndarray, tolerance: float) -> Deviation:
    """Compares where the reference is finite; ours must be finite everywhere."""
    ours = np.asarray(ours, np.float64)
    finite = np.isfinite(reference)
    wanted, got = reference[finite].astype(np.float64), ours[finite]
    num_nonfinite = int(np.sum(~np.isfinite(ours)))
    absolute = float(np.max(np.abs(got - wanted), initial=0.0)) if num_nonfinite == 0 else float("inf")
    scale = float(np.sqrt(np.mean(np.square(wanted)))) if wanted.size else 0.0
    return Deviation(
        name=name,
        absolute=absolute,
        relative=absolute / scale if scale > 0 else (0.0 if absolute == 0 else float("inf")),
        tolerance=tolerance,
        num_compared=wanted.size,
        num_excluded=int(reference.size - wanted.size),
        num_nonfinite=num_nonfinite,
    )


@dataclasses.dataclass(frozen=True)
class Trace:
    """A small_fc_lopt trace, taken apart."""

    arrays: dict[str, np.ndarray]

    def tree(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays called `prefix/<leaf>`, by leaf."""
        start = prefix + "/"
        return {key[len(start) :]: x for key, x in self.arrays.items() if key.startswith(start)}

    def optimizer(self, max_global_norm: float = 0.0) -> SmallFC:
        """The optimizer that the trace is of."""
        return SmallFC(
            hidden_size=int(self.arrays["meta/hidden_size"]),
            # The decimal that the recorded float32 stands for.
            step_mult=float(str(np.float32(self.arrays["meta/step_mult"]))),
            exp_mult=float(str(np.float32(self.arrays["meta/exp_mult"]))),
            max_global_norm=max_global_norm,
        )

    def theta(self) -> dict[str, Any]:
        """The weights in our layout."""
        return {
            "mlp": self.tree("theta/nn/~"),
            "decays": {
                "momentum": self.arrays["theta/momentum_decays"],
                "second_moment": self.arrays["theta/rms_decays"],
                "factored": self.arrays["theta/adafactor_decays"],
            },
        }

    def mup(self) -> dict[str, np.ndarray] | None:
        """The factor on each leaf's step, or `None` in SP."""
        return self.tree("mup_lrs") or None


def read_trace(path: Path) -> Trace:
    """Reads a trace file.

    Raises:
      InputError: no such file, not a NumPy archive, or not a trace of an optimizer that mulo has.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Wanted a trace (.npz).") from error
    except Exception as error:  # whatever zipfile and NumPy raise for bytes that are no archive
        raise InputError(f"{path} is not a NumPy archive of plain arrays: {error}") from error
    needed = ("meta/hidden_size", "theta/nn/~/w0", "theta/momentum_decays", "acc_last/iteration")
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise InputError(
            f"{path} is not a trace of small_fc_lopt: it has no {missing[0]!r}. "
            "Wanted a file like tests/golden/sp_small_fc_lopt_h4.npz."
        )
    return Trace(arrays)


def replay(trace: Trace, max_global_norm: float = 0.0) -> dict[str, list[Any]]:
    """Runs the prescribed gradients through our optimizer.

    Returns:
      "params" and "steps" after each update and "state" before the first and after each, as lists.
    """
    optimizer, theta, mup = trace.optimizer(max_global_norm), trace.theta(), trace.mup()
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
        yield from _compare_accumulators(trace, group, history["state"][index])
    yield from _compare_features(trace, history)
    clipped = trace.tree("params_clip_grad")
    if clipped:
        history = replay(trace, max_global_norm=1.0)
        for leaf, reference in clipped.items():
            ours = np.stack([step[leaf] for step in history["params"]])
            yield compare(f"params_clip_grad/{leaf}", ours, reference, PARAMS_TOLERANCE)


def _compare_decays(trace: Trace) -> Iterator[Deviation]:
    ours = effective_decays(trace.theta()["decays"])
    names = {"momentum": "momentum", "rms": "second_moment", "adafactor": "factored"}
    for recorded, field in names.items():
        yield compare(
            f"decays/{recorded}",
            getattr(ours, field),
            trace.arrays[f"decays/{recorded}"],
            INTERNALS_TOLERANCE,
        )


def _compare_accumulators(trace: Trace, group: str, state: Any) -> Iterator[Deviation]:
    accumulators = state.accumulators
    # Under muP the reference takes an infinite gradient for 3.4e38: its tensor is NaN from then on, its
    # momenta are finite and of no use.
    infinite = {leaf: np.isinf(g[: int(state.step)]).any(axis=0) for leaf, g in trace.tree("grads").items()}
    yield compare(f"{group}/iteration", state.step, trace.arrays[f"{group}/iteration"], 0.0)
    for leaf, param in trace.tree("params0").items():
        factored = factored_axes(param.shape) is not None
        rows = np.stack([row[leaf] for row in accumulators.rows], axis=-1)
        cols = np.stack([col[leaf] for col in accumulators.cols], axis=-1)
        empty = np.zeros((0, 3), np.float32)
        ours = {
            "mom": np.stack([m[leaf] for m in accumulators.momenta], axis=-1),
            "rms": np.asarray(accumulators.second_moment[leaf])[..., None],
            "fac_row": rows if factored else empty,
            "fac_col": cols if factored else empty,
            "fac_diag": empty if factored else rows,
        }
        for name, array in ours.items():
            reference = trace.arrays[f"{group}/{name}/{leaf}"]
            if name == "mom":
                reference = np.where(infinite[leaf][..., None], np.nan, reference)
            # The reference keeps a scalar's statistics with shape (1,).
            yield compare(
                f"{group}/{name}/{leaf}", array.reshape(reference.shape), reference, INTERNALS_TOLERANCE
            )


def _compare_features(trace: Trace, history: dict[str, list[Any]]) -> Iterator[Deviation]:
    t = int(trace.arrays["debug/step_index"])
    decays = effective_decays(trace.theta()["decays"])
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


def report(results: list[Deviation]) -> str:
    """A table, one line an array, and a verdict."""
    width = max(len(result.name) for result in results)
    lines = [f"{'array':{width}}  {'abs':>9}  {'rel':>9}  {'limit':>7}"]
    for r in results:
        excluded = f"  {r.num_excluded} entries excluded: reference not finite" if r.num_excluded else ""
        verdict = "" if r.within else "  TOO FAR" if not r.num_nonfinite else "  OURS NOT FINITE"
        numbers = f"{r.absolute:9.2e}  {r.relative:9.2e}  {r.tolerance:7.0e}"
        lines.append(f"{r.name:{width}}  {numbers}{verdict}{excluded}")
    failed = sum(not r.within for r in results)
    within = len(results) - failed
    lines.append(f"{within} of {len(results)} arrays within the limits (relative to their RMS).")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Prints the deviations; returns 0, 1 where a limit is exceeded, 2 where the file cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m mulo.conformance", description=__doc__)
    parser.add_argument("file", type=Path, help="trace of a reference implementation (.npz)")
    arguments = parser.parse_args(argv)
    try:
        results = list(deviations(read_trace(arguments.file)))
    except InputError as error:
        print(f"mulo.conformance: error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(report(results))  # noqa: T201
    return 0 if all(result.within for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
