"""The table of data sets: name -> where its reader is. Resolved when asked for, without JAX."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mulo.errors import InputError
from mulo.names import lookup

if TYPE_CHECKING:
    from eval_tasks.data.source import Source
    from eval_tasks.data.streaming import Placement


class Reader(NamedTuple):
    """Where the function that reads a data set is: name, data_dir, **options -> source."""

    module: str
    function: str
    options: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Of what models are shown: "image" or "text"."""
        return "text" if self.module == _TEXT else "image"


DEFAULT_CONTEXT = 64  # bytes
PLACEMENTS = ("auto", "device", "host")

_IMAGES = ("eval_tasks.data.images", "read_images")
_TEXT = "eval_tasks.data.text"
DATA_SETS: Mapping[str, Reader] = {
    "digits": Reader("eval_tasks.data.digits", "read_digits", {}),
    "mnist": Reader(*_IMAGES, {"file_set": "mnist", "size": 28}),
    "mnist-14": Reader(*_IMAGES, {"file_set": "mnist", "size": 14}),
    "fashion-mnist": Reader(*_IMAGES, {"file_set": "fashion-mnist", "size": 28}),
    "fashion-mnist-14": Reader(*_IMAGES, {"file_set": "fashion-mnist", "size": 14}),
    "cifar10": Reader(*_IMAGES, {"file_set": "cifar10", "size": 32}),
    "cifar10-16": Reader(*_IMAGES, {"file_set": "cifar10", "size": 16}),
    "cifar10-8": Reader(*_IMAGES, {"file_set": "cifar10", "size": 8}),
    "imagenet32": Reader(*_IMAGES, {"file_set": "imagenet32", "size": 32}),
    "imagenet32-16": Reader(*_IMAGES, {"file_set": "imagenet32", "size": 16}),
    "imagenet64": Reader(*_IMAGES, {"file_set": "imagenet64", "size": 64}),
    "imagenet64-32": Reader(*_IMAGES, {"file_set": "imagenet64", "size": 32}),
    "pydoc": Reader(_TEXT, "read_pydoc", {"context_length": DEFAULT_CONTEXT}),
    "tinyshakespeare": Reader(
        _TEXT, "read_text", {"file": "tinyshakespeare.txt", "context_length": DEFAULT_CONTEXT}
    ),
}
"""The data sets that have a name of their own. `find_data_set` knows other texts and contexts too."""

_TEXT_NAME = re.compile(
    r"(?P<text>pydoc|tinyshakespeare|[^/\\]+\.txt)(?:-(?P<context>[1-9][0-9]{0,4}))?", re.ASCII
)


def find_data_set(name: str) -> Reader:
    """The reader of the data set called `name`; reads nothing.

    Args:
      name: a key of `DATA_SETS`; or `NAME.txt`, any text file in the data folder. A text may be followed by
        the context in bytes, if it is not 64: `pydoc-128`, `mybook.txt-256`.

    Raises:
      InputError: there is no such data set.

    >>> find_data_set("mybook.txt-256").options
    {'file': 'mybook.txt', 'context_length': 256}
    """
    match = _TEXT_NAME.fullmatch(name)
    if match is None:
        return lookup(DATA_SETS, name, "data set")
    text, context = match["text"], int(match["context"] or DEFAULT_CONTEXT)
    if match["context"] == str(DEFAULT_CONTEXT):
        raise InputError(f"A context of {DEFAULT_CONTEXT} bytes is that of {text!r} itself; leave it out.")
    if text in DATA_SETS:
        reader = DATA_SETS[text]
        return reader._replace(options={**reader.options, "context_length": context})
    return Reader(_TEXT, "read_text", {"file": text, "context_length": context})


def load_data(
    name: str, data_dir: str | Path | None = None, *, placement: "Placement | None" = None
) -> "Source":
    """Reads a data set.

    Args:
      name: as `find_data_set` takes it.
      data_dir: folder with the files; `None` for the environment variable MULO_DATA_DIR. `digits` and `pydoc`
        need none.
      placement: of images in files: "device"; "host", where they are read at each step
        (`eval_tasks.data.streaming`); "auto", the default: on the host where they would take more than half
        of the device's memory. Batches are the same bit for bit.

    Returns:
      A `DataSource` of images or a `TextSource`.

    Raises:
      InputError: unknown name or placement; a placement for a set that is always on the device; a file is
        missing, truncated or damaged: the message says where to get it.
    """
    module, function, options = find_data_set(name)
    if placement is not None:
        lookup(dict.fromkeys(PLACEMENTS), placement, "placement")
        if "file_set" in options:
            options = {**options, "placement": placement}
        elif placement == "host":
            raise InputError(f"The data set {name!r} is always on the device; leave placement out.")
    read = getattr(importlib.import_module(module), function)
    return read(name, data_dir, **options)
