"""CIFAR-10 from its standard binary files, full size or average-pooled to 16x16 or 8x8."""

import sys
from pathlib import Path

import numpy as np

from eval_tasks.data.files import data_folder
from eval_tasks.data.source import DataSource, make_source
from mulo.errors import InputError

_SUBFOLDER = "cifar-10-batches-bin"
_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_RECORD_BYTES = 1 + 3 * 32 * 32  # label, then the planes R, G, B
_FILE_BYTES = 10_000 * _RECORD_BYTES
_ADVICE = (
    f"Each data_batch file has {_FILE_BYTES:,} bytes. Get "
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, "
    f"unpack it (folder {_SUBFOLDER}) and set MULO_DATA_DIR to the folder that holds it."
)


def read_cifar10(name: str, data_dir: str | Path | None, *, size: int) -> DataSource:
    """Reads the training batches that are there, all five or fewer.

    Args:
      name: of the data set, for the source.
      data_dir: see `eval_tasks.data.load_data`.
      size: 32, 16 or 8 pixels a side.

    Raises:
      InputError: data_batch_1.bin is not there, or a file is truncated or holds a label above 9.
    """
    folder = data_folder(data_dir, _SUBFOLDER, _FILES[0], _ADVICE)
    paths = [folder / file for file in _FILES if (folder / file).is_file()]
    records = np.concatenate([_read_records(path) for path in paths])
    # After all errors: an error is the only line.
    if len(paths) < len(_FILES):
        print(  # noqa: T201
            f"{name}: {len(paths)} of the {len(_FILES)} training files are in {folder}; using those.",
            file=sys.stderr,
        )
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return make_source(
        name,
        pool(images, 32 // size),
        records[:, 0],
        num_classes=10,
        train_fraction=0.9,
        files=tuple(path.name for path in paths),
    )


def _read_records(path: Path) -> np.ndarray:
    """[N, 3073], uint8."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. {_ADVICE}") from error
    if not content or len(content) % _RECORD_BYTES:
        raise InputError(
            f"{path} has {len(content):,} bytes, expected {_FILE_BYTES:,} (records of {_RECORD_BYTES:,}); "
            f"it is empty, truncated or another file. {_ADVICE}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD_BYTES)
    largest = int(records[:, 0].max())
    if largest > 9:
        raise InputError(
            f"{path} ({len(content):,} bytes) holds a label of {largest}, expected 0 to 9; it is damaged "
            f"or not a CIFAR-10 binary file. {_ADVICE}"
        )
    return records


def pool(images: np.ndarray, factor: int) -> np.ndarray:
    """Averages squares of pixels. [N, H, W, C] -> [N, H/factor, W/factor, C], uint8, rounded."""
    num, height, width, channels = images.shape
    squares = images.reshape(num, height // factor, factor, width // factor, factor, channels)
    sums = squares.sum(axis=(2, 4), dtype=np.uint32)
    # In whole numbers, halves up: the same on every machine.
    return ((sums + factor * factor // 2) // (factor * factor)).astype(np.uint8)
