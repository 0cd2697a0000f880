"""The rules of muP, one table: role -> initial std and multipliers, as functions of fan-in.

Tensor Programs V (Yang et al. 2022, arXiv 2203.03466), table 8, in the form that muLO uses (arXiv
2406.00153, section 4): the output weight starts at zero and its output is divided by its fan-in; a
learned optimizer, whose steps have a size of order 1 for any gradient, divides those of a hidden
weight by fan-in.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mulo.mup.roles import Role


class Rule(NamedTuple):
    """What muP asks of one role; n is the fan-in and b the fan-in at base width."""

    init_std: Callable[[int], float]  # n -> standard deviation of the initial values
    forward_multiplier: Callable[[int], float]  # n -> factor on the layer's output
    update_multiplier: Callable[[int], float]  # n -> factor on a learned optimizer's step
    adam_lr_multiplier: Callable[[int, int], float]  # n, b -> factor on Adam's learning rate


def _one(*_: int) -> float:
    return 1.0


def _zero(_: int) -> float:
    return 0.0


RULES: Mapping[Role, Rule] = {
    Role.INPUT: Rule(lambda n: 1 / math.sqrt(n), _one, _one, _one),
    Role.HIDDEN: Rule(lambda n: 1 / math.sqrt(n), _one, lambda n: 1 / n, lambda n, b: b / n),
    Role.OUTPUT: Rule(_zero, lambda n: 1 / n, _one, _one),
    Role.VECTOR: Rule(_zero, _one, _one, _one),
    Role.SCALAR: Rule(_zero, _one, _one, _one),
}
