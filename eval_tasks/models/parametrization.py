"""What a model is, and where it asks how large its weights start and what its layers are multiplied by."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mulo.mup import RULES, Role, attention_scale

_WEIGHTS = (Role.INPUT, Role.HIDDEN, Role.OUTPUT)


class Model(NamedTuple):
    """A network as pure functions. `inputs` are images [B, H, W, C] float32, or bytes [B, T] int32."""

    init: Callable  # key, inputs -> params, state: running averages; empty where there are none
    # params, state, inputs, is_training -> outputs, state. In training, batch norm uses the batch, whatever
    # the running averages are, and an empty state begins anew. Outputs: float32 [B, num_outputs]; of bytes
    # [B, T, num_outputs].
    apply: Callable
    # params, inputs -> {layer: [B, ...] float32}: what each layer puts out, before its nonlinearity; the
    # logits are the last layer's. The names are the same at all widths.
    activations: Callable


class Parametrization(NamedTuple):
    """What a model asks for, by role and fan-in."""

    init_std: Callable[[Role, int], float]  # of a normal cut at two of these, not rescaled
    forward_multiplier: Callable[[Role, int], float]  # factor on the layer's output
    logit_scale: Callable[[int], float]  # size of a head -> factor on the product of query and key


PARAMETRIZATIONS: Mapping[str, Parametrization] = {
    "mup": Parametrization(
        init_std=lambda role, fan_in: RULES[role].init_std(fan_in),
        forward_multiplier=lambda role, fan_in: RULES[role].forward_multiplier(fan_in),
        logit_scale=attention_scale,
    ),
    "sp": Parametrization(
        init_std=lambda role, fan_in: 1 / math.sqrt(fan_in) if role in _WEIGHTS else 0.0,
        forward_multiplier=lambda role, fan_in: 1.0,  # noqa: ARG005
        logit_scale=lambda head_dim: 1 / math.sqrt(head_dim),
    ),
}
