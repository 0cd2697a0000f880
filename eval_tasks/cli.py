"""mulo-eval: flags -> suite -> runs -> report; commands. Wrong flags are answered before JAX is imported."""

import argparse
import difflib
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from eval_tasks.baselines import BASELINES
from eval_tasks.command_line import Parser, unless_pipe_is_closed
from eval_tasks.commands import COMMANDS
from eval_tasks.data import DATA_SETS, find_data_set
from eval_tasks.suites import SUITES, Suite
from mulo.errors import InputError
from mulo.names import lookup

_PROGRAM = "mulo-eval"
_EPILOG = """\
examples:
  mulo-eval --suite wide --optimizer runs/a                     a run of mulo-meta-train against all baselines
  mulo-eval --suite wide --optimizer runs/a --optimizer adamw   against tuned AdamW only
  mulo-eval --suite wide --optimizer runs/a --out results/a     the same again goes on where it was stopped
  mulo-eval data                                                which data sets are there
  mulo-eval coord-check --task mlp-w64-d3_digits                does every layer change as much at any width?
"""
_SUITE_FLAGS = {
    "base_width": "width that the suite's widths are multiples of (default: the checkpoint's largest)",
    "depth": "hidden layers (default: the checkpoint's)",
    "num_steps": "inner steps of each run (default: the suite's)",
    "batch_size": "examples in each step (default: the suite's)",
    "num_seeds": "runs at each point (default: the suite's)",
    "seed": "the first seed (default: the suite's)",
}


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=_PROGRAM,
        description="Runs learned optimizers and Adam at several widths and compares them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--suite", required=True, help=f"what to run: {', '.join(SUITES)}")
    parser.add_argument(
        "--optimizer",
        action="append",
        required=True,
        metavar="CHECKPOINT",
        help="a checkpoint file, a run directory, the name of a released optimizer, or a baseline: "
        f"{', '.join(BASELINES)}; may be given several times. With no baseline named, all are run.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results, may exist: what is there is kept (default: results/SUITE-TIME)",
    )
    parser.add_argument("--data-set", help=f"{', '.join(DATA_SETS)} (default: the checkpoint's)")
    for field, help_text in _SUITE_FLAGS.items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=int, metavar="N", help=help_text)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """Refuses, without JAX, what can be told from the flags alone."""
    fields = lookup(SUITES, arguments.suite, "suite")
    if arguments.data_set is not None:
        find_data_set(arguments.data_set)
    given = {
        field: getattr(arguments, field) for field in _SUITE_FLAGS if getattr(arguments, field) is not None
    }
    Suite(**{
        "name": arguments.suite, "base_width": 1, "depth": 1, **fields, **given,
        "data_set": arguments.data_set or "digits",
    })  # fmt: skip
    for source in arguments.optimizer:
        if source not in BASELINES and not Path(source).exists():
            near = difflib.get_close_matches(source, BASELINES, n=1, cutoff=0.8)
            if near:
                raise InputError(f"No optimizer is called {source!r}. Did you mean {near[0]!r}?")


def _run(arguments: argparse.Namespace, out: Path) -> None:
    from eval_tasks.contenders import make_contenders
    from eval_tasks.data import load_data
    from eval_tasks.display import Display
    from eval_tasks.evaluation import Evaluation, count_runs
    from eval_tasks.report.figures import draw_figure
    from eval_tasks.report.text import print_tables
    from eval_tasks.runs import ResultStore
    from eval_tasks.suites import make_suite

    contenders = make_contenders(arguments.optimizer)
    provenances = {c.label: c.provenance for c in contenders if c.provenance is not None}
    options = {field: getattr(arguments, field) for field in ("data_set", *_SUITE_FLAGS)}
    suite = make_suite(arguments.suite, options, provenances)
    store = ResultStore(out, notify=lambda line: print(line, file=sys.stderr))  # noqa: T201
    source = load_data(suite.data_set)
    results: dict = {contender.label: {} for contender in contenders}
    with Display(count_runs(suite, contenders)) as display:
        evaluation = Evaluation(suite, source, store, display.advance)
        display.say(
            f"{len(contenders)} optimizers at widths {', '.join(map(str, suite.widths))}; results in {out}"
        )
        for contender in contenders:
            for width in suite.widths:
                results[contender.label][width] = evaluation.cell(contender, width)
    print_tables(results, suite)
    figure = out / f"{suite.name}.png"
    draw_figure(results, suite, figure)
    print(f"\nresults: {store.path}\nfigure:  {figure}")  # noqa: T201


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      0; 2 after a mistake in what was given, said in one line; 130 where it was interrupted: finished runs
      are kept, and the same command goes on; 128 + SIGPIPE where nobody reads its output any more.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    return unless_pipe_is_closed(lambda: _main(argv))


def _main(argv: list[str]) -> int:
    out = None
    try:
        if argv and not argv[0].startswith("-"):
            return lookup(COMMANDS, argv[0], "command")(argv[1:])
        arguments = _make_parser().parse_args(argv)
        _check(arguments)
        out = arguments.out or Path(
            "results", f"{arguments.suite}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        )
        _run(arguments, out)
    except InputError as error:
        print(f"{_PROGRAM}: error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        if argv[:1] and argv[0] in COMMANDS:
            print(f"{_PROGRAM}: interrupted.", file=sys.stderr)  # noqa: T201
            return 130
        # The default folder is named by the time: to go on, it must be given.
        has_out = any(word.split("=")[0] == "--out" for word in argv)
        again = shlex.join(argv if has_out or out is None else [*argv, "--out", str(out)])
        message = f"{_PROGRAM}: interrupted. Finished runs are kept; go on with: {_PROGRAM} {again}"
        print(message, file=sys.stderr)  # noqa: T201
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
