"""Released theta files: their bytes -> arrays by name. Nothing in them is ever unpickled.

Two formats. flax's msgpack, as google/learned_optimization and Celo write it: the theta tree by itself, or
inside what is saved with it, {"params", "gen_id", "step"}. And safetensors, as PyTorch users write it.
"""

import struct
from typing import Any

import jax.numpy as jnp
import numpy as np

from mulo._body import Reader
from mulo._envelope import MAX_HEADER_BYTES, looks_like
from mulo.errors import CheckpointError
from mulo.extras import MissingPackageError, how_to_install
from mulo.printing import quoted

_WRAPPINGS = (({"params", "gen_id", "step"}, "params"), ({"0", "1", "2"}, "0"))
"""Keys of what a theta may be saved in, and the key of theta: a ParameterCheckpoint, a tuple."""

_NAMED_TUPLE = {"name", "fields", "values"}
"""How Flax wrote a NamedTuple until 2021; since then, as a dictionary of its fields."""

_CHUNKED = "__msgpack_chunked_array__"

_NUMBERS = {
    **{0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    **{0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}
"""msgpack's type bytes of numbers -> struct format."""
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}

MAX_TEXT_BYTES = 1024
"""Of a text beside the arrays, such as the name of a run."""


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a released theta file, by their path joined with "/".

    Memory: the arrays and little else, whatever the bytes say.

    Raises:
      CheckpointError: the bytes are of neither format, or damaged. The text begins in lower case, so that the
        name of the file can go before it.
    """
    if not data:
        raise CheckpointError("is empty; wanted a released theta file")
    if data[4:9] == b"\0\0\0\0{":
        return _read_safetensors(data)
    is_pickle = data[0] == 0x80 and data[1:2] in (b"\2", b"\3", b"\4", b"\5")
    if is_pickle or not (0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF)):
        advice = ". Where you trust it, write its theta with flax.serialization.to_bytes" if is_pickle else ""
        raise CheckpointError(
            f"is neither a msgpack file of Flax nor a safetensors file{looks_like(data[:512])}{advice}"
        )
    reader = _FlaxReader(memoryview(data))
    tree = reader.read_map(1)
    reader.finish()
    theta = next((tree[name] for keys, name in _WRAPPINGS if set(tree) == keys), tree)
    arrays: dict[str, np.ndarray] = {}
    _flatten(theta, (), arrays)
    return arrays


class _FlaxReader(Reader):
    """Reads what `flax.serialization.to_bytes` writes: beside arrays also scalars, texts and numbers."""

    what = "the theta"
    array_codes = (1, 3)  # extension types of an array and of a NumPy scalar, which is written like one

    def read_map(self, depth: int) -> dict[str, Any]:
        node = super().read_map(depth)
        if _CHUNKED in node:
            raise CheckpointError(
                "holds an array in chunks, as Flax writes those of more than 2^30 bytes; no theta is so large"
            )
        return node

    def read_leaf(self, key: str) -> Any:
        byte = self.next_byte()
        if 0xA0 <= byte <= 0xBF or byte in (0xD9, 0xDA, 0xDB):
            return self.read_str(MAX_TEXT_BYTES)
        if 0x00 <= byte <= 0x7F or byte >= 0xE0:
            (number,) = struct.unpack(">b", self.take(1))
            return number
        if byte in _NUMBERS:
            form = _NUMBERS[byte]
            self.take(1)
            (number,) = struct.unpack(form, self.take(struct.calcsize(form)))
            return number
        if byte in _CONSTANTS:
            self.take(1)
            return _CONSTANTS[byte]
        return self.read_array(key)


def _flatten(node: Any, path: tuple[str, ...], arrays: dict[str, np.ndarray]) -> None:
    name = "/".join(path)
    if isinstance(node, dict):
        for key, value in _fields(node).items():
            _flatten(value, (*path, key), arrays)
    elif not isinstance(node, np.ndarray):
        raise CheckpointError(f"leaf {quoted(name)} is {quoted(node)}; wanted an array")
    elif name in arrays:
        raise CheckpointError(f"has two leaves called {quoted(name)}")
    else:
        arrays[name] = node


def _fields(node: dict[str, Any]) -> dict[str, Any]:
    """The dictionary itself, or the fields of the NamedTuple that it stands for."""
    if set(node) != _NAMED_TUPLE:
        return node
    names, values = node["fields"], node["values"]
    if not isinstance(names, dict) or not isinstance(values, dict) or set(names) != set(values):
        return node
    if not all(isinstance(name, str) for name in names.values()):
        return node
    return {names[index]: values[index] for index in names}


_SAFETENSORS_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16"},
    **{"I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"},
}


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    try:
        from safetensors import deserialize
    except ImportError as error:
        raise MissingPackageError(
            f"is a safetensors file, which mulo reads with the package safetensors: {how_to_install('hub')}"
        ) from error
    header_bytes = int.from_bytes(data[:8], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"declares a header of {header_bytes} bytes; at most {MAX_HEADER_BYTES} are allowed"
        )
    try:
        tensors = deserialize(data)
    except Exception as error:  # a class of its own
        raise CheckpointError(f"is a damaged safetensors file: {quoted(str(error))}") from error
    arrays = {}
    for name, tensor in tensors:
        dtype = _SAFETENSORS_DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise CheckpointError(
                f"leaf {quoted(name)} has dtype {quoted(tensor['dtype'])}; wanted F32, or BF16, F16 or F64, "
                "which are converted"
            )
        array = np.frombuffer(tensor["data"], jnp.bfloat16 if dtype == "bfloat16" else dtype)
        try:
            arrays[name] = array.reshape(tensor["shape"])
        except ValueError as error:  # an empty array whose other lengths overflow
            raise CheckpointError(f"leaf {quoted(name)} has a shape that is too large") from error
    return arrays
