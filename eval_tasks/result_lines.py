"""The lines of results files: their fields, and how one is read that may say anything. Imports no JAX.

The schema is published in docs/results-schema.md.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mulo.errors import InputError
from mulo.plain_json import DepthError, parse_json
from mulo.printing import printable

SCHEMA = 2
PURPOSES = ("evaluate", "tune")
MAX_TEXT = 120  # characters of a name that are kept
LARGEST = 1e50  # that a number may be: sums and squares of such can be computed
_SMALLEST = 1e-50  # of the numbers beside 0, for their quotients; what is smaller is 0

Record = Mapping[str, Any]
"""One finished run: all of `FIELDS`, checked; those that a line did not give have their default."""


class Field(NamedTuple):
    """A field of a line."""

    kind: str  # a key of `_KINDS`, perhaps followed by " or null"
    required: bool = False
    default: Any = None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "whole number": lambda value: isinstance(value, int) and _is_number(value) and 0 <= value < 2**63,
    "number": _is_number,
    "number or string": lambda value: _is_number(value) or isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
}

FIELDS: Mapping[str, Field] = {
    "schema": Field("whole number", required=True),
    "key": Field("string", required=True),
    "suite": Field("string", required=True),
    "size": Field("string", required=True),
    "series": Field("string", required=True),
    "axis": Field("string", required=True),
    "value": Field("number or string", required=True),
    "base_value": Field("number or string or null"),
    "num_seeds": Field("whole number", required=True),
    "optimizer": Field("string", required=True),
    "optimizer_config": Field("object", default={}),
    "tuned_at": Field("string", default=""),
    "parametrization": Field("string", default=""),
    "learning_rate": Field("number or null"),
    "purpose": Field("string", required=True),
    "task": Field("string", required=True),
    "width": Field("whole number or null"),
    "depth": Field("whole number or null"),
    "seed": Field("whole number", required=True),
    "num_steps": Field("whole number", required=True),
    "batch_size": Field("whole number or null"),
    "data_digest": Field("string", default=""),
    "data": Field("object", default={}),
    "jax_version": Field("string", default=""),
    "software": Field("object", default={}),
    "platform": Field("string", default=""),
    "runs_per_call": Field("whole number or null"),
    "suite_changes": Field("string", default=""),
    "device": Field("string", default=""),
    "unit": Field("string", required=True),
    "guessing_loss": Field("number or null"),
    "final_loss": Field("number or null", required=True),
    "tail_loss": Field("number or null"),
    "mean_loss": Field("number or null"),
    "validation_loss": Field("number or null"),
    "validation_accuracy": Field("number or null"),
    "diverged": Field("boolean", required=True),
    "losses": Field("object", default={"steps": [], "values": []}),
    "step_seconds": Field("number", default=0.0),
    "state_bytes": Field("whole number or null"),
    "params_bytes": Field("whole number or null"),
    "wall_seconds": Field("number", default=0.0),
    "versions": Field("object", default={}),
    "provenance": Field("object or null"),
}
"""The fields of a line, in the order in which `mulo-eval` writes them."""


def parse_line(line: bytes | str) -> Record:
    """One line of a results file, checked.

    Raises:
      InputError: it is not a finished run of schema 2; the message is a clause, without a full stop.

    >>> parse_line('{"schema": 1}')
    Traceback (most recent call last):
    mulo.errors.InputError: schema 1, wanted 2
    """
    raw = line.encode("utf-8", "replace") if isinstance(line, str) else line
    try:
        found = parse_json(raw, parse_constant=lambda _: None)  # NaN and Infinity, which are no JSON
    except DepthError as error:
        raise InputError(str(error)) from error
    except ValueError as error:
        raise InputError("not a whole line of JSON") from error
    if not isinstance(found, dict):
        raise InputError("not a JSON object")
    if found.get("schema") != SCHEMA:
        given = f"schema {_shown(found['schema'])}" if "schema" in found else "no schema is given"
        raise InputError(f"{given}, wanted {SCHEMA}")
    record = {name: _take(found, name, field) for name, field in FIELDS.items()}
    record["losses"] = _curve(record["losses"])
    if record["purpose"] not in PURPOSES:
        raise InputError(f"purpose is {_shown(record['purpose'])}, wanted {' or '.join(PURPOSES)}")
    record["device"] = record["device"] or str(record["versions"].get("device", ""))
    if not record["optimizer"].strip():
        raise InputError("optimizer is empty, wanted a name")
    if record["num_steps"] < 1:
        raise InputError("num_steps is 0, wanted at least 1")
    if record["diverged"]:
        record.update(final_loss=None, mean_loss=None, validation_loss=None, validation_accuracy=None)
    elif record["final_loss"] is None:
        raise InputError("final_loss is null though diverged is false")
    return record


def _take(found: Mapping[str, Any], name: str, field: Field) -> Any:
    if name not in found:
        if field.required:
            raise InputError(f"the field {name!r} is missing")
        return field.default
    value = found[name]
    kind = field.kind.removesuffix(" or null")
    if value is None and kind != field.kind:
        return None
    if not _KINDS[kind](value):
        raise InputError(f"{name} is {_shown(value)}, wanted {_with_article(field.kind)}")
    return _clean_all(value)


def _clean_all(value: Any) -> Any:
    """The value with all texts in it as `_clean` has them, keys too."""
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, list):
        return [_clean_all(item) for item in value]
    if isinstance(value, float):
        return _rounded(value)
    if isinstance(value, dict):
        return {_clean(key): _clean_all(item) for key, item in value.items()}
    return value


def _rounded(value: float) -> float:
    return 0.0 if abs(value) < _SMALLEST else value


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind.startswith("object") else f"a {kind}"


def _clean(text: str) -> str:
    """Text that can be printed anywhere, of bounded length; other text stays other text when it is cut."""
    shown = printable(text)
    if len(shown) <= MAX_TEXT:
        return shown
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{shown[: MAX_TEXT - 8]}… {digest}"


def _shown(value: Any) -> str:
    return _clean(json.dumps(value))[:40]


def _curve(losses: Mapping[str, Any]) -> Mapping[str, list]:
    steps, values = losses.get("steps"), losses.get("values")
    is_curve = (
        isinstance(steps, list)
        and isinstance(values, list)
        and len(steps) == len(values)
        and all(_is_number(step) for step in steps)
        and all(earlier < later for earlier, later in itertools.pairwise(steps))
    )
    if not is_curve:
        raise InputError("losses is not two lists of equal length, steps (rising) and values")
    return {"steps": steps, "values": [_rounded(value) if _is_number(value) else None for value in values]}
