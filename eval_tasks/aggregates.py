"""From the results of several seeds to what a table shows."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    """A mean over seeds."""

    mean: float | None  # `None`: at least one run diverged
    standard_error: float | None  # of the mean; `None` with a single seed
    num_diverged: int
    num_runs: int


def estimate(values: Sequence[float | None]) -> Estimate:
    """Mean and standard error over seeds; one diverged run (`None`) leaves no mean.

    >>> estimate([1.0, 2.0, 3.0]).mean
    2.0
    """
    finite = [value for value in values if value is not None]
    num_diverged = len(values) - len(finite)
    if num_diverged or not finite:
        return Estimate(None, None, num_diverged, len(values))
    mean = sum(finite) / len(finite)
    if len(finite) == 1:
        return Estimate(mean, None, 0, 1)
    variance = sum((value - mean) ** 2 for value in finite) / (len(finite) - 1)
    return Estimate(mean, math.sqrt(variance / len(finite)), 0, len(finite))
