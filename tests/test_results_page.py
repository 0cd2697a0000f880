"""The tables of README, docs and the model cards are what the committed results say."""

import json

import pytest

from benchmarks import keep_results, meta_curve, results_page
from mulo.errors import InputError
from tests.eval_tasks.synthetic import make_record, write


def test_pages_are_up_to_date():
    tables = {}
    for page in results_page.pages():
        text = page.read_text(encoding="utf-8")
        assert results_page.fill(text) == text, f"{page.name}: run python -m benchmarks.results_page"
        tables[page.name] = text.count("<!-- table: ")
    assert tables["README.md"] and tables["results.md"]
    assert results_page.main(["--check"]) == 0


@pytest.mark.usefixtures("results")
def test_a_page_that_is_not_up_to_date_is_named_and_mended(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- table: loss; of: one -->\n<!-- end -->\n")
    monkeypatch.setattr(results_page, "ROOT", tmp_path)
    monkeypatch.setattr(results_page, "pages", lambda: [page])
    assert results_page.main(["--check"]) == 1
    assert capsys.readouterr().err == "page.md\n" and "|" not in page.read_text()
    assert results_page.main([]) == 0
    assert "| adamw-oracle |" in page.read_text()
    assert results_page.main(["--check"]) == 0


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of kept results of two optimizers at two widths."""
    records = [
        make_record(key=f"{label}{width}{seed}", optimizer=label, value=width, seed=seed, final_loss=loss)
        for label, loss in (("a", 1.0), ("adamw-oracle", 1.5))
        for width in (8, 16)
        for seed in (0, 1)
    ]
    records.append(make_record(key="tuning", optimizer="adamw-oracle", value=8, purpose="tune"))
    source = write(tmp_path / "results.jsonl", records)
    monkeypatch.setattr(results_page, "RESULTS", tmp_path / "kept")
    assert keep_results.main([str(source), str(tmp_path / "kept" / "one")]) == 0
    return tmp_path / "kept" / "one"


def test_kept_results_are_those_that_were_made_without_the_curves_of_tuning(results):
    assert sorted(file.name for file in results.iterdir()) == ["a.jsonl", "adamw-oracle.jsonl"]
    lines = [json.loads(line) for line in (results / "adamw-oracle.jsonl").read_text().splitlines()]
    assert [line["purpose"] for line in lines] == ["evaluate"] * 4 + ["tune"]
    assert [bool(line["losses"]["values"]) for line in lines] == [True] * 4 + [False]
    made = make_record(key="adamw-oracle80", optimizer="adamw-oracle", value=8, seed=0, final_loss=1.5)
    assert {**lines[0], "losses": made["losses"]} == json.loads(json.dumps(made))
    assert lines[0]["losses"]["values"] == pytest.approx(made["losses"]["values"], rel=1e-4)


@pytest.mark.usefixtures("results")
def test_a_table_is_filled_and_the_rest_of_the_page_stays():
    before = "Above.\n<!-- table: loss; of: one; optimizers: adamw-oracle, a -->\nold\n<!-- end -->\nBelow.\n"
    after = results_page.fill(before)
    assert after.startswith("Above.\n<!-- table") and after.endswith("<!-- end -->\nBelow.\n")
    rows = [line for line in after.splitlines() if line.startswith("|")]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["optimizer", "---", "adamw-oracle", "a"]
    assert rows[3].startswith("| a | **1.0000 ± ") and rows[2].startswith("| adamw-oracle | 1.5000 ± ")
    assert results_page.fill(after) == after


@pytest.mark.usefixtures("results")
def test_columns_can_be_chosen():
    def cells(description):
        lines = results_page.fill(f"<!-- {description} -->\n<!-- end -->\n").splitlines()
        rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
        return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows}

    whole, chosen = (cells(f"table: aggregate; of: one{more}") for more in ("", "; columns: speed-up, score"))
    assert list(chosen["a"]) == ["optimizer", "speed-up", "score"]
    assert chosen["a"].items() <= whole["a"].items() and len(set(chosen["a"].values())) == 3


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("table: losses; of: one", "No table is called 'losses'"),
        ("table: loss; from: one", "No word of a table is called 'from'"),
        ("table: loss; of: none", "has no results"),
        ("table: aggregate; of: one; columns: cost", "No column is called 'cost'"),
        ("table: loss; of: one; optimizers: adam", "No optimizer of these results is called 'adam'"),
        ("table: loss", "wanted a folder of them"),
        ("table: loss; of: one -->\n<!-- table: loss; of: one", "2 comments begin a table and 1 end one"),
    ],
)
def test_what_cannot_be_shown_is_refused(description, message):
    with pytest.raises(InputError, match=message):
        results_page.fill(f"<!-- {description} -->\n<!-- end -->")


def test_results_that_are_too_large_are_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    source = write(
        tmp_path / "results.jsonl",
        [
            make_record(optimizer="a"),
            make_record(optimizer="b", losses={"steps": list(range(99)), "values": [1.0] * 99}),
        ],
    )
    monkeypatch.setattr(keep_results, "MAX_BYTES", 1500)
    with pytest.raises(SystemExit):
        keep_results.main([str(source), str(tmp_path / "kept")])
    assert "b would have" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; wanted results"),
        (b'{"schema": 2, "optimizer": 3', "line 1: not a whole line of JSON"),
        (b"\xff\xfe", "line 1: not a whole line of JSON"),
        (b"[1, 2]", "line 1: not a JSON object"),
        (b'{"schema": 2}', "line 1: the field 'key' is missing"),
    ],
)
def test_what_is_no_result_is_not_kept(content, message, tmp_path, capsys):
    source = tmp_path / "results.jsonl"
    source.write_bytes(content)
    with pytest.raises(SystemExit) as left:
        keep_results.main([str(source), str(tmp_path / "kept")])
    said = capsys.readouterr().err
    assert left.value.code == 2 and message in said and said.count("\n") == 1
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("command", [keep_results.main, meta_curve.main])
def test_a_file_that_is_not_there_is_told_of_in_one_line(command, tmp_path, capsys):
    second = ["--name", "x"] if command is meta_curve.main else [str(tmp_path / "kept")]
    with pytest.raises(SystemExit):
        command([str(tmp_path / "none"), *second])
    assert "cannot be read: No such file or directory. Wanted" in capsys.readouterr().err.splitlines()[-1]
