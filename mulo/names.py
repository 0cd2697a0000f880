"""Look-up in a name table, with the nearest match in the error."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from mulo.errors import InputError
from mulo.printing import quoted

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """Returns `table[name]`.

    Args:
      table: what there is, by name.
      name: what was asked for.
      kind: what the table holds, in words, for the error: "preset", "data set".

    Raises:
      InputError: there is no such name; the message gives the nearest one, or all of them.

    >>> lookup({"pes": 1, "nres": 2}, "pess", "gradient estimator")
    Traceback (most recent call last):
    mulo.errors.InputError: No gradient estimator is called 'pess'. Did you mean 'pes'?
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(sorted(table)) or 'none'}."
    raise InputError(f"No {kind} is called {quoted(name)}. {hint}")
