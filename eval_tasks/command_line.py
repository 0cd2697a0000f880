"""What the two command lines share. Imports no JAX."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mulo.errors import InputError


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
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        what = "" if there == folder else f", of which {there}"
        raise InputError(f"{called} {folder}{what} is no folder; wanted {wanted}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{called} {folder} cannot be written: no permission to write into {there}.")


def unless_pipe_is_closed(run: Callable[[], int]) -> int:
    """The exit status of `run`; 128 + SIGPIPE where nobody reads its output any more, as with `| head -1`."""
    try:
        status = run()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return 128 + signal.SIGPIPE
    return status
