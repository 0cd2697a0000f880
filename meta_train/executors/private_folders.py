"""Folders that nobody else may write to: what is in them is trusted. Imports no JAX and no Ray."""

import os
import shutil
import stat
import tempfile
from pathlib import Path

_MAX_LENGTH = 30
"""Of the temporary folder's path: Ray's sockets lie 68 characters deeper, and a socket's path ends at 107."""

_PREFIX = "mulo-ray-"
_OWNER = "driver.pid"


def make_temporary_folder() -> Path:
    """A new folder, mode 0700, with a short path; those of drivers that were killed are removed."""
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) + len(_PREFIX) + 8 > _MAX_LENGTH:
        parent = Path("/tmp")
    for folder in parent.glob(f"{_PREFIX}*"):
        _remove_if_left(folder)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    (folder / _OWNER).write_text(str(os.getpid()))
    return folder


def _remove_if_left(folder: Path) -> None:
    try:
        if folder.lstat().st_uid != os.getuid():
            return
        os.kill(int((folder / _OWNER).read_text()), 0)
    except ProcessLookupError:
        shutil.rmtree(folder, ignore_errors=True)
    except (OSError, ValueError):
        return


def compilation_cache() -> Path | None:
    """Where compiled programs are kept between processes: `mulo/compiled` in the user's cache folder.

    Whoever can write there can run code here. So it is made with mode 0700, it is never in a run directory,
    and `None` is answered where it cannot be made, is somebody else's, or is open to others.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "mulo" / "compiled"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    closed = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    return folder if closed and status.st_uid == os.getuid() else None
