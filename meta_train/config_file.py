"""Configurations as TOML: what a user writes, and what `mulo-meta-train config` prints. Imports no JAX."""

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

from meta_train.config import MetaTrainConfig, check_field
from meta_train.presets import PRESETS
from mulo.errors import InputError
from mulo.names import lookup

_MAX_BYTES = 2**20
_FIELDS = {field.name: field for field in dataclasses.fields(MetaTrainConfig)}


def read_config_file(path: Path) -> tuple[str | None, dict[str, Any]]:
    """The preset that a TOML file starts from, if it names one, and the fields that it sets.

    Raises:
      InputError: the file cannot be read, is not TOML, has an unknown key or a value of a wrong type.
    """
    try:
        content = tomllib.loads(_read(path).decode())
    except OSError as error:
        raise InputError(f"--config {path} cannot be read: {error.strerror}.") from error
    except RecursionError as error:
        raise InputError(f"--config {path} is no configuration: it is nested too deeply.") from error
    except ValueError as error:  # wrong TOML, or not UTF-8
        raise InputError(f"--config {path} is not TOML: {str(error).splitlines()[0]}.") from error
    preset = content.pop("preset", None)
    try:
        if preset is not None:
            lookup(PRESETS, preset if isinstance(preset, str) else repr(preset), "preset")
        fields = {}
        for name, value in content.items():
            field = lookup(_FIELDS, name, "field of the configuration")
            fields[name] = check_field(field, tuple(value) if isinstance(value, list) else value)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return preset, fields


def _read(path: Path) -> bytes:
    """At most a mebibyte, of a pipe too."""
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES} bytes")
    return content


def to_toml(config: MetaTrainConfig) -> str:
    """Every field that the learned optimizer has, with its meaning, as TOML that `read_config_file` reads.

    >>> print(to_toml(PRESETS["quick"]).splitlines()[1])
    tasks = ["mlp-w8-d2_digits", "mlp-w16-d2_digits", "mlp-w32-d2_digits"]
    """
    lines = []
    for name, value in config.to_dict().items():
        lines.append(f"# {_FIELDS[name].metadata['help']}")
        lines.append(f"{name} = {json.dumps(value)}")  # of these types, TOML too
    return "\n".join(lines) + "\n"
