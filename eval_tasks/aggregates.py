"""From the results of several seeds and tasks to what a report shows. Numbers only: no files, no labels."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over seeds."""

    mean: float | None  # `None`: at least one run diverged
    standard_error: float | None  # of the mean; `None` with a single seed
    num_diverged: int
    num_runs: int


class Interval(NamedTuple):
    """A value and its bootstrap interval."""

    value: float
    low: float | None  # `None`: a task has a single run, so that nothing is known of its spread
    high: float | None


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


def smooth(values: Sequence[float | None]) -> np.ndarray:
    """Centred running mean of a loss curve over a twentieth of its points, of fewer at both ends.

    Args:
      values: [N]; `None` where the loss was not finite, which makes every mean over it NaN.

    Returns:
      [N], float64.

    >>> smooth([4.0, 3.0, 2.0]).tolist()
    [4.0, 3.0, 2.0]
    """
    curve = np.asarray(values, float)
    half = len(curve) // 40
    means = [curve[max(0, i - half) : i + half + 1].mean() for i in range(len(curve))]
    return np.asarray(means)


def steps_to_reach(steps: Sequence[int], curve: np.ndarray, target: float) -> int | None:
    """The step, counted from 1, in which a smoothed curve is first at or below `target`; else `None`.

    Args:
      steps: [N], updates made before each loss was computed.
      curve: [N], losses; NaN is above any target.
      target: in the unit of the losses.

    >>> steps_to_reach([0, 10, 20], np.array([3.0, 2.0, 1.0]), 2.0)
    11
    """
    reached = np.flatnonzero(curve <= target)
    return int(steps[reached[0]]) + 1 if reached.size else None


def speed_up(
    losses: Mapping[str, Sequence[Any]],
    final_loss: float | None,
    references: Sequence[Mapping[str, Sequence[Any]]],
    target: float,
    num_steps: int,
) -> float | None:
    """How many times as fast as the reference a run is, in steps (as in VeLO and Celo).

    With t and s the steps in which the smoothed curves of the run and of the reference first reach
    `target`: s/t. If the run never does: s/T, where s is the step in which the reference first reaches the
    run's own final loss and T the length, so a value below 1 that says after what share of the steps the
    reference was as good. s is the mean over the reference's runs, each of which counts T where it does not
    get there. A diverged run has 0. Curves are read alike on both sides, so that noise, which lets any
    curve reach a level early, does not favour one.

    Args:
      losses: of the run: "steps" [N], updates made before each loss; "values" [N], `None` if not finite.
      final_loss: of the run; `None` where it diverged.
      references: the curves of the reference's runs, in the same form.
      target: the reference's mean final loss.
      num_steps: T.

    Returns:
      `None` where the run or the reference has no curve.

    >>> curve = {"steps": [0, 25, 50, 75, 99], "values": [5.0, 4.0, 3.0, 2.0, 1.0]}
    >>> fast = {"steps": [0, 25, 50, 75, 99], "values": [5.0, 1.0, 0.5, 0.5, 0.5]}
    >>> round(speed_up(fast, 0.5, [curve], 1.0, 100), 3)  # 1.0 in step 26, not in step 100
    3.846
    >>> speed_up(curve, 3.0, [curve], 1.0, 100), speed_up(curve, None, [curve], 1.0, 100)
    (1.0, 0.0)
    """
    if final_loss is None:
        return 0.0
    references = [reference for reference in references if reference["steps"]]
    if not losses["steps"] or not references:
        return None

    def of_reference(level: float) -> float:
        found = [steps_to_reach(curve["steps"], smooth(curve["values"]), level) for curve in references]
        return sum(step or num_steps for step in found) / len(found)

    reached = steps_to_reach(losses["steps"], smooth(losses["values"]), target)
    if reached is not None:
        return of_reference(target) / reached
    return min(1.0, of_reference(final_loss) / num_steps)


def has_learned(final_loss: float, guessing: float) -> bool:
    """Whether a loss is so far below guessing that it can be a reference: a twentieth of it.

    Closer to guessing any run reaches it in its first steps, and differences are noise.

    >>> has_learned(2.2, guessing=2.3), has_learned(2.0, guessing=2.3)
    (False, True)
    """
    return final_loss <= 0.95 * guessing


def normalised_score(loss: float | None, guessing: float, target: float) -> float:
    """0 for guessing, 1 for the reference's mean loss, linear in between and beyond; 0 if worse or diverged.

    >>> normalised_score(1.0, guessing=2.0, target=1.5), normalised_score(None, guessing=2.0, target=1.5)
    (2.0, 0.0)
    """
    return 0.0 if loss is None else max(0.0, (guessing - loss) / (guessing - target))


def interquartile_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean without the lowest and the highest quarter (rounded down) of the values.

    With fewer than four values nothing is cut.

    >>> float(interquartile_mean(np.array([0.0, 1.0, 2.0, 30.0])))
    1.5
    """
    from scipy.stats import trim_mean  # takes half a second to import

    return trim_mean(values, 0.25, axis=axis)


def task_interval(samples: Sequence[Sequence[float]]) -> Interval:
    """Interquartile mean over tasks of the means over seeds, with an interval.

    Args:
      samples: for each task a value for each seed.

    >>> task_interval([[1.0, 1.0], [3.0, 3.0]])
    Interval(value=2.0, low=2.0, high=2.0)
    """

    def statistic(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
        return interquartile_mean(np.stack([task.mean(axis=axis) for task in tasks]))

    return bootstrap_interval(samples, statistic)


def bootstrap_interval(samples: Sequence[Sequence[float]], statistic: Callable[..., np.ndarray]) -> Interval:
    """A statistic of several samples, and its 95 % percentile interval by a stratified bootstrap.

    Each sample (the seeds of one task) is resampled for itself, 2000 times, always by the same draws.

    Args:
      samples: one for each task, each of some seeds.
      statistic: of the samples as arrays, reducing `axis`.
    """
    value = float(statistic(*(np.asarray(sample, float) for sample in samples), axis=-1))
    if any(len(sample) < 2 for sample in samples):
        return Interval(value, None, None)
    from scipy.stats import bootstrap

    result = bootstrap(
        tuple(samples),
        statistic,
        n_resamples=NUM_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return Interval(value, float(low), float(high))
