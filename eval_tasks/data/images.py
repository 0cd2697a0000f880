"""The one loader of all image sets that come in files: reads, pools and splits them."""

import importlib
import sys
from pathlib import Path

import numpy as np

from eval_tasks.data.catalog import FILE_SETS, IMAGE_FORMS
from eval_tasks.data.files import find_files, report_unpublished
from eval_tasks.data.source import DataSource, Placement, make_source

_READERS = {
    "cifar10": "eval_tasks.data.cifar10",
    "mnist": "eval_tasks.data.idx",
    "fashion-mnist": "eval_tasks.data.idx",
    "imagenet32": "eval_tasks.data.imagenet",
    "imagenet64": "eval_tasks.data.imagenet",
}


class StoredImages:
    """Images as they lie in files or memory, read, transposed and pooled when asked for.

    Args:
      parts: uint8 [N_i, C, H, W] each, arrays or memory maps.
      size: pixels a side after pooling; H is a multiple of it.
    """

    def __init__(self, parts: list[np.ndarray], size: int):
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        channels, height, _ = parts[0].shape[1:]
        self._factor = height // size
        self.shape = (int(self._ends[-1]), size, size, channels)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Images [..., H, W, C], uint8, at `index` [...], integers."""
        flat = np.ravel(index)
        images = np.empty((len(flat), *self.shape[1:]), np.uint8)
        part_of = np.searchsorted(self._ends, flat, side="right")
        for number, part in enumerate(self._parts):
            chosen = np.flatnonzero(part_of == number)
            if len(chosen):
                inside = flat[chosen] - (self._ends[number] - len(part))
                images[chosen] = pool(part[inside].transpose(0, 2, 3, 1), self._factor)
        return images.reshape(*np.shape(index), *self.shape[1:])


def read_images(
    name: str, data_dir: str | Path | None, *, file_set: str, size: int, placement: Placement = "auto"
) -> DataSource:
    """Reads the files of an image set.

    Args:
      name: of the data set, for the source.
      data_dir: see `eval_tasks.data.load_data`.
      file_set: a key of `eval_tasks.data.catalog.FILE_SETS`.
      size: pixels a side, after average-pooling.
      placement: see `eval_tasks.data.load_data`.

    Raises:
      InputError: a file that is needed is not there, or a file is truncated, damaged or of another form.
    """
    files = FILE_SETS[file_set]
    item_shape, num_classes = IMAGE_FORMS[file_set]
    reader = importlib.import_module(_READERS[file_set])
    paths = find_files(data_dir, files)
    if files.all_needed:
        batches = [reader.read_pair(paths, files, item_shape)]
    else:
        batches = [reader.read_batch(path, files, item_shape) for path in paths]
    # After all errors: an error is the only line.
    if len(paths) < len(files.files):
        print(  # noqa: T201
            f"{name}: {len(paths)} of the {len(files.files)} training files are in {paths[0].parent}; using "
            "those.",
            file=sys.stderr,
        )
    report_unpublished(name, paths, files)
    return make_source(
        name,
        StoredImages([images for images, _ in batches], size),
        np.concatenate([labels for _, labels in batches]),
        num_classes=num_classes,
        train_fraction=0.9,
        files=tuple(path.name for path in paths),
        placement=placement,
    )


def pool(images: np.ndarray, factor: int) -> np.ndarray:
    """Averages squares of pixels. [N, H, W, C] -> [N, H/factor, W/factor, C], uint8, rounded."""
    if factor == 1:
        return images
    corners = [(row, column) for row in range(factor) for column in range(factor)]
    # Pixel by pixel of the square: three times as fast as one sum over two axes.
    sums = sum(images[:, row::factor, column::factor].astype(np.uint32) for row, column in corners)
    # In whole numbers, halves up: the same on every machine.
    return ((sums + factor * factor // 2) // (factor * factor)).astype(np.uint8)
