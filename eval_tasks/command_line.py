"""What the two command lines share. Imports no JAX."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from mulo.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raises `InputError` instead of printing the usage and leaving."""
        raise InputError(f"{message}. See {self.prog} --help.")


def unless_pipe_is_closed(run: Callable[[], int]) -> int:
    """The exit status of `run`; 128 + SIGPIPE where nobody reads its output any more, as with `| head -1`."""
    try:
        status = run()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return 128 + signal.SIGPIPE
    return status
