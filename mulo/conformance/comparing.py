"""How far arrays are from their reference, and the table of it."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mulo.conformance.traces import Trace
from mulo.optimizers._accumulators import Accumulators
from mulo.optimizers._views import factored_axes


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
        """Whether ours is finite everywhere and within the tolerance, and something was compared.

        An empty array has nothing to compare and is within.
        """
        return self.num_nonfinite == 0 and self.relative <= self.tolerance and not self.is_excluded

    @property
    def is_excluded(self) -> bool:
        """Whether there are entries and all of them are excluded: a comparison that says nothing."""
        return self.num_compared == 0 and self.num_excluded > 0


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


def compare_accumulators(
    trace: Trace,
    group: str,
    accumulators: Accumulators,
    tolerance: float,
    *,
    params: str = "params0",
    excluded: Mapping[str, np.ndarray] | None = None,
) -> Iterator[Deviation]:
    """Statistics against those recorded as `group/mom/<leaf>` and so on.

    Args:
      trace: the recorded arrays.
      group: where in the trace they stand.
      accumulators: ours, trees of leaves by name.
      tolerance: of each array.
      params: where in the trace the parameters stand.
      excluded: entries of momenta that are not compared, by leaf; bool, shaped like the leaf.
    """
    for leaf, param in trace.tree(params).items():
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
            if name == "mom" and excluded is not None:
                reference = np.where(excluded[leaf][..., None], np.nan, reference)
            # The reference keeps a scalar's statistics with shape (1,).
            yield compare(f"{group}/{name}/{leaf}", array.reshape(reference.shape), reference, tolerance)


def _complaint(result: Deviation) -> str:
    if result.num_nonfinite:
        return "OURS NOT FINITE"
    return "NOTHING COMPARED" if result.is_excluded else "TOO FAR"


def report(results: list[Deviation]) -> str:
    """A table, one line an array, and a verdict."""
    width = max(len(result.name) for result in results)
    lines = [f"{'array':{width}}  {'abs':>9}  {'rel':>9}  {'limit':>7}"]
    for r in results:
        excluded = f"  {r.num_excluded} entries excluded: reference not finite" if r.num_excluded else ""
        verdict = "" if r.within else f"  {_complaint(r)}"
        numbers = f"{r.absolute:9.2e}  {r.relative:9.2e}  {r.tolerance:7.0e}"
        lines.append(f"{r.name:{width}}  {numbers}{verdict}{excluded}")
    failed = sum(not r.within for r in results)
    within = len(results) - failed
    lines.append(f"{within} of {len(results)} arrays within the limits (relative to their RMS).")
    return "\n".join(lines)
