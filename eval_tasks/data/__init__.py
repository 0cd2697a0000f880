"""The table of data sets: name -> where its reader is. Resolved when asked for, without JAX."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mulo.names import lookup

if TYPE_CHECKING:
    from eval_tasks.data.source import DataSource

DATA_SETS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "digits": ("eval_tasks.data.digits", "read_digits", {}),
    "cifar10": ("eval_tasks.data.cifar10", "read_cifar10", {"size": 32}),
    "cifar10-16": ("eval_tasks.data.cifar10", "read_cifar10", {"size": 16}),
    "cifar10-8": ("eval_tasks.data.cifar10", "read_cifar10", {"size": 8}),
    "imagenet32": ("eval_tasks.data.imagenet", "read_imagenet32", {}),
}


def load_data(name: str, data_dir: str | Path | None = None) -> "DataSource":
    """Reads a data set onto the device.

    Args:
      name: a key of `DATA_SETS`.
      data_dir: folder with the files; `None` for the environment variable MULO_DATA_DIR. `digits` needs none.

    Raises:
      InputError: unknown name; a file is missing, truncated or damaged; the message says where to get it.
    """
    module, function, options = lookup(DATA_SETS, name, "data set")
    read = getattr(importlib.import_module(module), function)
    return read(name, data_dir, **options)
