"""The table of learned optimizers: name -> where its class is. Resolved when asked for, without JAX."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mulo.errors import InputError
from mulo.names import lookup

if TYPE_CHECKING:
    from mulo.optimizers.base import LearnedOptimizer

OPTIMIZERS: Mapping[str, tuple[str, str]] = {
    "small_fc": ("mulo.optimizers.small_fc", "SmallFC"),
    "velo": ("mulo.optimizers.velo", "VeLO"),
    "muvelo": ("mulo.optimizers.velo", "MuVeLO"),
    "celo": ("mulo.optimizers.celo", "Celo"),
    "celo_adam": ("mulo.optimizers.celo", "CeloAdam"),
    "celo2": ("mulo.optimizers.celo2", "Celo2"),
    "direction_fc": ("mulo.optimizers.direction_fc", "DirectionFC"),
}


def make_optimizer(name: str, config: Mapping[str, Any]) -> "LearnedOptimizer":
    """Builds the learned optimizer called `name`.

    Args:
      name: a key of `OPTIMIZERS`.
      config: the fields of its class; those left out take their defaults.

    Raises:
      InputError: unknown name, unknown field, or a value that the class refuses.

    >>> make_optimizer("small_fc", {"hidden_size": 4}).hidden_size
    4
    """
    module, attribute = lookup(OPTIMIZERS, name, "learned optimizer")
    optimizer_class = getattr(importlib.import_module(module), attribute)
    try:
        return optimizer_class(**config)
    except TypeError as error:
        raise InputError(f"Optimizer {name!r} cannot be built from {dict(config)}: {error}.") from error
