"""The body of a checkpoint file: nested dictionaries of arrays, as msgpack.

The bytes are those of `flax.serialization.msgpack_serialize`: maps with string keys, and each array as
extension type 1 holding [shape, dtype name, bytes]. Reading accepts just this and nothing else.
"""

# The reader is our own because those of msgpack and flax build whatever the bytes say before anyone can
# look at it: 8 MB of empty lists become 585 MB, and negative shapes, duplicate keys, structured dtypes and
# unknown extension types get through.

import math
import struct
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np

from mulo.errors import CheckpointError, InputError
from mulo.printing import quoted

MAX_DEPTH = 16
MAX_ENTRIES = 100_000
"""Keys in the whole body."""
MAX_KEY_BYTES = 1024
MAX_RANK = 32
MAX_LEAF_BYTES = 2**31

DTYPES = {
    np.dtype(dtype).name: np.dtype(dtype)
    for dtype in (
        *(jnp.float64, jnp.float32, jnp.float16, jnp.bfloat16),
        *(jnp.int64, jnp.int32, jnp.uint32, jnp.uint8, jnp.bool_),
    )
}
_ARRAY_CODE = 1


def pack_body(body: dict[str, Any]) -> list[bytes]:
    """The body's bytes, in pieces to be written one after another.

    Raises:
      InputError: not nested dictionaries with string keys, or a leaf is not an array of a known dtype.
    """
    pieces: list[bytes] = []
    num_entries = _pack_node(body, (), pieces)
    if num_entries > MAX_ENTRIES:
        raise InputError(f"The body has {num_entries} entries; at most {MAX_ENTRIES} are allowed.")
    return pieces


def _pack_node(node: Any, path: tuple[str, ...], pieces: list[bytes]) -> int:
    """Appends the bytes of one dictionary or array; returns how many entries are in it."""
    if not isinstance(node, dict):
        if not path:
            raise InputError(f"The body is a {type(node).__name__}; wanted a dictionary of arrays.")
        pieces.append(_pack_array(node, "/".join(path)))
        return 0
    if len(path) >= MAX_DEPTH:
        raise InputError(f"The body is nested deeper than {MAX_DEPTH} at {quoted('/'.join(path))}.")
    pieces.append(msgpack.Packer().pack_map_header(len(node)))
    num_entries = len(node)
    for key, value in node.items():
        if not isinstance(key, str) or not key.isprintable() or len(key.encode()) > MAX_KEY_BYTES:
            raise InputError(
                f"The body has the key {quoted(key)}; wanted printable text of up to {MAX_KEY_BYTES} bytes."
            )
        pieces.append(msgpack.packb(key))
        num_entries += _pack_node(value, (*path, key), pieces)
    return num_entries


def _pack_array(leaf: Any, name: str) -> bytes:
    try:
        array = np.asarray(leaf)
    except TypeError as error:  # typed random keys
        raise InputError(
            f"Leaf {quoted(name)} is no plain array; of a random key, store jax.random.key_data(key)."
        ) from error
    dtype = DTYPES.get(array.dtype.name)
    if dtype is None:
        raise InputError(f"Leaf {quoted(name)} has dtype {array.dtype}; wanted one of {', '.join(DTYPES)}.")
    if array.nbytes >= MAX_LEAF_BYTES or array.ndim > MAX_RANK:
        raise InputError(
            f"Leaf {quoted(name)} has {array.nbytes} bytes and rank {array.ndim}; "
            f"wanted less than {MAX_LEAF_BYTES} bytes and a rank of at most {MAX_RANK}."
        )
    fields = (array.shape, array.dtype.name, array.astype(dtype, copy=False).tobytes())
    return msgpack.packb(msgpack.ExtType(_ARRAY_CODE, msgpack.packb(fields)))


def unpack_body(data: memoryview) -> dict[str, Any]:
    """Nested dictionaries of writable arrays.

    Memory: the arrays and little else, whatever the bytes say.

    Raises:
      CheckpointError: the bytes are not what `pack_body` writes.
    """
    reader = Reader(data)
    body = reader.read_map(1)
    reader.finish()
    return body


class Reader:
    """Reads the few msgpack forms that a body uses, one after another."""

    what = "the body"
    """What is read, for the errors."""
    array_codes: tuple[int, ...] = (_ARRAY_CODE,)

    def __init__(self, data: memoryview):
        self.data = data
        self.position = 0
        self.num_entries = 0

    def take(self, num_bytes: int) -> memoryview:
        end = self.position + num_bytes
        if end > len(self.data):
            raise CheckpointError(f"{self.what} ends in the middle of a value")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def next_byte(self) -> int:
        """The type byte of the next value; -1 at the end."""
        return self.data[self.position] if self.position < len(self.data) else -1

    def finish(self, what: str = "") -> None:
        """Refuses bytes that are left after `what`, which is all that there is to read unless it is said."""
        if self.position != len(self.data):
            raise CheckpointError(
                f"there are {len(self.data) - self.position} bytes too many after {what or self.what}"
            )

    def read_size(self, what: str, short: tuple[int, int] | None, long: dict[int, str]) -> int:
        """The size or number at the head of a value.

        Args:
          what: the kind of value wanted, for the error.
          short: first and last type byte of the form that has its size inside, if there is one.
          long: type byte -> struct format of the size that follows.
        """
        (byte,) = self.take(1)
        if short and short[0] <= byte <= short[1]:
            return byte - short[0]
        if byte not in long:
            raise CheckpointError(f"{self.what} has msgpack type 0x{byte:02x} where {what} is wanted")
        (size,) = struct.unpack(long[byte], self.take(struct.calcsize(long[byte])))
        return size

    def read_str(self, max_bytes: int) -> str:
        size = self.read_size("a string", (0xA0, 0xBF), {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"})
        if size > max_bytes:
            raise CheckpointError(
                f"{self.what} holds a name of {size} bytes; at most {max_bytes} are allowed"
            )
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.what} holds a name that is not UTF-8") from None

    def read_map(self, depth: int) -> dict[str, Any]:
        size = self.read_size("a dictionary", (0x80, 0x8F), {0xDE: ">H", 0xDF: ">I"})
        self.num_entries += size
        if self.num_entries > MAX_ENTRIES:
            raise CheckpointError(
                f"{self.what} declares {self.num_entries} entries; at most {MAX_ENTRIES} are allowed"
            )
        if depth > MAX_DEPTH:
            raise CheckpointError(f"{self.what} is nested deeper than {MAX_DEPTH}")
        node: dict[str, Any] = {}
        for _ in range(size):
            key = self.read_str(MAX_KEY_BYTES)
            if key in node:
                raise CheckpointError(f"{self.what} has the key {quoted(key)} twice")
            byte = self.next_byte()
            is_map = 0x80 <= byte <= 0x8F or byte in (0xDE, 0xDF)
            node[key] = self.read_map(depth + 1) if is_map else self.read_leaf(key)
        return node

    def read_leaf(self, key: str) -> Any:
        """The next value, which is no dictionary."""
        return self.read_array(key)

    def read_array(self, key: str) -> np.ndarray:
        fixed = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
        if self.next_byte() in fixed:
            size = fixed[self.take(1)[0]]
        else:
            size = self.read_size("a dictionary or an array", None, {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"})
        (code,) = self.take(1)
        if code not in self.array_codes:
            raise CheckpointError(f"leaf {quoted(key)} has extension type {code}; wanted {_ARRAY_CODE}")
        return type(self)(self.take(size)).read_array_fields(key)

    def read_array_fields(self, key: str) -> np.ndarray:
        if self.read_size("an array's fields", (0x90, 0x9F), {}) != 3:
            raise CheckpointError(f"leaf {quoted(key)} has not the three fields of an array")
        rank = self.read_size("a shape", (0x90, 0x9F), {0xDC: ">H"})
        if rank > MAX_RANK:
            raise CheckpointError(f"leaf {quoted(key)} has rank {rank}; at most {MAX_RANK} is allowed")
        integer = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
        shape = tuple(self.read_size("a length", (0x00, 0x7F), integer) for _ in range(rank))
        name = self.read_str(MAX_KEY_BYTES)
        if name not in DTYPES:
            raise CheckpointError(
                f"leaf {quoted(key)} has dtype {quoted(name)}; wanted one of {', '.join(DTYPES)}"
            )
        raw = self.take(self.read_size("bytes", None, {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}))
        self.finish(f"leaf {quoted(key)}")
        return _make_array(raw, shape, DTYPES[name], key)


def _make_array(raw: memoryview, shape: tuple[int, ...], dtype: np.dtype, key: str) -> np.ndarray:
    needed = math.prod(shape) * dtype.itemsize
    if len(raw) != needed:
        raise CheckpointError(
            f"leaf {quoted(key)} of shape {quoted(shape)} and dtype {dtype} has {len(raw)} bytes; "
            f"wanted {quoted(needed)}"
        )
    # An empty array may have any lengths beside the 0; NumPy refuses those whose product overflows.
    if math.prod(max(length, 1) for length in shape) * dtype.itemsize > MAX_LEAF_BYTES:
        raise CheckpointError(f"leaf {quoted(key)} has shape {quoted(shape)}, which is too large")
    if dtype == np.bool_ and raw and np.frombuffer(raw, np.uint8).max() > 1:
        raise CheckpointError(f"leaf {quoted(key)} of dtype bool holds bytes other than 0 and 1")
    array = np.empty(shape, dtype)
    if raw:
        array.reshape(-1).view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
    return array
