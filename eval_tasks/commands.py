"""The commands of `mulo-eval` beside the evaluation itself: data. Each imports JAX only if it needs it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from eval_tasks.command_line import Parser


def _data(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="mulo-eval data",
        description="Lists the data sets: which are found, where, whether they are the published files, and "
        "where the others come from.",
        allow_abbrev=False,
    )
    parser.add_argument("--data-dir", type=Path, help="folder of the files (default: $MULO_DATA_DIR)")
    arguments = parser.parse_args(argv)

    from eval_tasks.data.files import data_folder
    from eval_tasks.data.inventory import format_inventory, take_inventory

    print(format_inventory(take_inventory(arguments.data_dir), data_folder(arguments.data_dir)))  # noqa: T201
    return 0


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "data": _data,
}
"""Name -> function of the words after it, which returns the exit status."""
