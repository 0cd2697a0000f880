"""Where data files are looked for, and the error that says what to fetch."""

import os
from pathlib import Path

from mulo.errors import InputError


def data_folder(data_dir: str | Path | None, subfolder: str | None, first_file: str, advice: str) -> Path:
    """The folder that holds a data set's files.

    Args:
      data_dir: as the user gave it, or `None` for the environment variable MULO_DATA_DIR.
      subfolder: the name of the folder that the set is unpacked to; looked into after `data_dir` itself;
        `None` where there is no such folder.
      first_file: the file that must be there.
      advice: size of the file and where to get it, one or two sentences.

    Raises:
      InputError: no folder given, it is not there, or it does not hold `first_file`.
    """
    given = data_dir or os.environ.get("MULO_DATA_DIR")
    if not given:
        raise InputError(f"{first_file} is needed, and MULO_DATA_DIR is not set. {advice}")
    folder = Path(given)
    if not folder.is_dir():
        raise InputError(f"{first_file} is needed, and the data folder {folder} is not there. {advice}")
    if (folder / first_file).is_file():
        return folder
    if subfolder is None:
        raise InputError(f"{first_file} is not in {folder}. {advice}")
    if (folder / subfolder / first_file).is_file():
        return folder / subfolder
    raise InputError(f"{first_file} is neither in {folder} nor in {folder / subfolder}. {advice}")
