"""The tables of docs/results.md and the model cards are what the committed results say."""

import json

import pytest

from benchmarks import keep_results, results_page
from mulo.errors import InputError
from tests.eval_tasks.synthetic import make_record, write


def test_pages_are_up_to_date():
    for page in results_page.pages():
        text = page.read_text(encoding="utf-8")
        assert results_page.fill(text) == text, f"{page.name}: run python -m benchmarks.results_page"


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
    assert "**1.0000 ± 0**" in rows[3] or "**1.0000" in rows[3]
    assert results_page.fill(after) == after


@pytest.mark.usefixtures("results")
def test_columns_can_be_chosen():
    page = "<!-- table: aggregate; of: one; columns: speed-up, score -->\n<!-- end -->\n"
    assert "| optimizer | speed-up | score |" in results_page.fill(page)


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("table: losses; of: one", "No table is called 'losses'"),
        ("table: loss; from: one", "No word of a table is called 'from'"),
        ("table: loss; of: none", "has no results"),
        ("table: aggregate; of: one; columns: cost", "No column is called 'cost'"),
    ],
)
def test_what_cannot_be_shown_is_refused(description, message):
    with pytest.raises(InputError, match=message):
        results_page.fill(f"<!-- {description} -->\n<!-- end -->")
