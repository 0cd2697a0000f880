"""Files on the Hugging Face hub: `hf://owner/name/file` -> a file on this machine. Imports no JAX."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mulo.errors import CheckpointError, InputError

SCHEME = "hf://"
TIMEOUT_SECONDS = 10.0
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


def fetch(name: str, max_bytes: int) -> Path:
    """The file, on this machine: from the hub's local cache, without network, or else downloaded to there.

    What is in the cache is not compared with the hub again: a theta does not change between two runs.

    Args:
      name: `hf://owner/name/file` or `hf://owner/name@revision/file`.
      max_bytes: a larger file is not downloaded.

    Raises:
      InputError: the name is malformed.
      CheckpointError: huggingface_hub is not installed, there is no such file, the hub cannot be
        reached, or the file cannot be fetched from it.
    """
    file = parse_hub_name(name)
    hub = _import_hub(name)
    try:
        cached = hub.try_to_load_from_cache(file.repository, file.file, revision=file.revision)
        if isinstance(cached, str):
            return Path(cached)
        # Asked for first because the download itself tries again and again, for minutes, when offline.
        url = hub.hf_hub_url(file.repository, file.file, revision=file.revision)
        size = hub.get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS).size
        if size is not None and size > max_bytes:
            raise CheckpointError(f"{name}: has {size} bytes; wanted at most {max_bytes}.")
        return Path(hub.hf_hub_download(file.repository, file.file, revision=file.revision))
    except CheckpointError:
        raise
    except Exception as error:  # many classes, of the hub's and of the HTTP library beneath it
        raise CheckpointError(f"{name}: {_reason(error)}") from error


def _import_hub(name: str) -> ModuleType:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise CheckpointError(
            f"{name}: files on the hub need the package huggingface_hub: pip install 'mulo[hub]'."
        ) from error


def _reason(error: Exception) -> str:
    """What went wrong with a request, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it needs a login (hf auth login)."
    if isinstance(error, errors.EntryNotFoundError) and isinstance(error, errors.HfHubHTTPError):
        return "the repository has no such file."
    while isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = (" ".join(str(error).split())[:160] or type(error).__name__).rstrip(".")
    elsewhere = "fetch the file elsewhere and give its path"
    # `TransportError` is the base class of the HTTP library beneath, of which there are several.
    is_transport = any(base.__name__ == "TransportError" for base in type(error).__mro__)
    if is_transport or isinstance(error, ConnectionError | TimeoutError):
        return (
            "is not in the hub's local cache, and the hub cannot be reached. Connect to the network, or "
            f"{elsewhere}. ({text})"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return (
            f"could not be fetched: {text}. Set HF_HOME to a folder that has room and can be written, or "
            f"{elsewhere}."
        )
    return f"could not be fetched: {text}. Try again later, or {elsewhere}."
