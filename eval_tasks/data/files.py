"""Where data files are looked for, and the error that says what to fetch. Imports neither JAX nor NumPy."""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from eval_tasks.data.catalog import FileSet
from mulo.errors import InputError
from mulo.printing import shown
from mulo.safe_files import open_file


def data_folder(data_dir: str | Path | None) -> Path | None:
    """The folder that was given, or the environment variable MULO_DATA_DIR; `None` without either."""
    given = data_dir or os.environ.get("MULO_DATA_DIR")
    return Path(given) if given else None


def present_files(folder: Path, files: FileSet) -> list[Path]:
    """Those of the files that are in the data folder, in the order of the set.

    Each comes from the first of the set's folders that holds it, packed before unpacked.
    """
    found = []
    for name in files.files:
        names = dict.fromkeys((name, name.removesuffix(".gz")))
        paths = [folder / subfolder / alternative for subfolder in files.folders for alternative in names]
        found.extend([path for path in paths if os.path.isfile(path)][:1])  # noqa: PTH113
    return found


def find_files(data_dir: str | Path | None, files: FileSet) -> list[Path]:
    """The files to read; all of the set, or those that are there where a part will do.

    Args:
      data_dir: as the user gave it, or `None` for the environment variable MULO_DATA_DIR.
      files: the set.

    Raises:
      InputError: no folder given, it is not there, or it does not hold what is needed.
    """
    needed = files.files if files.all_needed else files.files[:1]
    folder = data_folder(data_dir)
    if folder is None:
        raise InputError(f"{needed[0]} is needed, and MULO_DATA_DIR is not set. {files.advice}")
    if not os.path.isdir(folder):  # noqa: PTH112 (False for too long a name)
        raise InputError(f"{needed[0]} is needed, and the data folder {folder} is not there. {files.advice}")
    found = present_files(folder, files)
    names = {path.name.removesuffix(".gz") for path in found}
    for file in needed:
        if file.removesuffix(".gz") not in names:
            places = " nor in ".join(str(folder / subfolder) for subfolder in files.folders)
            where = f"is neither in {places}" if len(files.folders) > 1 else f"is not in {places}"
            raise InputError(f"{file} {where}. {files.advice}")
    return found


def read_bytes(path: Path, files: FileSet) -> bytes:
    """The content of a file.

    Raises:
      InputError: it cannot be read.
    """
    try:
        with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read: {error.strerror}. {files.advice}") from error


def is_published(path: Path, files: FileSet) -> bool | None:
    """Whether the file is the published one, by its checksum; `None` where none is known for it."""
    checksum = files.checksums.get(path.name)
    if checksum is None:
        return None
    algorithm, digest = checksum.split(":")
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, algorithm).hexdigest() == digest


def report_unpublished(name: str, paths: Sequence[Path], files: FileSet) -> None:
    """Says in one line on stderr which of the files that were read differ from the published ones.

    They are used all the same: a text may be one's own version, and a truncated or damaged file of images
    is refused by its reader. What was read is in the digest of the data source.
    """
    differing = [str(path) for path in paths if is_published(path, files) is False]
    if differing:
        verb = "has another checksum" if len(differing) == 1 else "have other checksums"
        print(  # noqa: T201
            f"{name}: {' and '.join(differing)} {verb} than published; used as found.",
            file=sys.stderr,
        )
