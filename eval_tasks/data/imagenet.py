"""ImageNet, downsampled to 32x32, from its standard npz batches."""

import sys
import zipfile
from pathlib import Path

import numpy as np

from eval_tasks.data.files import data_folder
from eval_tasks.data.source import DataSource, make_source
from mulo.errors import InputError

_SUBFOLDER = "Imagenet32_train_npz"
_FILES = tuple(f"train_data_batch_{number}.npz" for number in range(1, 11))
_NUM_CLASSES = 1000
_ADVICE = (
    "Each train_data_batch file has about 400 MB (128,116 images as uint8 [N, 3072], labels 1 to 1000). Get "
    "'Imagenet32 train (npz format)' from https://image-net.org/download-images (free account) and set "
    "MULO_DATA_DIR to the folder that holds the unpacked files."
)


def read_imagenet32(name: str, data_dir: str | Path | None) -> DataSource:
    """Reads the training batches that are there, all ten or fewer.

    Raises:
      InputError: train_data_batch_1.npz is not there, or a file is truncated or of another form.
    """
    folder = data_folder(data_dir, _SUBFOLDER, _FILES[0], _ADVICE)
    paths = [folder / file for file in _FILES if (folder / file).is_file()]
    batches = [_read_batch(path) for path in paths]
    # After all errors: an error is the only line.
    if len(paths) < len(_FILES):
        print(  # noqa: T201
            f"{name}: {len(paths)} of the {len(_FILES)} training files are in {folder}; using those.",
            file=sys.stderr,
        )
    flat = np.concatenate([data for data, _ in batches])
    return make_source(
        name,
        flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1),
        np.concatenate([labels for _, labels in batches]),
        num_classes=_NUM_CLASSES,
        train_fraction=0.9,
        files=tuple(path.name for path in paths),
    )


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 3072], uint8, and labels [N] from 0."""
    try:
        # Opened here: np.load leaves its own handle open where the archive is damaged.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            data, labels = file["data"], np.asarray(file["labels"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read: it is truncated or another "
            f"file. {_ADVICE}"
        ) from error
    if data.dtype != np.uint8 or data.shape[1:] != (3072,) or labels.shape != data.shape[:1] or not len(data):
        raise InputError(
            f"{path} holds data {data.dtype} {data.shape} and labels {labels.shape}; expected "
            f"uint8 (N, 3072) and (N,). {_ADVICE}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 1 or labels.max() > _NUM_CLASSES:
        raise InputError(
            f"{path} holds labels outside 1 to {_NUM_CLASSES}; it is damaged or another file. {_ADVICE}"
        )
    return data, labels.astype(np.int32) - 1
