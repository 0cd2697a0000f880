"""The rules of muP, one table: role -> initial std and multipliers, as functions of fan-in and fan-out.

Tensor Programs V (Yang et al. 2022, arXiv 2203.03466), table 8, in the form that muLO uses (arXiv
2406.00153, section 4): the output weight starts at zero and its output is divided by its fan-in; a
learned optimizer, whose steps have a size of order 1 for any gradient, divides those of a hidden
weight by fan-in.

Multipliers of Adam and SGD are relative to the base width. Those of SGD are table 8's with the
fan-out of input weights and biases; a hidden weight whose fan-in and fan-out grow by different
factors gets their quotient, which is 1 where they grow alike, as the table supposes (Yang et al.
2023, arXiv 2310.17813).
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mulo.errors import InputError
from mulo.mup.roles import Role
from mulo.names import lookup


class Rule(NamedTuple):
    """What muP asks of one role; n is the fan-in, m the fan-out, bn and bm the same at base width."""

    init_std: Callable[[int], float]  # n -> standard deviation of the initial values
    forward_multiplier: Callable[[int], float]  # n -> factor on the layer's output
    update_multiplier: Callable[[int], float]  # n -> factor on a learned optimizer's step
    adam_lr_multiplier: Callable[[int, int], float]  # n, bn -> factor on Adam's learning rate
    sgd_lr_multiplier: Callable[[int, int, int, int], float]  # n, bn, m, bm -> factor on SGD's


def _one(*_: int) -> float:
    return 1.0


def _zero(_: int) -> float:
    return 0.0


def _fan_out_growth(n: int, bn: int, m: int, bm: int) -> float:
    del n, bn
    return m / bm


RULES: Mapping[Role, Rule] = {
    Role.INPUT: Rule(lambda n: 1 / math.sqrt(n), _one, _one, _one, _fan_out_growth),
    Role.HIDDEN: Rule(
        lambda n: 1 / math.sqrt(n),
        _one,
        lambda n: 1 / n,
        lambda n, bn: bn / n,
        lambda n, bn, m, bm: (m / bm) / (n / bn),
    ),
    Role.OUTPUT: Rule(_zero, lambda n: 1 / n, _one, _one, lambda n, bn, m, bm: n / bn),  # noqa: ARG005
    Role.VECTOR: Rule(_zero, _one, _one, _one, _fan_out_growth),
    Role.SCALAR: Rule(_zero, _one, _one, _one, _one),
}

_DEPTH_EXPONENTS = {"sqrt": 0.5, "linear": 1.0}


def output_multiplier(fan_in: int) -> float:
    """The factor on what an output weight gives, for models written in muP: 1/fan_in.

    It belongs on every product with a leaf of role `Role.OUTPUT`, before the bias is added, and on the
    logits of a tied embedding, whose leaf has the role `Role.INPUT`. A constant factor beside it is a
    hyperparameter that transfers between widths. Tensor Programs V (arXiv 2203.03466), table 8.

    Args:
      fan_in: inputs of each output, the product of all axes that are summed over.

    Raises:
      InputError: `fan_in` is less than 1.

    >>> output_multiplier(512) == 1 / 512
    True
    """
    return RULES[Role.OUTPUT].forward_multiplier(_positive(fan_in, "fan_in"))


def attention_scale(head_dim: int) -> float:
    """The factor on attention logits: 1/head_dim, in place of 1/sqrt(head_dim).

    Queries and keys become aligned in training, so that their product grows with the head dimension and
    not with its root (Tensor Programs V, arXiv 2203.03466, definition 4.1). Multiply it with
    sqrt(head_dim at base width) to leave the base network as it was.

    Args:
      head_dim: entries of the query of one head.

    Raises:
      InputError: `head_dim` is less than 1.

    >>> attention_scale(64)
    0.015625
    """
    return 1 / _positive(head_dim, "head_dim")


def residual_multiplier(depth: int, scaling: str = "sqrt") -> float:
    """The factor on each residual branch before it is added: x + factor * branch(x).

    "sqrt" is 1/sqrt(depth), of Tensor Programs VI (Yang et al. 2023, arXiv 2310.02244) and Bordelon et
    al. 2023 (arXiv 2309.16620); "linear" is 1/depth, of CompleteP (Dey et al. 2025, arXiv 2505.01618),
    for blocks of several layers, such as a transformer's. The learning rates of the branches change too:
    see `residual_lr_multiplier`. Initial values do not.

    Not covered: Adam's epsilon, which CompleteP scales for leaves inside the branches as
    depth**-exponent (and everywhere as 1/width); at 1e-8 it matters only for very small gradients.

    Args:
      depth: number of residual branches, or its multiple of a base depth.
      scaling: "sqrt" or "linear".

    Raises:
      InputError: no such scaling, or `depth` is not positive.

    >>> residual_multiplier(16), residual_multiplier(16, "linear")
    (0.25, 0.0625)
    """
    return _positive(depth, "depth") ** -lookup(_DEPTH_EXPONENTS, scaling, "scaling of residual branches")


def residual_lr_multiplier(depth: int, scaling: str = "sqrt", optimizer: str = "adam") -> float:
    """The factor on the learning rate of every leaf inside the residual branches.

    Steps of Adam and of a learned optimizer have a size that does not depend on the gradient's: depth
    branches, each multiplied by depth**-a, need steps of depth**(a-1). SGD's are multiplied once more
    by what multiplies the branch: depth**(2a-1). Tensor Programs VI (arXiv 2310.02244), table 1, for
    "sqrt"; CompleteP (arXiv 2505.01618), table 1, for both and Adam; its factor is 1 for "linear",
    which therefore needs nothing but `residual_multiplier`.

    Args:
      depth: as for `residual_multiplier`.
      scaling: as for `residual_multiplier`.
      optimizer: "adam", "sgd" or "learned".

    Returns:
      The factor, for `mulo.mup.Leaf(lr_multiplier=...)`.

    Raises:
      InputError: no such scaling or optimizer, or `depth` is not positive.

    >>> residual_lr_multiplier(16), residual_lr_multiplier(16, "linear")
    (0.25, 1.0)
    """
    exponent = lookup(_DEPTH_EXPONENTS, scaling, "scaling of residual branches")
    times = lookup({"adam": 1, "learned": 1, "sgd": 2}, optimizer, "kind of optimizer")
    return float(_positive(depth, "depth") ** (times * exponent - 1))


def _positive(value: float, name: str) -> float:
    if not value > 0:
        raise InputError(f"{name} is {value!r}; wanted a number above 0.")
    return value
