"""`digits`: 1797 handwritten digits of 8x8 pixels, values 0 to 16, inside scikit-learn's wheel."""

from pathlib import Path

import numpy as np

from eval_tasks.data.source import DataSource, make_source
from mulo.errors import InputError
from mulo.extras import how_to_install


def read_digits(name: str, data_dir: str | Path | None) -> DataSource:
    """Reads the digits; `data_dir` is not used.

    Raises:
      InputError: scikit-learn is not installed.
    """
    del data_dir
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            "The data set 'digits' is inside scikit-learn, which is not installed. "
            f"To have it, {how_to_install('digits')}."
        ) from error
    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    files = ("digits.csv.gz",)
    return make_source(name, images, digits.target, num_classes=10, train_fraction=0.8, files=files)
