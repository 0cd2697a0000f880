"""Trace files: arrays by name."""

import dataclasses
from pathlib import Path

import numpy as np

from mulo.errors import InputError
from mulo.mup import LeafRule


@dataclasses.dataclass(frozen=True)
class Trace:
    """A recorded trace."""

    arrays: dict[str, np.ndarray]

    def tree(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays called `prefix/<leaf>`, by leaf."""
        start = prefix + "/"
        return {key[len(start) :]: x for key, x in self.arrays.items() if key.startswith(start)}

    def rules(self) -> dict[str, LeafRule] | None:
        """Records with the multipliers `mup_lrs`, by leaf; of axes the references know the shapes alone."""
        return {
            leaf: LeafRule.by_axes(
                self.arrays[f"params0/{leaf}"].shape, None, lr_multiplier=float(multiplier)
            )
            for leaf, multiplier in self.tree("mup_lrs").items()
        } or None

    def number(self, name: str) -> float:
        """A recorded float32, as the decimal that it stands for."""
        return float(str(np.float32(self.arrays[name])))


def read_trace(path: Path) -> Trace:
    """Reads a trace file.

    Raises:
      InputError: no such file, or not a NumPy archive.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return Trace({key: archive[key] for key in archive.files})
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Wanted a trace (.npz).") from error
    except Exception as error:  # whatever zipfile and NumPy raise for bytes that are no archive
        raise InputError(f"{path} is not a NumPy archive of plain arrays: {error}") from error
