"""Checkpoint files of every kind: magic bytes, header, body; written atomically, read with suspicion.

    magic (8 bytes) | header length (unsigned 32 bits, little-endian) | header (JSON) | body (msgpack)

The header holds "sha256", over the rest of the header and the body. It guards against accidents, not
against an attacker, so what passes it is still checked.
"""

import hashlib
import json
import os
import stat
import struct
from pathlib import Path
from typing import Any, NoReturn

from mulo._body import pack_body, unpack_body
from mulo.errors import CheckpointError, InputError
from mulo.plain_json import DepthError, parse_json
from mulo.printing import quoted, shell_quoted, shown
from mulo.safe_files import open_at, write_atomically

MAGIC = b"\x89mulo\r\n\x1a"
FORMAT = "mulo-checkpoint"
VERSION = 1
MAX_HEADER_BYTES = 2**20
MAX_HEADER_DEPTH = 16
_RESERVED = ("format", "version", "kind", "body_bytes", "sha256")
_LENGTH = struct.Struct("<I")
_START_BYTES = 512  # that say what a file seems to be
_IMPORTABLE = ("a safetensors file", "a msgpack file, as Flax writes them")


def write_file(
    path: str | os.PathLike[str],
    *,
    kind: str,
    header: dict[str, Any],
    body: dict[str, Any],
    max_bytes: int | None = None,
) -> None:
    """Writes a checkpoint file; at every moment `path` is the old file or the whole new one.

    Args:
      path: where to; its folder must exist. A file that is there is replaced.
      kind: what it is for: "theta", "run-state". Reading asks for it again.
      header: JSON values, beside the format's own fields.
      body: nested dictionaries with string keys; leaves are NumPy or JAX arrays (see `to_body`).
      max_bytes: refuse to write a larger file than this.

    Raises:
      InputError: header or body cannot be stored.
      CheckpointError: the file cannot be written (no such folder, no permission, disk full). The old file
        is untouched and no temporary file is left, unless the process is killed outright.
    """
    pieces = pack_body(body)
    head = _encode_head(kind, header, pieces)
    num_bytes = len(head) + sum(map(len, pieces))
    if max_bytes is not None and num_bytes > max_bytes:
        raise InputError(f"{shown(path)}: would have {num_bytes} bytes; at most {max_bytes} are allowed.")
    if os.path.isdir(path):  # noqa: PTH112
        raise CheckpointError(f"{shown(path)}: is a folder; wanted the name of a file to write.")
    try:
        write_atomically(path, [head, *pieces])
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise CheckpointError(f"{shown(path)}: its folder does not exist. Make it first.") from error
        raise CheckpointError(f"{shown(path)}: cannot be written: {_reason(error)}.") from error


def read_file(
    path: str | os.PathLike[str], *, kind: str, max_bytes: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads and verifies a checkpoint file.

    Args:
      path: the file.
      kind: as it was written with.
      max_bytes: a larger file is refused unread.

    Returns:
      The header (the caller's fields and the format's own); the body, nested dictionaries of writable NumPy
      arrays. Structure, shapes and values are those of the file: see `fit`.

    Raises:
      CheckpointError: whatever is wrong with the file, in one line.
    """
    data = memoryview(read_bytes(path, max_bytes))
    try:
        header, head_bytes = _decode_head(data, kind)
        return header, unpack_body(data[head_bytes:])
    except CheckpointError as error:
        advice = _how_to_import(path, bytes(data[:_START_BYTES])) if kind == "theta" else ""
        raise CheckpointError(f"{shown(path)}: {error}.{advice}") from error.__cause__


def _how_to_import(path: str | os.PathLike[str], start: bytes) -> str:
    """What to do with a file that may be a theta of other software; may be empty."""
    if not looks_like(start).endswith(_IMPORTABLE):
        return ""
    file = Path(os.fsdecode(path))
    out = file.stem.removesuffix(".mulo") + "-imported.mulo"
    return (
        " If it is a theta that other software trained: "
        f"mulo-eval import {shell_quoted(file)} --as KIND -o {shell_quoted(out)} (mulo-eval import --help "
        "lists the kinds)."
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or quoted(str(error))


def read_bytes(path: str | os.PathLike[str], max_bytes: int, what: str = "a checkpoint file") -> bytes:
    """The bytes of a regular file of at most `max_bytes`; anything else is a `CheckpointError`.

    `what` is wanted, for the error.
    """

    def refuse(text: str, error: Exception | None = None) -> NoReturn:
        raise CheckpointError(f"{shown(path)}: {text}") from error

    try:
        descriptor = open_at(path, os.O_RDONLY)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                refuse(f"is a folder; wanted {what}.")
            if not stat.S_ISREG(status.st_mode):
                refuse(f"is not a regular file; wanted {what}.")
            if status.st_size > max_bytes:
                refuse(f"has {status.st_size} bytes; wanted {what} of at most {max_bytes}.")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(status.st_size)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        refuse(f"no such file. Wanted {what}.", error)
    except PermissionError as error:
        refuse("may not be read (permission denied).", error)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        refuse(f"cannot be read: {_reason(error)}.", error)


def _encode_json(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _digest(header: dict[str, Any], body: list[bytes] | list[memoryview]) -> str:
    digest = hashlib.sha256(_encode_json({key: value for key, value in header.items() if key != "sha256"}))
    for piece in body:
        digest.update(piece)
    return digest.hexdigest()


def _encode_head(kind: str, header: dict[str, Any], pieces: list[bytes]) -> bytes:
    """Everything before the body."""
    taken = [key for key in _RESERVED if key in header]
    if taken:
        raise InputError(f"The header field {taken[0]!r} belongs to the format. Call it otherwise.")
    own = {"format": FORMAT, "version": VERSION, "kind": kind, "body_bytes": sum(map(len, pieces))}
    full = {**header, **own}
    try:
        full["sha256"] = _digest(full, pieces)
        encoded = _encode_json(full)
        if _encode_json(_parse_json(encoded)) != encoded:
            raise TypeError("the keys of dictionaries must be strings")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"The header cannot be stored as JSON: {quoted(str(error))}.") from error
    return MAGIC + _LENGTH.pack(len(encoded)) + encoded


def _parse_json(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_HEADER_BYTES:
        raise CheckpointError(f"the header has {len(raw)} bytes; at most {MAX_HEADER_BYTES} are allowed")
    try:
        header = parse_json(raw, MAX_HEADER_DEPTH)
    except DepthError as error:
        raise CheckpointError(f"the header is {error}") from error
    except ValueError as error:
        raise CheckpointError("the header is not JSON; the file is damaged") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"the header is a {type(header).__name__}; wanted a dictionary")
    return header


def _decode_head(data: memoryview, kind: str) -> tuple[dict[str, Any], int]:
    """The header, verified with the body behind it, and where the body begins."""
    start = len(MAGIC) + _LENGTH.size
    if not data:
        raise CheckpointError("is empty; wanted a checkpoint file")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise CheckpointError(f"is not a checkpoint file of mulo{looks_like(bytes(data[:_START_BYTES]))}")
    if len(data) < start:
        raise CheckpointError(f"has only {len(data)} bytes, too few for a checkpoint file; it was cut short")
    (header_bytes,) = _LENGTH.unpack(data[len(MAGIC) : start])
    body_start = start + header_bytes
    if header_bytes > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"declares a header of {header_bytes} bytes; at most {MAX_HEADER_BYTES} are allowed"
        )
    if len(data) < body_start:
        raise CheckpointError("ends inside its header; it was cut short")
    raw = bytes(data[start:body_start])
    header = _parse_json(raw)
    _check_header(header, raw, kind, len(data) - body_start)
    if header.get("sha256") != _digest(header, [data[body_start:]]):
        raise CheckpointError("is damaged: its SHA-256 is not the one in its header. Fetch or make it again")
    return header, body_start


def _check_header(header: dict[str, Any], raw: bytes, kind: str, num_body_bytes: int) -> None:
    if header.get("format") != FORMAT:
        raise CheckpointError(f"has the format {quoted(header.get('format'))}; wanted {FORMAT!r}")
    version = header.get("version")
    if type(version) is not int or version < 1:
        raise CheckpointError(f"has the format version {quoted(version)}; wanted a whole number from 1")
    if version > VERSION:
        raise CheckpointError(
            f"has format version {quoted(version)}, this mulo reads up to {VERSION}: it was written by a "
            "newer mulo. Upgrade mulo"
        )
    if header.get("kind") != kind:
        raise CheckpointError(f"is of kind {quoted(header.get('kind'))}; wanted {kind!r}")
    wanted = header.get("body_bytes")
    if type(wanted) is not int or wanted != num_body_bytes:
        raise CheckpointError(
            f"has a body of {num_body_bytes} bytes, its header says {quoted(wanted)}; it was cut short or "
            "added to"
        )
    try:
        canonical = _encode_json(header)
    except ValueError as error:
        raise CheckpointError("has NaN or an infinity in its header; the file is damaged") from error
    # One header has one spelling, so that no changed byte can go unnoticed (white space, duplicate keys).
    if canonical != raw:
        raise CheckpointError("has a header that mulo would have written differently; the file is damaged")


def looks_like(start: bytes) -> str:
    """What a file that begins with these bytes seems to be, to be put into an error; may be empty."""
    if start.startswith(b"version https://git-lfs"):
        return ": it is a Git LFS pointer. Fetch the file itself with `git lfs pull`"
    if len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= 5:
        return ": it looks like a pickle, which mulo never opens, since that can run code"
    archives = {b"PK": "a zip or .npz archive", b"\x1f\x8b": "a gzip file", b"\x93NUMPY": "a .npy file"}
    for magic, name in archives.items():
        if start.startswith(magic):
            return f": it looks like {name}"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32:
        return ": it looks like a safetensors file"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return ": it looks like text"
    if 0x80 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF):
        return ": it could be a msgpack file, as Flax writes them"
    return ""
