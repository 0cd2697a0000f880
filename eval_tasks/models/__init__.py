"""The table of models: name -> where the function is that makes one. Resolved when asked for, without JAX."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mulo.names import lookup

if TYPE_CHECKING:
    from eval_tasks.models.parametrization import Model


class ModelEntry(NamedTuple):
    """What is known of a model without JAX."""

    module: str
    function: str
    objective: str  # a key of `eval_tasks.objectives.OBJECTIVES`
    data: str  # "image" or "text"
    has_heads: bool = False
    width_multiple: int = 1  # the width of each head (without heads: the width) is a multiple of this
    options: Mapping[str, Any] = {}  # further arguments of the function
    branches: str = ""  # pattern of the parameters inside residual branches; "" where there are none


_BLOCKS = "block_*/*"
_TRANSFORMER = ("eval_tasks.models.transformer", "make_transformer", "next_byte", "text")
MODELS: Mapping[str, ModelEntry] = {
    "mlp": ModelEntry("eval_tasks.models.mlp", "make_mlp", "class", "image"),
    "convnet": ModelEntry("eval_tasks.models.convnet", "make_convnet", "class", "image"),
    "resnet": ModelEntry(
        "eval_tasks.models.convnet", "make_resnet", "class", "image", branches="*/block_*_conv_*"
    ),
    "vit": ModelEntry(
        "eval_tasks.models.vit", "make_vit", "class", "image", has_heads=True, branches=_BLOCKS
    ),
    "autoencoder": ModelEntry(
        "eval_tasks.models.mlp", "make_autoencoder", "reconstruction", "image", width_multiple=4
    ),
    # Rotary positions turn pairs.
    "transformer": ModelEntry(
        *_TRANSFORMER, has_heads=True, width_multiple=2, options={"positions": "rotary"}, branches=_BLOCKS
    ),
    "transformer-learned": ModelEntry(
        *_TRANSFORMER, has_heads=True, options={"positions": "learned"}, branches=_BLOCKS
    ),
    "rnn": ModelEntry("eval_tasks.models.rnn", "make_rnn", "next_byte", "text"),
}
DEFAULT_HEADS = 4


def make_model(
    name: str,
    *,
    width: int,
    depth: int,
    heads: int | None = None,
    residual: str | None = None,
    num_outputs: int,
    parametrization: str,
) -> "Model":
    """Builds the network called `name`.

    Args:
      name: a key of `MODELS`.
      width: units in each hidden layer, channels, or the size of the residual stream.
      depth: number of hidden layers or blocks; of an autoencoder, on either side of the code.
      heads: of attention; only for models that have them.
      residual: how residual branches are scaled with depth, as in `mulo.mup.residual_multiplier`; `None` for
        not at all. Only for models that have them.
      num_outputs: number of logits, or of values to reconstruct.
      parametrization: "mup" or "sp".

    Raises:
      InputError: unknown model or parametrization.
    """
    from mulo.mup import residual_multiplier  # here: it imports JAX

    entry = lookup(MODELS, name, "model")
    make = getattr(importlib.import_module(entry.module), entry.function)
    options = {**entry.options, **({"heads": heads} if entry.has_heads else {})}
    if residual is not None:
        options["residual_multiplier"] = residual_multiplier(depth, residual)
    return make(width=width, depth=depth, num_outputs=num_outputs, parametrization=parametrization, **options)
