"""idx files, packed or unpacked: the form of MNIST and Fashion-MNIST.

Two zero bytes, a code of the type, the number of dimensions, each dimension as a big-endian 32-bit number,
then the values: https://yann.lecun.com/exdb/mnist/.
"""

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

from eval_tasks.data.catalog import FileSet
from eval_tasks.data.files import read_bytes
from mulo.errors import InputError

_UNSIGNED_BYTE = 0x08
_MOST_RATIO = 1100  # of what is unpacked to what is packed, at most
_TYPES = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}


def read_idx(path: Path, files: FileSet, num_dims: int) -> np.ndarray:
    """The array of one idx file, uint8 of `num_dims` dimensions.

    Raises:
      InputError: it is no idx file, truncated, of another type or number of dimensions, or badly packed.
    """
    content = read_bytes(path, files)
    if path.suffix == ".gz":
        try:
            content = _unpack(content, num_dims)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{path} ({len(content):,} bytes) cannot be unpacked: it is truncated, damaged or no gzip "
                f"file. {files.advice}"
            ) from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in (_UNSIGNED_BYTE, *_TYPES):
        raise InputError(
            f"{path} begins with the bytes {content[:4].hex(' ') or 'none'}, expected 00 00 08 0{num_dims}; "
            f"it is no idx file. {files.advice}"
        )
    if content[2] != _UNSIGNED_BYTE or content[3] != num_dims:
        kind = _TYPES.get(content[2], "uint8")
        raise InputError(
            f"{path} holds {kind} of {content[3]} dimensions, expected uint8 of {num_dims}; it is another "
            f"file. {files.advice}"
        )
    header = 4 + 4 * num_dims
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4))
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected or not shape[0]:
        raise InputError(
            f"{path} has {len(content):,} bytes unpacked, expected {expected:,} for shape {shape}; it is "
            f"empty, truncated or damaged. {files.advice}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _unpack(packed: bytes, num_dims: int) -> bytes:
    """The content, and no more of it than its header speaks of and one byte, however much is packed."""
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
        header = file.read(4 + 4 * num_dims)
        lengths = (int.from_bytes(header[at : at + 4], "big") for at in range(4, len(header), 4))
        wanted = math.prod(lengths) if header[:2] == b"\0\0" else 0
        most = min(wanted, _MOST_RATIO * len(packed)) + 1  # what gzip can make of so many bytes
        return header + file.read(most)


def read_pair(
    paths: list[Path], files: FileSet, item_shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The images and the labels -> uint8 [N, 1, H, W] and int32 [N] from 0.

    Raises:
      InputError: as `read_idx`; or images of another size, another number of labels, or a label above 9.
    """
    images, labels = read_idx(paths[0], files, 3), read_idx(paths[1], files, 1)
    if images.shape[1:] != item_shape[1:]:
        raise InputError(
            f"{paths[0]} holds images of {images.shape[1:]} pixels, expected {item_shape[1:]}. {files.advice}"
        )
    if len(labels) != len(images) or labels.max() > 9:
        raise InputError(
            f"{paths[1]} holds {len(labels):,} labels up to {labels.max()}, expected {len(images):,} from 0 "
            f"to 9; the files do not belong together or are damaged. {files.advice}"
        )
    return images.reshape(-1, *item_shape), labels.astype(np.int32)


def count_images(path: Path) -> int | None:
    """Images that the header speaks of; `None` where it cannot be read."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
            return int.from_bytes(handle.read(8)[4:], "big")
    except (OSError, EOFError, zlib.error):
        return None
