"""Folders that nobody else may write to: what is in them is trusted. Imports no JAX and no Ray."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TextIO

_MAX_LENGTH = 30
"""Of the temporary folder's path: Ray's sockets lie 68 characters deeper, and a socket's path ends at 107."""

_PREFIX = "mulo-ray-"
_OWNER = "driver"
"""A file that the driver has locked as long as it lives."""


def make_temporary_folder() -> tuple[Path, TextIO]:
    """A new folder, mode 0700, with a short path; those of drivers that were killed are removed.

    Returns:
      The folder, and a file to be kept open as long as the folder is used. A lock and not the number of a
      process: the folder for temporary files may be shared with containers and machines that number theirs.
    """
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) + len(_PREFIX) + 8 > _MAX_LENGTH:
        parent = Path("/tmp")
    for folder in parent.glob(f"{_PREFIX}*"):
        _remove_if_left(folder)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    new = folder / "new"
    owner = new.open("w")
    with contextlib.suppress(OSError):  # a disk without locks: then nobody will remove it
        fcntl.flock(owner, fcntl.LOCK_EX)
        new.rename(folder / _OWNER)  # never there without its lock
    return folder, owner


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if folder.lstat().st_uid != os.getuid():
            return
        with (folder / _OWNER).open() as owner:
            fcntl.flock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def compilation_cache() -> Path | None:
    """Where compiled programs are kept between processes: `mulo/compiled` in the user's cache folder.

    Whoever can write there can run code here. So it is made with mode 0700, it is never in a run directory,
    and `None` is answered where it cannot be made (there may be no home), is somebody else's, or is open to
    others.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(base) if base else Path.home() / ".cache") / "mulo" / "compiled"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except (OSError, RuntimeError):  # RuntimeError: no home
        return None
    closed = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    return folder if closed and status.st_uid == os.getuid() else None
