import csv
import html
import html.parser
import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from eval_tasks.cli import main
from eval_tasks.measures import measure
from eval_tasks.report.canvas import new_figure, style
from eval_tasks.report.markup import Markup, element
from eval_tasks.report.plots import make_panels
from eval_tasks.report.tables import aggregate_table, results_csv, series_tables, winner_table
from eval_tasks.report.terminal import print_report, print_table
from eval_tasks.report.write import write_report
from eval_tasks.results import read_results
from tests.architecture.sources import ROOT
from tests.eval_tasks.synthetic import make_record, make_suite, write

HOSTILE = "<script>alert(1)</script>\"'&$\\frac{$ _x"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report on two suites, one of them of tasks, with a hostile label and a gap."""
    folder = tmp_path_factory.mktemp("report")
    wide = make_suite(series=("mlp-d3_digits",), values=(32, 512), num_points=20)
    tasks = make_suite("arch", series=("vit-w64", "rnn-w64"), axis="task", values=(64,), num_points=20)
    for record in wide:
        record["optimizer"] = HOSTILE if record["optimizer"] == "adam-1e-3" else record["optimizer"]
    path = write(folder / "results.jsonl", [*wide[:-1], *tasks])
    results = read_results([path])
    parts = measure(results)
    return results, parts, write_report(results, parts, folder / "out")


def page_of(written):
    return next(path for path in written[2] if path.name == "report.html").read_text(encoding="utf-8")


def test_files(written):
    names = sorted(path.name for path in written[2])
    pictures = ("arch-cpu-curves", "arch-cpu-scores", "arch-cpu-speed-up", "wide-cpu-curves", "wide-cpu-loss",
                "wide-cpu-scores", "wide-cpu-speed-up")  # fmt: skip
    expected = ["aggregates.csv", "report.html", "results.csv"]
    expected += [f"{name}.{ending}" for name in pictures for ending in ("png", "svg")]
    assert names == sorted(expected)
    for path in written[2]:
        start = {".png": b"\x89PNG", ".svg": b"<?xml", ".html": b"<!DOCTYPE html>", ".csv": b"suite,size,"}
        assert path.read_bytes().startswith(start[path.suffix]), path


def test_labels_are_text_everywhere(written):
    page = page_of(written)
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert page.count("<script>") == 1


def test_the_page_holds_nothing_that_could_be_fetched(written):
    page = html.unescape(page_of(written))
    assert "default-src 'none'; script-src 'sha256-" in page
    outside = re.findall(r"""(?:src|href)="([^"#][^"]*)"|url\((?!#)([^)]*)\)|@import""", page)
    assert outside == []


def test_the_page_is_well_formed_and_its_identifiers_are_unique(written):
    class Checker(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.identifiers = [], []

        def handle_starttag(self, tag, attributes):
            self.identifiers += [value for name, value in attributes if name == "id"]
            if tag not in ("meta", "br", "hr"):
                self.open.append(tag)  # one that ends itself, as in SVG, comes with its end

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(page_of(written))
    assert checker.open == []
    assert len(checker.identifiers) == len(set(checker.identifiers)) > 50


def test_the_page_says_what_is_missing_and_how_it_was_measured(written):
    page = page_of(written)
    assert "has 2 of 3 seeds for mlp-d3_digits at width 512 (missing: seed 2)" in page
    for words in ("How this was measured", written[0].files[0].digest, "0.10.2", "percentile bootstrap"):
        assert words in page
    for title in ("Winners", "Divergence", "Tuning cost", "Every result", "Training curves", "Speed-up"):
        assert f">{title}</h3>" in page, title


def test_the_headings_of_a_changed_suite(tmp_path):
    """Its name has a colon and commas; headings of tables hold nothing of it."""
    path = write(tmp_path / "a.jsonl", [make_record(suite_changes="num_steps=10, width=4")])
    results = read_results([path])
    page = write_report(results, measure(results), tmp_path)[0].read_text(encoding="utf-8")
    assert re.findall("<h2>(wide[^<]*)</h2>", page) == ["wide (cpu, changed: num_steps=10, width=4)"]
    tables = {"Over all tasks", "Winners", "Divergence", "Tuning cost", "Every result"}
    assert tables < set(re.findall("<h3>([^<]*)</h3>", page))


def test_the_same_results_give_the_same_files(written, tmp_path):
    results, parts, paths = written
    for first, second in zip(paths, write_report(results, parts, tmp_path), strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_csv_has_every_cell_in_full(written):
    rows = list(csv.DictReader(io.StringIO(results_csv(written[1]))))
    assert len(rows) == sum(len(row) for part in written[1] for row in part.cells.values())
    one = next(
        r for r in rows if r["optimizer"] == "mulo-small" and r["value"] == "32" and r["suite"] == "wide"
    )
    cell = next(iter(written[1][1].cells.values()))["mulo-small"]
    assert float(one["final_loss"]) == cell.final_loss.mean
    assert one["seeds"] == "0 1 2"
    diverged = next(r for r in rows if r["optimizer"] == "sp-small" and r["value"] == "512")
    assert (diverged["final_loss"], diverged["num_diverged"]) == ("", "3")


def test_a_loss_of_zero_leaves_the_axes_logarithmic(tmp_path):
    """Of float32, where a network fits its batch; the others span orders of magnitude."""
    zero = {"steps": [0, 50, 99], "values": [2.3, 1e-4, 0.0]}
    records = [
        make_record(seed=seed, value=value, key=f"{seed} {value}", final_loss=loss, losses=zero)
        for value in (32, 64)
        for seed, loss in enumerate((0.0, 1e-6, 0.1))
    ]
    results = read_results([write(tmp_path / "a.jsonl", records)])
    (part,) = measure(results)
    scales = {}
    for panel in make_panels(part, {"adamw": style(0)}):
        if panel.kind in ("loss", "curves"):
            axes = new_figure(4, 3).subplots()
            panel.draw(axes)
            scales[panel.title] = axes.get_yscale(), axes.get_ylim()[0] > 0
    assert len(scales) >= 3
    validation = next(title for title in scales if "validation" in title)
    assert {title for title, found in scales.items() if found != ("log", True)} == {validation}


def test_a_label_is_no_formula_for_a_spreadsheet(tmp_path):
    path = write(tmp_path / "a.jsonl", [make_record(optimizer="=1+1")])
    assert ",'=1+1," in results_csv(measure(read_results([path])))


def test_tables_mark_the_best_and_sort_by_numbers(written):
    wide = written[1][1]
    table = aggregate_table(wide)
    best = {row[0].text: [value.is_best for value in row] for row in table.rows}
    assert best["mulo-small"][2:5] == [True, True, True]
    assert not any(best["adamw"])
    winners = winner_table(wide)
    assert [row[1].text for row in winners.rows] == ["mulo-small", "mulo-small"]
    assert winners.rows[0][3].number == wide.cells[next(iter(wide.cells))]["mulo-small"].final_loss.mean


def test_terminal_text_is_plain_and_whole(written):
    out = io.StringIO()
    print_report(written[1], ["a gap"], out)
    text = out.getvalue()
    assert all(character < "\x7f" for character in text)
    assert HOSTILE in text
    wide = text[text.index("wide (cpu)\n") :]
    assert "mlp-d3_digits, final training loss\n" in wide
    assert wide.index("Winners\n") < wide.index("Over all tasks\n")
    assert text.rstrip().endswith("a gap")


def test_series_have_a_column_for_each_value_and_tasks_a_table_each(written):
    tasks, wide = written[1]
    loss, validation, rates = series_tables(wide)
    assert loss.columns == validation.columns == ["optimizer", "width 32", "width 512"]
    rows = {row[0].text: row for row in loss.rows}
    cells = {place: row["mulo-small"] for place, row in zip((1, 2), wide.cells.values(), strict=True)}
    for place, cell in cells.items():
        assert rows["mulo-small"][place].number == cell.final_loss.mean
        assert [label for label, row in rows.items() if row[place].is_best] == ["mulo-small"]
    assert rows["sp-small"][2].text == "diverged"
    accuracy = 100 * cells[1].validation_accuracy.mean
    assert f"({accuracy:.1f} %)" in next(r for r in validation.rows if r[0].text == "mulo-small")[1].text
    tuned = {row[0].text: [value.text for value in row[1:]] for row in rates.rows}
    assert tuned["muadamw"] == ["base value", "0.002", "0.002"]
    assert tuned["adamw"][0] == "each value"
    assert tuned["mulo-small"] == ["not tuned", "none", "none"]
    assert [table.title for table in series_tables(tasks)] == [str(point) for point in tasks.cells]


@pytest.mark.parametrize("width", [60, 80, 400])
def test_a_terminal_too_narrow_for_a_table_gets_it_in_pieces_and_nothing_is_cut(written, width):
    table, out = aggregate_table(written[1][1]), io.StringIO()
    print_table(Console(file=out, width=width, force_terminal=True, color_system=None), table)
    lines = out.getvalue().splitlines()
    plain = [line for line in lines if line.rstrip() not in (table.about, table.title)]
    assert max(map(len, plain)) <= width
    seen = "\n".join(plain)
    for row in table.rows:
        if HOSTILE not in row[0].text:  # it has a space to break at
            assert all(value.text in seen for value in row)


def test_twenty_one_optimizers_can_be_told_apart():
    assert len({style(index) for index in range(21)}) == 21
    assert len({(style(index).colour, style(index).dashes) for index in range(21)}) == 21


@pytest.mark.parametrize(
    "records",
    [
        [make_record(num_seeds=1, losses={"steps": [], "values": []})],
        [make_record(diverged=True, losses={"steps": [0], "values": [None]})],
        [make_record(optimizer="a", guessing_loss=None, validation_loss=None)],
        [make_record(axis="task", value="a task"), make_record(axis="task", value="b", optimizer="sgd")],
        [make_record(value="wide"), make_record(value=0), make_record(value=-3.5)],
        [make_record(final_loss=0.0, validation_loss=0.0, losses={"steps": [0], "values": [0.0]})],
        [make_record(suite="../x", size="日本"), make_record(suite=" ", size="/"), make_record(suite="/")],
        [make_record(optimizer=f"label {i}" * 9) for i in range(25)],
        [make_record(optimizer="$\\frac{$", series="$\\frac{$", axis="$\\frac{$", unit="$\\frac{$")],
    ],
    ids=["no-curve", "all-diverged", "no-reference", "tasks", "odd-values", "zero", "odd-names", "many",
         "formula"],
)  # fmt: skip
def test_odd_results_are_reported_on(tmp_path, records):
    results = read_results([write(tmp_path / "a.jsonl", records)])
    paths = write_report(results, measure(results), tmp_path / "out")
    assert len(paths) == len(set(paths)) >= 3
    assert all(path.parent == tmp_path / "out" and path.exists() for path in paths)


def test_command(tmp_path, capsys):
    write(tmp_path / "results.jsonl", make_suite(series=("a",), values=(32, 64), num_points=10))
    assert main(["report", str(tmp_path), "--reference", "adamw"]) == 0
    out = capsys.readouterr().out
    assert f"report: {tmp_path / 'report' / 'report.html'}" in out
    assert "1 for adamw" in out
    assert main(["report", str(tmp_path), "--reference", "adamv"]) == 2
    assert "Did you mean 'adamw'" in capsys.readouterr().err
    (tmp_path / "taken").write_text("")
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "taken")]) == 2
    assert "taken is no folder; wanted a folder" in capsys.readouterr().err


def test_reports_need_no_jax(tmp_path):
    path = write(tmp_path / "a.jsonl", [make_record()])
    program = (
        "import sys; from eval_tasks.cli import main; "
        f"status = main(['report', {str(path)!r}]); sys.exit(status or 'jax' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True).returncode
        == 0
    )


def test_markup_escapes_all_that_is_not_markup():
    assert element("p", "<", Markup("<br>"), title='"') == '<p title="&quot;">&lt;<br></p>'
