"""The argument parser of the commands that measure nothing. Imports no JAX."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong and leaves with status 2, without the usage."""
        self.exit(2, f"{self.prog}: error: {message}\n")
