"""Where a model asks how large its weights start and what its layers' outputs are multiplied by."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mulo.mup import RULES, Role

_WEIGHTS = (Role.INPUT, Role.HIDDEN, Role.OUTPUT)


class Model(NamedTuple):
    """A classifier as two pure functions."""

    init: Callable  # key, images [B, H, W, C] float32 -> params
    apply: Callable  # params, images [B, H, W, C] float32 -> logits [B, num_classes] float32


class Parametrization(NamedTuple):
    """What a model asks for, by role and fan-in."""

    init_std: Callable[[Role, int], float]  # of a normal cut at two of these, not rescaled
    forward_multiplier: Callable[[Role, int], float]  # factor on the layer's output


PARAMETRIZATIONS: Mapping[str, Parametrization] = {
    "mup": Parametrization(
        init_std=lambda role, fan_in: RULES[role].init_std(fan_in),
        forward_multiplier=lambda role, fan_in: RULES[role].forward_multiplier(fan_in),
    ),
    "sp": Parametrization(
        init_std=lambda role, fan_in: 1 / math.sqrt(fan_in) if role in _WEIGHTS else 0.0,
        forward_multiplier=lambda role, fan_in: 1.0,  # noqa: ARG005
    ),
}
