"""`mulo-eval report` and `mulo-eval compare`: flags -> results files -> measures -> report. Without JAX."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from eval_tasks.command_line import Parser, check_folder
from mulo.errors import InputError
from mulo.printing import shown


def report(argv: Sequence[str]) -> int:
    """Reads results files and writes a report on them; 0."""
    parser = Parser(
        prog="mulo-eval report",
        description="Writes a report on results files: one HTML page, figures (PNG, SVG), tables (CSV).",
        allow_abbrev=False,
    )
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="results files, or folders with results.jsonl",
    )
    parser.add_argument(
        "--reference",
        metavar="LABEL",
        help="optimizer that scores and speed-ups are relative to (default: adamw-oracle, else muadamw, else "
        "adamw)",
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the report (default: report, beside the first file)"
    )
    arguments = parser.parse_args(argv)

    first = arguments.results[0]
    is_folder = os.path.isdir(first)  # noqa: PTH112 (False for too long a name)
    out = arguments.out or default_folder(first if is_folder else first.parent)
    check_folder(out)
    make_report(arguments.results, out, arguments.reference)
    return 0


def default_folder(results: Path) -> Path:
    """Where the report on the results of a folder goes to.

    Raises:
      InputError: a symbolic link is there; it may be someone else's, and lead anywhere.
    """
    folder = results / "report"
    if os.path.islink(folder):  # noqa: PTH114 (False for too long a name)
        raise InputError(f"{shown(folder)} is a symbolic link, which is not written through. Remove it.")
    return folder


def make_report(sources: Sequence[Path], out: Path, reference: str | None = None) -> None:
    """Reads results files, prints the tables and writes the report: the end of an evaluation, too.

    Args:
      sources: results files, or folders with `results.jsonl`.
      out: folder of the report.
      reference: as in `eval_tasks.measures.measure`.

    Raises:
      InputError: nothing can be read, `reference` is not there, or the report cannot be written.
    """
    from eval_tasks.measures import measure
    from eval_tasks.report.terminal import print_report
    from eval_tasks.report.write import write_report
    from eval_tasks.results import read_results

    results = read_results(sources)
    parts = measure(results, reference)
    print_report(parts, [*results.notes, *(note for part in parts for note in part.notes)])
    written = write_report(results, parts, out)
    beside = f"{len(written) - 1} files beside it: figures as PNG and SVG, tables as CSV"
    print(f"\nreport: {shown(written[0])} (and {beside})")  # noqa: T201


def compare(argv: Sequence[str]) -> int:
    """Compares two sets of results; 1 where the second is worse, else 0."""
    arguments = _make_compare_parser().parse_args(argv)
    pairs = dict(_parse_match(text) for text in arguments.match)
    if not (arguments.tolerance >= 0 and math.isfinite(arguments.tolerance)):
        raise InputError(f"--tolerance is {arguments.tolerance}; wanted a number from 0, as 0.02 for 2 %.")

    from eval_tasks import comparison
    from eval_tasks.report.terminal import print_comparison
    from eval_tasks.results import read_results

    a, b = (read_results([path]) for path in (arguments.a, arguments.b))
    found = comparison.compare(a, b, pairs)
    gaps = [f"{name}: {note}" for name, results in (("A", a), ("B", b)) for note in results.notes]
    print_comparison(found, arguments.tolerance, gaps)
    judged = [*found.differences, *([found.overall] if found.overall else [])]
    is_worse = any(difference.is_regression(arguments.tolerance) for difference in judged)
    return int(is_worse or not (found.is_complete or arguments.allow_missing))


def _make_compare_parser() -> Parser:
    parser = Parser(
        prog="mulo-eval compare",
        description="Compares results B with results A: the ratio of final training losses, with 95 % "
        "intervals. Exit status 1 where an interval lies above 1 + tolerance, more runs diverge, or B lacks "
        "tasks of A; 2 where nothing can be compared.",
        allow_abbrev=False,
    )
    parser.add_argument("a", type=Path, metavar="A", help="results file, or folder with results.jsonl")
    parser.add_argument("b", type=Path, metavar="B", help="the same of what may be better or worse")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="how much worse is still accepted, as 0.02 for 2 %% (default: 0)",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="B need not have every task of A, run alike"
    )
    parser.add_argument(
        "--match",
        action="append",
        default=[],
        metavar="LABEL_IN_A=LABEL_IN_B",
        help="compares optimizers that are called differently; may be given several times. If one label of "
        "each is left over, these two are compared anyway.",
    )
    return parser


def _parse_match(text: str) -> tuple[str, str]:
    label_a, _, label_b = text.partition("=")
    if not (label_a and label_b):
        raise InputError(f"--match is {text!r}; wanted LABEL_IN_A=LABEL_IN_B.")
    return label_a, label_b
