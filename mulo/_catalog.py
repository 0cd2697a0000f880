"""Names of released optimizers -> their files."""

from collections.abc import Mapping
from pathlib import Path

THETA_FILE = "theta.mulo"
"""Name of the file that holds theta, in a released optimizer's folder and in a run directory."""


def released() -> Mapping[str, Path]:
    """The file of every released optimizer, by name."""
    package = Path(__file__).parent
    # A wheel installs the folder as mulo/released; a checkout (also an editable one) has it beside mulo.
    for folder in (package / "released", package.parent / "checkpoints"):
        if folder.is_dir():
            return {file.parent.name: file for file in sorted(folder.glob(f"*/{THETA_FILE}"))}
    return {}
