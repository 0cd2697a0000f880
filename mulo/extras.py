"""What to say where a package is missing that only a part of the software needs."""

from mulo.errors import CheckpointError
from mulo.printing import shell_quoted


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
