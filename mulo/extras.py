"""What to say where a package is missing that only a part of the software needs."""

from mulo.text import shell_quoted


def how_to_install(extra: str) -> str:
    """The command that brings an extra of ours; mulo is on no package index, so it begins from its files.

    Args:
      extra: of those in setup.cfg, as "hub".

    >>> how_to_install("hub")
    "run pip install '.[hub]' in the folder of mulo's checkout"
    """
    return f"run pip install {shell_quoted(f'.[{extra}]')} in the folder of mulo's checkout"
