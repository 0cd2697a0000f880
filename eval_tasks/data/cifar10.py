"""CIFAR-10's standard binary files."""

from pathlib import Path

import numpy as np

from eval_tasks.data.catalog import FileSet
from eval_tasks.data.files import read_bytes
from mulo.errors import InputError

_RECORD_BYTES = 1 + 3 * 32 * 32  # label, then the planes R, G, B
_FILE_BYTES = 10_000 * _RECORD_BYTES


def read_batch(path: Path, files: FileSet, item_shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One data_batch file -> images, uint8 [N, 3, 32, 32], and labels, int32 [N] from 0.

    Raises:
      InputError: it is truncated or holds a label above 9.
    """
    content = read_bytes(path, files)
    if not content or len(content) % _RECORD_BYTES:
        raise InputError(
            f"{path} has {len(content):,} bytes, expected {_FILE_BYTES:,} (records of {_RECORD_BYTES:,}); "
            f"it is empty, truncated or another file. {files.advice}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD_BYTES)
    largest = int(records[:, 0].max())
    if largest > 9:
        raise InputError(
            f"{path} ({len(content):,} bytes) holds a label of {largest}, expected 0 to 9; it is damaged "
            f"or not a CIFAR-10 binary file. {files.advice}"
        )
    return records[:, 1:].reshape(-1, *item_shape), records[:, 0].astype(np.int32)


def count_images(path: Path) -> int:
    """Images in a file, from its size."""
    return path.stat().st_size // _RECORD_BYTES
