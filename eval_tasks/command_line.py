"""What the two command lines share. Imports no JAX."""

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mulo.errors import InputError
from mulo.printing import printable


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raises `InputError` instead of printing the usage and leaving."""
        raise InputError(f"{message}. See {self.prog} --help.")


def check_folder(
    folder: Path, called: str = "--out", wanted: str = "a folder, which may exist or not"
) -> None:
    """Refuses, before anything is run, what cannot be made a folder or be written into.

    Args:
      folder: may exist or not; of those above it, the first that exists is looked at.
      called: what to call it in the error.
      wanted: what it should be.

    Raises:
      InputError: something else is in the way, or one may not write there.
    """
    try:
        os.lstat(folder)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{called} {str(folder)[:60]}... is too long; wanted {wanted}.") from error
    except ValueError as error:
        raise InputError(f"{called} {str(folder)!r} cannot be a name: {error}; wanted {wanted}.") from error
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        what = "" if there == folder else f", of which {there}"
        raise InputError(f"{called} {folder}{what} is no folder; wanted {wanted}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{called} {folder} cannot be written: no permission to write into {there}.")


def unless_pipe_is_closed(run: Callable[[], int]) -> int:
    """The exit status of `run`; 128 + SIGPIPE where nobody reads its output any more, as with `| head -1`.

    1 where the output cannot be written for another reason, said in one line. Standard streams that were
    closed when the process began are the null device from now on.
    """
    _open_standard_streams()
    try:
        status = run()
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _discard_output()
        where = f" ({error.filename})" if error.filename else ""
        print(printable(f"error: cannot go on: {error.strerror or error}{where}."), file=sys.stderr)  # noqa: T201
        return 1
    return status


def _open_standard_streams() -> None:
    """Opens what was closed of descriptors 0 to 2, which would be those of the next files otherwise.

    Then messages, of this process and of libraries, would be written into them. And text that the terminal's
    encoding does not have is escaped rather than an error.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Python flushes once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
