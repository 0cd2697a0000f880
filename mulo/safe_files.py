"""Files in folders that may come from others: no symbolic link is written through, no half file is seen.

A `Folder` is held open, and what is done in it is done in this very folder, whatever its path leads to by
then: it may be renamed, and another one may be put in its place. Imports no JAX.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

_TEMPORARY = ".mulo-tmp-"
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Folder:
    """A folder that is open.

    Args:
      path: where it is now; may lead through symbolic links where `within` is not given.
      within: the open folder that it is in; then `path` is its name there, and it is no symbolic link.

    Raises:
      OSError: there is no such folder, or it may not be read.
    """

    def __init__(self, path: str | os.PathLike[str], within: "Folder | None" = None):
        """Opens it."""
        self._given = Path(path) if within is None else within.path / path
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if within is None:
            self.descriptor = os.open(path, flags)
            return
        with _no_symlinks(self._given):
            self.descriptor = os.open(path, flags | os.O_NOFOLLOW, dir_fd=within.descriptor)

    @property
    def path(self) -> Path:
        """Where it is now, as far as this system can say; else where it was when it was opened."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self._given.stat(), os.fstat(self.descriptor)):
                return self._given
        return _path_of(self.descriptor) or self._given

    def is_removed(self) -> bool:
        """Whether nothing can be written into it any more, because it has been removed."""
        return os.fstat(self.descriptor).st_nlink == 0

    def __truediv__(self, name: str) -> "Entry":
        return Entry(self, name)

    def names(self) -> list[str]:
        """What is in it, in alphabetical order."""
        return sorted(os.listdir(self.descriptor))  # noqa: PTH208 (not by its path)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there; of a symbolic link the link."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def close(self) -> None:
        """To be called once."""
        os.close(self.descriptor)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Entry(os.PathLike[str]):
    """A name in an open folder; as a path, where that is now."""

    def __init__(self, folder: Folder, name: str):
        """The file need not exist."""
        self.folder, self.name = folder, name

    def __fspath__(self) -> str:
        return str(self.folder.path / self.name)

    def __str__(self) -> str:
        return os.fspath(self)


def open_at(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """`os.open` that waits for nobody, such as the other end of a named pipe; the descriptor.

    Args:
      path: an `Entry` is looked up in its open folder.
      flags: those of `os.open`. What is opened to be written is no symbolic link.
      mode: permissions of a new file, before the umask.

    Raises:
      OSError: as `os.open`; ELOOP with words where a symbolic link is in the way.
    """
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if flags & _WRITING else 0)
    with _no_symlinks(path):
        if isinstance(path, Entry):
            return os.open(path.name, flags, mode, dir_fd=path.folder.descriptor)
        return os.open(path, flags, mode)


def open_file(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """The same, for regular files alone.

    Raises:
      OSError: as for `open_at`; EINVAL where there is something else.
    """
    descriptor = open_at(path, flags, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
    return descriptor


def open_to_append(path: str | os.PathLike[str]) -> TextIO:
    """A text file, made if it is not there, whose lines are added to what is in it.

    Raises:
      OSError: as for `open_file`.
    """
    return os.fdopen(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a", encoding="utf-8")


def read_bytes(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """What is in a regular file.

    Raises:
      OSError: as for `open_file`; EFBIG where there are more than `max_bytes`.
    """
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes} bytes", os.fspath(path))
    return content


def make_folder(path: str | os.PathLike[str]) -> Folder:
    """Opens a folder that is no symbolic link; makes it if it is not there.

    Raises:
      OSError: something else is there, or it cannot be made.
    """
    entry = isinstance(path, Entry)
    with contextlib.nullcontext(path.folder) if entry else Folder(Path(path).parent) as parent:
        name = path.name if entry else Path(path).name
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent.descriptor)
        return Folder(name, parent)


def write_atomically(path: str | os.PathLike[str], pieces: Iterable[bytes]) -> None:
    """Writes a file; at every moment `path` is the old file, or none, or the whole new one.

    Args:
      path: where to; what is there, a symbolic link too, is replaced. Its folder must exist.
      pieces: what to write, one after another.

    Raises:
      OSError: it cannot be written; no temporary file is left, unless the process is killed outright.
    """
    if isinstance(path, Entry):
        _write_in(path.folder, path.name, list(pieces))
        return
    with Folder(Path(path).parent) as folder:
        _write_in(folder, Path(path).name, list(pieces))


def remove_leftovers(folder: str | os.PathLike[str] | Folder) -> int:
    """Removes the temporary files of writers that were killed; for a folder that no one else writes to."""
    with contextlib.nullcontext(folder) if isinstance(folder, Folder) else Folder(folder) as opened:
        leftovers = [name for name in opened.names() if name.startswith(_TEMPORARY)]
        for name in leftovers:
            opened.remove(name)
    return len(leftovers)


def _write_in(folder: Folder, name: str, pieces: list[bytes]) -> None:
    temporary = folder / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        # Not `tempfile`: it makes files that only their owner can read.
        with os.fdopen(open_file(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL), "w+b") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            first = pieces[0] if pieces else b""
            written = os.fstat(file.fileno()).st_size
            if file.read(len(first)) != first or written != sum(map(len, pieces)):
                raise OSError(errno.EIO, "what was written reads back differently")
        os.replace(temporary.name, name, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            folder.remove(temporary.name)
        raise
    os.fsync(folder.descriptor)  # makes the new name last through a power cut


@contextlib.contextmanager
def _no_symlinks(path: str | os.PathLike[str]) -> Iterator[None]:
    """Says what the system's "too many levels of symbolic links" means here."""
    try:
        yield
    except OSError as error:
        # A folder that was asked for as such, and is a link: ENOTDIR.
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK) and Path(path).is_symlink():
            words = "it is a symbolic link, which is not written through. Remove it"
            raise OSError(errno.ELOOP, words, os.fspath(path)) from error
        raise


def _path_of(descriptor: int) -> Path | None:
    with contextlib.suppress(OSError):
        if sys.platform == "darwin":
            return Path(os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        return path if path.exists() else None
    return None
