"""The commands of `mulo-eval` beside the evaluation itself. Each imports JAX only if it needs it."""

import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from eval_tasks.command_line import Parser, check_folder, check_name
from eval_tasks.names import TaskName, parse_task_name
from eval_tasks.report.commands import compare, report
from eval_tasks.suites import SIZES, SUITES, make_suite
from mulo.errors import InputError
from mulo.importers import KINDS
from mulo.importers.hub import is_hub_name, parse_hub_name
from mulo.names import lookup
from mulo.printing import shown

_FIGURE_ENDINGS = (".png", ".svg", ".pdf")


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


def _coord_check(argv: Sequence[str]) -> int:
    arguments = _make_coord_check_parser().parse_args(argv)
    task = parse_task_name(arguments.task)
    path = arguments.out or Path(f"coord-check-{task.model}.png")
    _check_coord_check(arguments, task, path)

    from eval_tasks.coordinates import CheckSettings, check_task, choose_optimizer
    from eval_tasks.report.coordinates import draw_coordinate_check

    optimizer, parametrization = choose_optimizer(
        arguments.optimizer, arguments.learning_rate, arguments.parametrization
    )
    settings = CheckSettings(
        task=task,
        parametrization=parametrization,
        widths=tuple(sorted(set(arguments.widths))),
        num_steps=arguments.num_steps,
        num_seeds=arguments.num_seeds,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )
    check = check_task(settings, optimizer)
    title = settings.title(arguments.optimizer)
    print(f"{title}\n\n{check.table()}")  # noqa: T201
    draw_coordinate_check(check, title, path)
    print(f"\nfigure: {shown(path)}")  # noqa: T201
    return 0 if check.passed else 1


def _check_coord_check(arguments: argparse.Namespace, task: TaskName, path: Path) -> None:
    """Refuses, without JAX, what can be told from the flags alone."""
    for width in arguments.widths:
        dataclasses.replace(task, width=width)  # refuses a width that the model cannot have
    if len(set(arguments.widths)) < 2:
        raise InputError("--widths has one width; wanted at least two different ones, as 64 128 256.")
    for flag in ("num_steps", "num_seeds", "batch_size"):
        if getattr(arguments, flag) < 1:
            name = flag.replace("_", "-")
            raise InputError(f"--{name} is {getattr(arguments, flag)}; wanted at least 1.")
    check_name(path, "--out", "a file")
    if path.suffix.lower() not in _FIGURE_ENDINGS or os.path.isdir(path):  # noqa: PTH112
        raise InputError(f"--out is {path}; wanted a file whose name ends in {', '.join(_FIGURE_ENDINGS)}.")
    if not os.path.isdir(path.parent):  # noqa: PTH112
        raise InputError(f"--out is {path}; there is no folder {path.parent}: make it first.")
    check_folder(path.parent, "The folder of --out,")


def _make_coord_check_parser() -> Parser:
    parser = Parser(
        prog="mulo-eval coord-check",
        description="Checks that training changes every layer by as much at any width. Exit status 1 where "
        "it does not.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--task", required=True, help="a task's name, as transformer-w64-d2_pydoc; its width does not count"
    )
    parser.add_argument(
        "--optimizer", default="adam", help="adam, sgd, or a learned optimizer: a name or a checkpoint"
    )
    parser.add_argument("--parametrization", choices=("mup", "sp"), help="default: mup, or the checkpoint's")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512], metavar="N")
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="X",
        help="at the smallest width (default: adam 0.03 under muP, 0.001 in SP; sgd 0.1 and 0.01; else 1)",
    )
    parser.add_argument("--num-steps", type=int, default=3, metavar="N", help="inner steps (default: 3)")
    parser.add_argument("--num-seeds", type=int, default=3, metavar="N", help="networks at each width")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="examples in each step")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--out", type=Path, help="file of the figure, .png, .svg or .pdf (default: coord-check-MODEL.png)"
    )
    return parser


def _list(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="mulo-eval list",
        description="Lists the suites in their sizes: what is run, and about what it costs.",
        allow_abbrev=False,
    )
    parser.add_argument("--suite", help=f"this one alone: {', '.join(SUITES)}")
    parser.add_argument("--size", help=f"this one alone: {', '.join(SIZES)}")
    arguments = parser.parse_args(argv)
    if arguments.suite is not None:
        lookup(SUITES, arguments.suite, "suite")
    if arguments.size is not None:
        lookup(SIZES, arguments.size, "size of a suite")

    from eval_tasks.report.suites import describe_suite

    for name in SUITES if arguments.suite is None else [arguments.suite]:
        for size in SIZES if arguments.size is None else [arguments.size]:
            print(describe_suite(make_suite(name, size, {}, {})), flush=True)  # noqa: T201
    return 0


def _import(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="mulo-eval import",
        description="Reads a theta that other software trained and writes it as a checkpoint file of mulo.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="a file, or hf://owner/name/file")
    kinds = "; ".join(f"{kind}: {words}" for kind, words in KINDS.items())
    parser.add_argument("--as", dest="kind", required=True, metavar="KIND", help=kinds)
    parser.add_argument("-o", "--out", type=Path, required=True, help="file to write, by custom NAME.mulo")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    arguments = parser.parse_args(argv)
    lookup(KINDS, arguments.kind, "kind of released theta")
    if is_hub_name(arguments.file):
        parse_hub_name(arguments.file)
    elif not os.path.lexists(arguments.file):
        raise InputError(f"{shown(arguments.file)}: no such file. Wanted a released theta.")
    if os.path.lexists(arguments.out) and not arguments.overwrite:
        raise InputError(f"{shown(arguments.out)}: exists already. Choose another name, or pass --overwrite.")

    from mulo.checkpoint_file import save
    from mulo.importers.released import import_theta

    checkpoint = import_theta(arguments.file, arguments.kind)
    save(arguments.out, checkpoint, overwrite=arguments.overwrite)
    name, config = checkpoint.optimizer.name, checkpoint.optimizer.config()
    fields = ", ".join(f"{field}={value}" for field, value in config.items())
    print(f"{shown(arguments.out)}: {name}({fields}), {checkpoint.parametrization}")  # noqa: T201
    return 0


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "compare": compare,
    "coord-check": _coord_check,
    "data": _data,
    "import": _import,
    "list": _list,
    "report": report,
}
"""Name -> function of the words after it, which returns the exit status."""
