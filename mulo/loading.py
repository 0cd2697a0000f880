"""`mulo.load`: a trained optimizer by its name, from a file, or from the Hugging Face hub."""

import os
from pathlib import Path

from mulo._envelope import MAGIC, read_bytes
from mulo.checkpoint_file import MAX_THETA_BYTES, Checkpoint, load_file
from mulo.errors import CheckpointError, InputError
from mulo.importers.hub import RELEASES, fetch, is_hub_name, parse_hub_name
from mulo.importers.released import import_copy, read_copy
from mulo.printing import shell_quoted


def load(path_or_name: str | os.PathLike[str], *, expect: str | None = None) -> Checkpoint:
    """Reads a trained optimizer.

    Args:
      path_or_name: the name of a released optimizer, a checkpoint file, or a run directory of
        `mulo-meta-train` that holds `theta.mulo`. A name goes before a file called the same: write `./name`.
        Or a file on the Hugging Face hub, `hf://owner/name/file` or `hf://owner/name@revision/file`: a
        checkpoint file, or one of the released thetas of `mulo.importers.hub.RELEASES`. One that was fetched
        before is read without network. Needs the extra `hub`: `pip install '.[hub]'` in a checkout of mulo.
      expect: the name of the learned optimizer that it must be for.

    Returns:
      The checkpoint; theta as JAX arrays on the default device.

    Raises:
      InputError: it is neither name nor path, or the name of a file on the hub is malformed.
      CheckpointError: no such name or file, or whatever is wrong with the file, in one line.
    """
    if not isinstance(path_or_name, str | os.PathLike):
        raise InputError(
            f"mulo.load was given {type(path_or_name).__name__}; wanted the name or path of a checkpoint."
        )
    if is_hub_name(path_or_name):
        return _load_from_hub(path_or_name, expect)
    return load_file(path_or_name, expect=expect)


def _load_from_hub(name: str, expect: str | None) -> Checkpoint:
    file = parse_hub_name(name)
    kind = RELEASES.get((file.repository, file.file))

    def read(path: Path) -> Checkpoint | None:
        if file.file.endswith(".mulo") or read_bytes(path, MAX_THETA_BYTES).startswith(MAGIC):
            return load_file(path)
        if kind is not None:
            return import_copy(path, name, kind)
        read_copy(path, name)  # refuses what is of no format at all
        return None

    checkpoint = fetch(name, MAX_THETA_BYTES, read)
    if checkpoint is None:
        raise CheckpointError(
            f"{name}: is neither a checkpoint file of mulo nor a released theta that mulo knows. If it is of "
            f"a kind that mulo reads: mulo-eval import {shell_quoted(name)} --as KIND -o FILE."
        )
    if expect is not None and checkpoint.optimizer.name != expect:
        raise CheckpointError(f"{name}: is for optimizer {checkpoint.optimizer.name!r}; wanted {expect!r}.")
    return checkpoint
