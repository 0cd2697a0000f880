"""What to say where a package is missing that only a part of the software needs."""

from collections.abc import Mapping

from mulo.errors import CheckpointError
from mulo.printing import shell_quoted

_EXTRA_OF: Mapping[str, str] = {
    "haiku": "train",
    "huggingface_hub": "hub",
    "matplotlib": "report",
    "ray": "ray",
    "rich": "train",
    "safetensors": "hub",
    "scipy": "report",
    "sklearn": "digits",
    "tensorboardX": "tensorboard",
}
"""Modules of other packages -> the extra in setup.cfg that brings them."""


class MissingPackageError(CheckpointError):
    """A file cannot be read for want of a package; the file may be good."""


def how_to_install(extra: str) -> str:
    """The command that brings an extra of ours; mulo is on no package index, so it begins from its files.

    Args:
      extra: of those in setup.cfg, as "hub".

    >>> how_to_install("hub")
    "run pip install '.[hub]' in the folder of mulo's checkout"
    """
    return f"run pip install {shell_quoted(f'.[{extra}]')} in the folder of mulo's checkout"


def missing_package(error: ImportError) -> str:
    """What to say of a module that cannot be imported, as a sentence; "" where it is of no extra.

    >>> missing_package(ModuleNotFoundError(name="haiku"))[:50]
    'The package haiku is needed and is not installed: '
    """
    module = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF.get(module)
    if extra is None:
        return ""
    return f"The package {module} is needed and is not installed: {how_to_install(extra)}."
