"""The learning rates that optimizers are tuned over, and the choice among them. Needs no JAX."""

import math
from collections.abc import Mapping, Sequence

NUM_TRIALS = 13
"""Learning rates that every tuned optimizer is tried at, by default: the same number for all."""

MAX_TRIALS = 101
"""Up to 2**50 times the centre and down to 2**-50 of it, which float32 still holds."""

DEFAULT_CENTRE = 8e-3


def make_grid(centre: float = DEFAULT_CENTRE, num_trials: int = NUM_TRIALS) -> tuple[float, ...]:
    """Learning rates around `centre`, by factors of two; of an even number one more below it.

    Fine, because half a decade made baselines visibly worse; and wide, because the best rate of Adam in SP
    falls with width, and one at the edge is no choice.

    >>> make_grid()[0], make_grid()[-1]
    (0.000125, 0.512)
    >>> make_grid(1.0, 4)
    (0.25, 0.5, 1.0, 2.0)
    """
    return tuple(centre * 2.0 ** (index - num_trials // 2) for index in range(num_trials))


def choose(losses: Mapping[float, Sequence[float | None]]) -> float:
    """The learning rate with the lowest mean training loss towards the end.

    Args:
      losses: for each learning rate, the loss of each tuning seed; `None` where it diverged, which counts as
        infinite. Of equals the smallest learning rate is chosen.

    >>> choose({1e-3: [0.4, 0.2], 2e-3: [0.1, 0.3], 4e-3: [0.0, None]})
    0.002
    """

    def mean(of_seeds: Sequence[float | None]) -> float:
        return sum(math.inf if loss is None else loss for loss in of_seeds) / len(of_seeds)

    return min(sorted(losses), key=lambda rate: mean(losses[rate]))
