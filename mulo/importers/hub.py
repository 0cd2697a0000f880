"""Files on the Hugging Face hub: `hf://owner/name/file` -> a file on this machine. Imports no JAX."""

import hashlib
import importlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from mulo.errors import CheckpointError, InputError
from mulo.extras import MissingPackageError, how_to_install
from mulo.importers.downloads import download
from mulo.printing import one_line, shown
from mulo.safe_files import write_atomically

T = TypeVar("T")
SCHEME = "hf://"
MAX_NAME_LENGTH = 96
"""Of an owner, and of a repository without its owner."""

_PART = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
_NAME = re.compile(
    rf"hf://(?P<repository>{_PART}/{_PART})(?:@(?P<revision>\w[\w.-]*))?/(?P<file>[\w.][\w./+ -]*)", re.ASCII
)

RELEASES: Mapping[tuple[str, str], str] = {
    ("amoudgl/velo-4000", "theta.state"): "velo",
    ("amoudgl/velo-4000", "params"): "velo",
    ("amoudgl/celo", "theta.state"): "celo",
    ("btherien/mulo", "model.safetensors"): "mulo",
}
"""Repository and file -> kind, a key of `mulo.importers.KINDS`: released thetas that `mulo.load` imports."""


class HubFile(NamedTuple):
    """A file on the hub."""

    repository: str  # owner/name
    file: str  # its path in the repository
    revision: str  # a branch, a tag or a commit


def is_hub_name(source: Any) -> bool:
    """Whether it is a text that begins with `hf://`."""
    return isinstance(source, str) and source.startswith(SCHEME)


def parse_hub_name(name: str) -> HubFile:
    """Repository, file and revision.

    Raises:
      InputError: it is not of the form `hf://owner/name/file` or `hf://owner/name@revision/file`.

    >>> parse_hub_name("hf://amoudgl/celo@v1/theta.state")
    HubFile(repository='amoudgl/celo', file='theta.state', revision='v1')
    >>> parse_hub_name("hf://amoudgl/celo/theta.state").revision
    'main'
    """
    match = _NAME.fullmatch(name)
    if match is None or _is_refused(match["repository"]) or {"", ".", ".."} & set(match["file"].split("/")):
        raise InputError(f"{name!r} is no name of a file on the hub; wanted hf://owner/name/file.")
    return HubFile(match["repository"], match["file"], match["revision"] or "main")


def _is_refused(repository: str) -> bool:
    """Whether the hub has no repositories called so, beside those that `_NAME` rules out."""
    too_long = max(map(len, repository.split("/"))) > MAX_NAME_LENGTH
    return too_long or "--" in repository or ".." in repository or repository.endswith(".git")


def fetch(name: str, max_bytes: int, check: Callable[[Path], T]) -> T:
    """What `check` makes of the file: of the copy on this machine, without network, or else downloaded.

    A copy is in the hub's own cache or in ours, `$HF_HOME/mulo`. It is not compared with the hub again: a
    theta does not change between two runs. One that fails its check is not kept, and is fetched anew.

    Args:
      name: `hf://owner/name/file` or `hf://owner/name@revision/file`.
      max_bytes: a larger file is not downloaded, whatever the server says of its size.
      check: reads the file; raises `CheckpointError` where it is damaged.

    Raises:
      InputError: the name is malformed.
      CheckpointError: huggingface_hub is not installed, there is no such file, the hub cannot be
        reached or is too slow, the file cannot be fetched from it, or fails its check.
    """
    file = parse_hub_name(name)
    hub = _import_hub(name)
    own = _own_copy(file)
    there = hub.try_to_load_from_cache(file.repository, file.file, revision=file.revision)
    damage = None
    for path in (own, *([Path(there)] if isinstance(there, str) else [])):
        if not os.path.lexists(path):
            continue
        try:
            return check(path)
        except MissingPackageError:
            raise
        except CheckpointError as error:
            damage = error
            if path == own:
                own.unlink(missing_ok=True)
    try:
        content = download(hub, file, max_bytes)
        own.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(own, [content])
    except Exception as error:  # many classes, of the hub's and of the HTTP library beneath it
        said = "" if damage is None else f" The copy on this machine is damaged: {one_line(damage)}"
        raise CheckpointError(f"{name}: {_reason(error)}{said}") from error
    try:
        return check(own)
    except MissingPackageError:
        raise
    except CheckpointError as error:
        own.unlink(missing_ok=True)
        raise CheckpointError(str(error).replace(shown(own), name)) from error


def _own_copy(file: HubFile) -> Path:
    """Where we keep it: a folder named by a hash, so that no name can lead elsewhere."""
    from huggingface_hub import constants

    digest = hashlib.sha256("\n".join(file).encode()).hexdigest()[:32]
    return Path(constants.HF_HOME) / "mulo" / digest / file.file.rpartition("/")[2]


def _import_hub(name: str) -> ModuleType:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise CheckpointError(
            f"{name}: files on the hub need the package huggingface_hub: {how_to_install('hub')}."
        ) from error


def _reason(error: Exception) -> str:
    """What went wrong with a request, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, CheckpointError):
        return str(error)
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it needs a login (hf auth login)."
    if isinstance(error, errors.EntryNotFoundError) and isinstance(error, errors.HfHubHTTPError):
        return "the repository has no such file."
    while isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = one_line(error, 160).rstrip(".")
    elsewhere = "fetch the file elsewhere and give its path"
    # `TransportError` is the base class of the HTTP library beneath, of which there are several.
    is_transport = any(base.__name__ == "TransportError" for base in type(error).__mro__)
    if is_transport or isinstance(error, ConnectionError | TimeoutError):
        return (
            "is not on this machine, and the hub cannot be reached. Connect to the network, or "
            f"{elsewhere}. ({text})"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return (
            f"could not be fetched: {text}. Set HF_HOME to a folder that has room and can be written, or "
            f"{elsewhere}."
        )
    return f"could not be fetched: {text}. Try again later, or {elsewhere}."
