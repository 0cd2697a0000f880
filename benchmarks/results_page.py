"""Fills the tables of README.md, docs/results and the model cards from committed results files.

    python -m benchmarks.results_page           # --check: says which pages are not up to date, exit status 1

A table stands between two comments; the first says what it shows:

    <!-- table: aggregate; of: wide-cpu; reference: muadamw; optimizers: mulo-x, muadamw; columns: score -->
    <!-- end -->

`table` is "loss", "validation", "aggregate", "winners" or "divergence"; `of` is a folder of
benchmarks/results/zero-shot; the rest may be left out.
"""

import functools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.command_line import Parser
from eval_tasks.measures import Part, measure
from eval_tasks.report.tables import (
    Table,
    Value,
    aggregate_table,
    divergence_table,
    series_tables,
    winner_table,
)
from eval_tasks.results import read_results
from mulo.errors import InputError
from mulo.names import lookup

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "zero-shot"
_BLOCK = re.compile(r"(<!-- (table: [^\n]*?) -->\n)(?:(?!<!-- ).)*(<!-- end -->)", re.DOTALL)
_SERIES = {"loss": "final training loss", "validation": "validation loss (accuracy)"}
_OTHERS = {"aggregate": aggregate_table, "winners": winner_table, "divergence": divergence_table}


def pages() -> list[Path]:
    """The pages that have such tables."""
    folders = (ROOT / "docs").glob("results/*.md"), (ROOT / "checkpoints").glob("*/README.md")
    return [ROOT / "README.md", ROOT / "docs" / "results.md", *sorted(folders[0]), *sorted(folders[1])]


def fill(text: str) -> str:
    """The text of a page with its tables as the results say.

    Raises:
      InputError: a comment is no table's beginning or end, or stands alone; a description has a word that is
        not known; its results are not there.
    """
    counts = len(_BLOCK.findall(text)), text.count("<!-- table"), text.count("<!-- end -->")
    if len(set(counts)) > 1:
        raise InputError(
            f"{counts[1]} comments begin a table and {counts[2]} end one, {counts[0]} of them in pairs; "
            'wanted "<!-- table: ... -->" on a line, and "<!-- end -->" behind each.'
        )
    return _BLOCK.sub(lambda found: f"{found[1]}{_table_text(found[2])}{found[3]}", text)


def _table_text(description: str) -> str:
    asked = {
        key.strip(): value.strip() for key, _, value in (p.partition(":") for p in description.split(";"))
    }
    for key in asked:
        lookup(dict.fromkeys(("table", "of", "reference", "optimizers", "columns")), key, "word of a table")
    kind = asked["table"]
    lookup({**_SERIES, **_OTHERS}, kind, "table")
    parts = _measure(RESULTS, asked.get("of", ""), asked.get("reference"))
    if len(parts) != 1:
        titles = ", ".join(part.title for part in parts)
        raise InputError(f"{description}: its results are of several suites ({titles}); wanted one.")
    (part,) = parts
    tables = list(_of_series(part, _SERIES[kind])) if kind in _SERIES else [_OTHERS[kind](part)]
    tables = [_chosen(_learned_first(table, part), asked) for table in tables]
    return "\n".join(_markdown(table, with_title=len(tables) > 1) for table in tables)


def _learned_first(table: Table, part: Part) -> Table:
    learned = part.learned
    return table._replace(rows=sorted(table.rows, key=lambda row: row[0].text not in learned))


@functools.cache  # several tables show the same results, and their intervals take seconds
def _measure(folder: Path, name: str, reference: str | None) -> Sequence[Part]:
    files = sorted((folder / name).glob("*.jsonl"))
    if not name or not files:
        raise InputError(f"{folder / name} has no results; wanted a folder of them after 'of:'.")
    return measure(read_results(files), reference)


def _of_series(part: Part, words: str) -> Iterator[Table]:
    for table in series_tables(part):
        if table.title.endswith(words):
            yield table
        elif words in table.columns:  # a task alone: its table has a column for each measure
            places = [0, table.columns.index(words)]
            rows = [[row[place] for place in places] for row in table.rows]
            yield table._replace(columns=[table.columns[place] for place in places], rows=rows)


def _chosen(table: Table, asked: Mapping[str, str]) -> Table:
    """The rows and columns that are asked for, in that order; all where nothing is said."""
    if "optimizers" in asked:
        rows = {row[0].text: row for row in table.rows}
        labels = [label.strip() for label in asked["optimizers"].split(",")]
        table = table._replace(rows=[lookup(rows, label, "optimizer of these results") for label in labels])
    if "columns" in asked:
        names = [table.columns[0], *(name.strip() for name in asked["columns"].split(","))]
        places = [lookup({c: i for i, c in enumerate(table.columns)}, name, "column") for name in names]
        table = table._replace(columns=names, rows=[[row[place] for place in places] for row in table.rows])
    return table


def _markdown(table: Table, *, with_title: bool) -> str:
    lines = [f"{table.title}:\n"] if with_title else []
    lines += [_row(table.columns), _row(["---"] * len(table.columns))]
    lines += [_row(map(_cell, row)) for row in table.rows]
    return "\n".join([*lines, ""])


def _cell(value: Value) -> str:
    return f"**{value.text}**" if value.is_best else value.text


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrites the pages that are not up to date, or says which these are."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; 1 where something would change")
    arguments = parser.parse_args(argv)
    changed = []
    for page in pages():
        before = page.read_text(encoding="utf-8")
        try:
            after = fill(before)
        except InputError as error:
            parser.error(f"{page.relative_to(ROOT)}: {error}")
        if after != before:
            changed.append(page)
            if not arguments.check:
                page.write_text(after, encoding="utf-8")
    for page in changed:
        print(page.relative_to(ROOT), file=sys.stderr)  # noqa: T201
    return int(arguments.check and bool(changed))


if __name__ == "__main__":
    raise SystemExit(main())
