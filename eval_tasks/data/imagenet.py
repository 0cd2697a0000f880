"""Downsampled ImageNet: its standard npz batches, mapped from the disk where they are not compressed."""

import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from eval_tasks.data.catalog import FileSet
from mulo.errors import InputError
from mulo.printing import shown

NUM_CLASSES = 1000
_BLOCK = 1 << 20
_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name and its extra field


def read_batch(path: Path, files: FileSet, item_shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One npz batch -> images, uint8 [N, 3, H, W], and labels, int32 [N] from 0.

    The images are a read-only memory map of the file, after its checksum was compared; of a compressed file,
    an array.

    Raises:
      InputError: it is truncated or of another form.
    """
    num_bytes = int(np.prod(item_shape))
    try:
        data = _read_array(path, "data.npy")
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            labels = np.asarray(file["labels"])
    except Exception as error:  # zipfile and NumPy have many: MemoryError for a shape that is a lie, too
        raise InputError(
            f"{shown(path)} ({path.stat().st_size:,} bytes) cannot be read: it is truncated or another "
            f"file. {files.advice}"
        ) from error
    well_formed = data.dtype == np.uint8 and data.shape[1:] == (num_bytes,) and labels.shape == data.shape[:1]
    if not well_formed or not len(data):
        raise InputError(
            f"{path} holds data {data.dtype} {data.shape} and labels {labels.shape}; expected "
            f"uint8 (N, {num_bytes}) and (N,). {files.advice}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 1 or labels.max() > NUM_CLASSES:
        raise InputError(
            f"{path} holds labels outside 1 to {NUM_CLASSES}; it is damaged or another file. {files.advice}"
        )
    return data.reshape(-1, *item_shape), labels.astype(np.int32) - 1


def _read_array(path: Path, member: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED:
            with archive.open(member) as handle:
                return np.lib.format.read_array(handle, allow_pickle=False)
        with archive.open(member) as handle:  # to the end: zipfile compares the checksum there
            shape, fortran_order, dtype = _read_header(handle)
            offset = handle.tell()
            while handle.read(_BLOCK):
                pass
    if fortran_order or dtype.hasobject:
        raise ValueError("not in C order")
    with path.open("rb") as handle:
        handle.seek(info.header_offset)
        local = handle.read(_LOCAL_HEADER)
    name_and_extra = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    start = info.header_offset + _LOCAL_HEADER + name_and_extra
    return np.memmap(path, dtype, "r", start + offset, shape)


def _read_header(handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(handle)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(handle)


def count_images(path: Path) -> int | None:
    """Images that the header speaks of; `None` where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("data.npy") as handle:
            return int(_read_header(handle)[0][0])
    except Exception:  # as above
        return None
