"""JSON of unknown origin, in time linear in its length. Imports no JAX."""

import json
import re
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 16

# A string is taken whole, to the end of the text where it is never closed: so no place is looked at twice.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def parse_json(
    raw: bytes, max_depth: int = MAX_DEPTH, parse_constant: Callable[[str], Any] | None = None
) -> Any:
    """What the JSON text says.

    Args:
      raw: the text, UTF-8.
      max_depth: lists and objects within one another, at most.
      parse_constant: of "NaN" and the like, as `json.loads` takes it; by default they are read as such.

    Raises:
      ValueError: not JSON, or nested deeper; the message is a clause.

    >>> parse_json(b'{"a": [1]}'), parse_json(b"[[1]]", max_depth=2)
    ({'a': [1]}, [[1]])
    """
    depth = 0
    for token in _TOKEN.finditer(raw):
        if token[0] in b"[{":
            depth += 1
        elif token[0] in b"]}":
            depth -= 1
        if depth > max_depth:
            raise DepthError(f"nested deeper than {max_depth}")
    try:
        return json.loads(raw.decode(), parse_constant=parse_constant)  # of bytes it would guess the encoding
    except (ValueError, RecursionError) as error:  # a text that is not UTF-8 is a ValueError too
        raise ValueError("not JSON") from error


class DepthError(ValueError):
    """JSON that is nested deeper than is allowed."""
