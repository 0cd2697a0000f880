"""The commands that look at a run: digest, status, watch."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from eval_tasks.command_line import Parser
from meta_train.run_directory import RunDirectory
from mulo.printing import printable


def _make_parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = Parser(prog=f"mulo-meta-train {name}", description=description, allow_abbrev=False)
    parser.add_argument("run", type=Path, help="run directory")
    return parser


def _digest(argv: Sequence[str]) -> int:
    arguments = _make_parser("digest", "Prints the SHA-256 of a run's theta.").parse_args(argv)
    run, config = RunDirectory.open(arguments.run)

    from meta_train.saving import newest_theta
    from mulo.checkpoint_file import theta_digest

    meta_step, theta = newest_theta(run, config)
    print(printable(f"theta of {arguments.run} after {meta_step} meta-steps:"))  # noqa: T201
    print(theta_digest(theta))  # noqa: T201
    return 0


def _status(argv: Sequence[str]) -> int:
    parser = _make_parser("status", "Shows where a run stands.")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_args(argv)

    from meta_train.status import format_status, read_status

    status = read_status(arguments.run)
    print(json.dumps(dataclasses.asdict(status), indent=1) if arguments.json else format_status(status))  # noqa: T201
    return 0


def _watch(argv: Sequence[str]) -> int:
    description = "Shows where a run stands, every two seconds, while it is running."
    arguments = _make_parser("watch", description).parse_args(argv)

    from meta_train.status import watch

    watch(arguments.run)
    return 0


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "digest": _digest,
    "status": _status,
    "watch": _watch,
}
