"""The configuration of a learned optimizer, refused where it is built."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from mulo.errors import InputError
from mulo.optimizers.descriptions import MAX_SIZE


def check_fields(optimizer: Any) -> None:
    """Refuses values that a field cannot have; which they are follows from the type of its default.

    Raises:
      InputError: a size that is no whole number from 1 to `MAX_SIZE`, a number that is negative or not
        finite, a truth value or a text that is none.
    """
    for field in dataclasses.fields(optimizer):
        value, kind = getattr(optimizer, field.name), type(field.default)
        if kind is int:
            right, wanted = (
                type(value) is int and 1 <= value <= MAX_SIZE,
                f"a whole number from 1 to {MAX_SIZE}",
            )
        elif kind is float:
            right = type(value) in (int, float) and np.isfinite(value) and value >= 0
            wanted = "a finite number of at least 0"
        else:
            right, wanted = type(value) is kind, "True or False" if kind is bool else "a text"
        if not right:
            raise InputError(f"{field.name} is {value!r}; wanted {wanted}.")


class Configured:
    """What the configurations of all learned optimizers have in common; each is a frozen dataclass."""

    name: ClassVar[str]  # its key in `mulo.optimizers.OPTIMIZERS`

    def __post_init__(self):
        """Refuses what cannot be built."""
        check_fields(self)

    def config(self) -> dict[str, Any]:
        """The fields, by name."""
        return dataclasses.asdict(self)
