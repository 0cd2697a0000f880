"""The table of models: name -> where the function is that makes one. Resolved when asked for, without JAX."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mulo.names import lookup

if TYPE_CHECKING:
    from eval_tasks.models.parametrization import Model

MODELS: Mapping[str, tuple[str, str]] = {
    "mlp": ("eval_tasks.models.mlp", "make_mlp"),
}


def make_model(name: str, *, width: int, depth: int, num_classes: int, parametrization: str) -> "Model":
    """Builds the classifier called `name`.

    Args:
      name: a key of `MODELS`.
      width: units in each hidden layer.
      depth: number of hidden layers.
      num_classes: number of logits.
      parametrization: "mup" or "sp".

    Raises:
      InputError: unknown model or parametrization.
    """
    module, function = lookup(MODELS, name, "model")
    make = getattr(importlib.import_module(module), function)
    return make(width=width, depth=depth, num_classes=num_classes, parametrization=parametrization)
