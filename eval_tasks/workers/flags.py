"""The flags that ask for workers. Imports no JAX and no Ray."""

import argparse
from collections.abc import Mapping
from typing import Any

from mulo.errors import InputError

CLUSTER_FLAGS: Mapping[str, tuple[type, str]] = {
    "workers": (int, "CPU workers, of one thread each"),
    "gpus": (int, "GPUs to use, with a worker on each"),
    "workers-per-gpu": (int, "workers that share a GPU, for small tasks (default: 1)"),
    "address": (str, "Ray cluster to join (default: one is started, reachable from this machine only)"),
    "min-workers": (int, "begin, and go on, with so many; use the others when they are there"),
}


def add_worker_flags(group: Any, flags: Mapping[str, tuple[type, str]]) -> None:
    """Adds flags, of which those that are not given leave no attribute, and --insecure."""
    for name, (kind, help_text) in flags.items():
        metavar = {int: "N", float: "SECONDS", str: "HOST:PORT"}[kind]
        group.add_argument(f"--{name}", type=kind, metavar=metavar, default=argparse.SUPPRESS, help=help_text)
    group.add_argument(
        "--insecure", action="store_true", default=argparse.SUPPRESS, help="allow Ray without authentication"
    )


def given_worker_flags(
    arguments: argparse.Namespace, flags: Mapping[str, tuple[type, str]]
) -> dict[str, Any]:
    """The fields of the options that were given; empty where no workers are asked for.

    Raises:
      InputError: flags of workers, and no workers.
    """
    names = [name.replace("-", "_") for name in (*flags, "insecure")]
    given = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    if given and not given.keys() & {"workers", "gpus", "address"}:
        flag = next(iter(given)).replace("_", "-")
        raise InputError(f"--{flag} was given without --workers N or --gpus N: there would be no workers.")
    return given
