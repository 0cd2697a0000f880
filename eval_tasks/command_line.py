"""What the two command lines share. Imports no JAX."""

import argparse
from typing import NoReturn

from mulo.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raises `InputError` instead of printing the usage and leaving."""
        raise InputError(f"{message}. See {self.prog} --help.")
