"""A released theta, as a file or on the hub -> a checkpoint of mulo."""

import hashlib
import os
from pathlib import Path

import jax
import numpy as np

from mulo._envelope import read_bytes
from mulo.checkpoint_file import MAX_THETA_BYTES, Checkpoint, bind
from mulo.errors import CheckpointError
from mulo.importers.files import read_arrays
from mulo.importers.hub import fetch, is_hub_name
from mulo.importers.layouts import LAYOUTS, from_reference
from mulo.names import lookup
from mulo.printing import printable, shown


def import_theta(source: str | os.PathLike[str], kind: str) -> Checkpoint:
    """Reads a theta that other software trained.

    Args:
      source: the file, or `hf://owner/name/file`.
      kind: what it is: a key of `mulo.importers.KINDS`.

    Returns:
      The checkpoint; its provenance says the file's name, its SHA-256 and the kind.

    Raises:
      InputError: there is no such kind, or the name of the hub's file is malformed.
      CheckpointError: the file cannot be had, or is not a theta of that kind: one line that names the leaf.
    """
    lookup(LAYOUTS, kind, "kind of released theta")

    def checked(path: Path) -> Path:
        read_copy(path, source)
        return path

    if is_hub_name(source):
        path = fetch(source, MAX_THETA_BYTES, checked)
        return import_copy(path, source, kind)
    return import_copy(source, source, kind)


def import_copy(path: str | os.PathLike[str], source: str | os.PathLike[str], kind: str) -> Checkpoint:
    """`import_theta` of the file at `path`, which is a copy of what `source` names."""
    layout = LAYOUTS[kind]
    where, name = shown(source), source if is_hub_name(source) else printable(Path(source).name)
    data, arrays = read_copy(path, source)
    try:
        config, body = from_reference(kind, arrays)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}.") from error.__cause__
    optimizer, theta = bind(layout.optimizer, config, body, where)
    provenance = {"imported_from": name, "sha256": hashlib.sha256(data).hexdigest(), "kind": kind}
    return Checkpoint(
        optimizer=optimizer,
        theta=jax.device_put(theta),
        parametrization=layout.parametrization,
        provenance=provenance,
    )


def read_copy(
    path: str | os.PathLike[str], source: str | os.PathLike[str]
) -> tuple[bytes, dict[str, np.ndarray]]:
    """The bytes and the arrays of the file at `path`, which is a copy of what `source` names."""
    data = read_bytes(path, MAX_THETA_BYTES, "a released theta")
    try:
        return data, read_arrays(data)
    except CheckpointError as error:
        raise type(error)(f"{shown(source)}: {error}.") from error.__cause__
