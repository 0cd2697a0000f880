"""The learning rates that tuned baselines are tried at, and the choice among them."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

GRID: tuple[float, ...] = tuple(5e-4 * 2**power for power in range(9))
"""From 5e-4 to 1.28e-1 by factors of two; the same for every tuned baseline and width."""


class Choice(NamedTuple):
    """A learning rate, and whether the grid should have gone on."""

    learning_rate: float
    at_edge: bool  # the best is the smallest or the largest of the grid


def choose(final_losses: Mapping[float, Sequence[float | None]]) -> Choice:
    """The learning rate with the lowest mean final training loss.

    Args:
      final_losses: for each learning rate, the final loss of each tuning seed; `None` where it diverged,
        which counts as infinite. Of equals the smallest learning rate is chosen.

    >>> choose({1e-3: [0.4, 0.2], 2e-3: [0.1, 0.3], 4e-3: [0.0, None]})
    Choice(learning_rate=0.002, at_edge=False)
    """

    def mean(losses: Sequence[float | None]) -> float:
        return sum(math.inf if loss is None else loss for loss in losses) / len(losses)

    best = min(sorted(final_losses), key=lambda rate: mean(final_losses[rate]))
    return Choice(learning_rate=best, at_edge=best in (min(final_losses), max(final_losses)))
