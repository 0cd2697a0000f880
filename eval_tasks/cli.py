"""mulo-eval: flags -> suite -> runs -> report; commands. Wrong flags are answered before JAX is imported."""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval_tasks.baselines import BASELINES, DEFAULT_BASELINES, RELEASED
from eval_tasks.command_line import (
    Parser,
    Termination,
    check_folder,
    unless_pipe_is_closed,
)
from eval_tasks.commands import COMMANDS
from eval_tasks.data import DATA_SETS
from eval_tasks.results import FILE_NAME
from eval_tasks.runs import PlaceError
from eval_tasks.sources import parse_source
from eval_tasks.suites import SIZES, SUITES, make_suite
from eval_tasks.workers.clusters import open_cluster
from eval_tasks.workers.flags import CLUSTER_FLAGS, add_worker_flags, given_worker_flags
from eval_tasks.workers.options import ClusterOptions
from mulo.errors import InputError
from mulo.names import lookup
from mulo.printing import printable, shell_quoted, shown

_PROGRAM = "mulo-eval"
_EPILOG = """\
examples:
  mulo-eval --suite wide --optimizer runs/a                     a run against the default baselines
  mulo-eval --suite wide --optimizer runs/a --optimizer adamw   against tuned AdamW only
  mulo-eval --suite wide --optimizer runs/a --out results/a     the same again goes on where it was stopped
  mulo-eval data                                                which data sets are there
  mulo-eval coord-check --task mlp-w64-d3_digits                does every layer change as much at any width?
"""
_SUITE_FLAGS = {  # flag: field of the suite or of the base of its series, in words
    "base_width": ("width", "width that all widths are in proportion to (default: the checkpoint's largest)"),
    "depth": ("depth", "hidden layers or blocks at the base (default: the checkpoint's)"),
    "num_steps": ("num_steps", "inner steps of a run at the base"),
    "batch_size": ("batch_size", "examples in each step"),
    "num_seeds": ("num_seeds", "runs at each point"),
    "num_tuning_seeds": ("num_tuning_seeds", "runs at each learning rate that is tried"),
    "num_trials": ("num_trials", "learning rates tried wherever one is tuned (default: 13, factors of two)"),
    "seed": ("seed", "the first seed"),
}


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=_PROGRAM,
        description="Runs optimizers on the tasks of a suite and compares them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--suite", required=True, help=f"what to run: {', '.join(SUITES)}; see mulo-eval list"
    )
    parser.add_argument(
        "--size", default="smoke", help="; ".join(f"{size}: {words}" for size, words in SIZES.items())
    )
    parser.add_argument(
        "--optimizer",
        action="append",
        required=True,
        metavar="OPTIMIZER",
        help="a checkpoint file, a run directory or a released name, each also as a variant, "
        "as in NAME@cosine,learning_rate=0.5,weight_decay=0.0001; a function, as optax.lion or "
        "mymodule:make; or a baseline: "
        f"{', '.join((*BASELINES, *RELEASED))}. May be given several times. With no baseline named there are "
        f"{', '.join(DEFAULT_BASELINES)}.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results, may exist: what is there is kept (default: results/SUITE-TIME)",
    )
    parser.add_argument(
        "--data-set", help=f"of all series that can have it: {', '.join(DATA_SETS)} (default: the suite's)"
    )
    for flag, (_, help_text) in _SUITE_FLAGS.items():
        parser.add_argument(f"--{flag.replace('_', '-')}", type=int, metavar="N", help=help_text)
    add_worker_flags(parser.add_argument_group("workers, to spread the runs over"), CLUSTER_FLAGS)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """Refuses, without JAX, what can be told from the flags alone."""
    make_suite(arguments.suite, arguments.size, _options(arguments), {})
    for source in arguments.optimizer:
        parse_source(source)


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    fields = {field: getattr(arguments, flag) for flag, (field, _) in _SUITE_FLAGS.items()}
    return {"data_set": arguments.data_set, **fields}


def _run(arguments: argparse.Namespace, out: Path, termination: Termination) -> None:
    given = given_worker_flags(arguments, CLUSTER_FLAGS)
    options = ClusterOptions(**given) if given else None
    if options is not None:
        os.environ["JAX_PLATFORMS"] = "cpu"  # of this process; GPUs are the workers'
    with open_cluster(options) as cluster, termination.watch():
        _evaluate(arguments, out, cluster)


def _evaluate(arguments: argparse.Namespace, out: Path, cluster: Any) -> None:
    from eval_tasks.contenders import make_contenders
    from eval_tasks.display import Display
    from eval_tasks.evaluation import Evaluation, total_cost
    from eval_tasks.execution import LocalExecutor
    from eval_tasks.report.commands import default_folder, make_report
    from eval_tasks.runs import ResultStore

    report_folder = default_folder(out)
    contenders = make_contenders(arguments.optimizer)
    provenances = {c.label: c.provenance for c in contenders if c.provenance is not None}
    suite = make_suite(arguments.suite, arguments.size, _options(arguments), provenances)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(ResultStore(out, notify=_say))
        display = stack.enter_context(Display(total_cost(suite, contenders)))
        if cluster is None:
            executor = LocalExecutor(display.compiling)
        else:
            from eval_tasks.workers.ray_runs import RayExecutor

            executor = RayExecutor(cluster, arguments.optimizer, display.say, display.compiling)
            stack.callback(executor.close)
        evaluation = Evaluation(suite, store, display.advance, executor)
        for series in suite.series:
            evaluation.source(series)  # data that are not there are said before anything is run
        names = ", ".join(series.name for series in suite.series)
        display.say(f"{len(contenders)} optimizers on {names}; results in {shown(out)}")
        evaluation.evaluate(contenders)
        store.check_place()
    make_report([store.path], report_folder)
    print(f"results: {shown(store.path)}")  # noqa: T201


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      0; 2 after a mistake in what was given, said in one line; 130 where it was interrupted: finished runs
      are kept, and the same command goes on; 143 the same after SIGTERM; 128 + SIGPIPE where nobody reads its
      output any more.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    termination = Termination()
    with termination.watch():
        return unless_pipe_is_closed(lambda: _main(argv, termination))


def _main(argv: list[str], termination: Termination) -> int:
    out = None
    try:
        if argv and not argv[0].startswith("-"):
            if argv[0] in SUITES:
                raise InputError(f"A suite is given as --suite {argv[0]}, with --optimizer beside it.")
            return lookup(COMMANDS, argv[0], "command")(argv[1:])
        arguments = _make_parser().parse_args(argv)
        _check(arguments)
        out = arguments.out or Path(
            "results", f"{arguments.suite}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        )
        check_folder(out, "--out" if arguments.out else "The default --out")
        _run(arguments, out, termination)
    except InputError as error:
        kept = "" if isinstance(error, PlaceError) else _kept(argv, out)
        _say(f"{_PROGRAM}: error: {printable(' '.join(str(error).split()))}{kept}")
        return 2
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit):
            if error.code != signal.SIGTERM:
                raise
            termination.came = True  # while Ray starts its own handler is there, which exits
        word = "terminated" if termination.came else "interrupted"
        _say(f"{_PROGRAM}: {word}.{_kept(argv, out)}")
        return 128 + (signal.SIGTERM if termination.came else signal.SIGINT)
    return 0


def _kept(argv: list[str], out: Path | None) -> str:
    """What is kept of an evaluation that has begun, and how to go on, as a sentence; "" where nothing is."""
    if out is None or not os.path.exists(out / FILE_NAME):  # noqa: PTH110 (False for too long a name)
        return ""
    return f" Finished runs are kept; go on with: {_again(argv, out)}"


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


def _again(argv: list[str], out: Path | None) -> str:
    # The default folder is named by the time: to go on, it must be given.
    has_out = any(word.split("=")[0] == "--out" for word in argv)
    words = [_PROGRAM, *(argv if has_out or out is None else [*argv, "--out", str(out)])]
    return " ".join(map(shell_quoted, words))


if __name__ == "__main__":
    sys.exit(main())
