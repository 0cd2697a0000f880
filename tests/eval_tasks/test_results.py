import json
import re

import pytest

from eval_tasks.result_lines import FIELDS, parse_line
from eval_tasks.results import read_results
from mulo.errors import InputError
from tests.architecture.sources import ROOT
from tests.eval_tasks.synthetic import make_record, make_suite, write

DOC = (ROOT / "docs" / "results-schema.md").read_text(encoding="utf-8")


def test_the_published_schema_says_what_the_reader_does():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (yes|no) \|", DOC, flags=re.MULTILINE)
    documented = [(name, kind, required == "yes") for name, kind, required in rows]
    assert documented == [(name, field.kind, field.required) for name, field in FIELDS.items()]


def test_the_published_example_can_be_read_and_has_every_field():
    example = re.search(r"```json\n(.*?)```", DOC, flags=re.DOTALL).group(1).replace("\n", " ")
    assert parse_line(example)["optimizer"] == "mine"
    assert set(json.loads(example)) == set(FIELDS)


def test_required_fields_are_enough_and_each_is_needed():
    least = {name: value for name, value in make_record().items() if FIELDS[name].required}
    assert parse_line(json.dumps(least))["losses"] == {"steps": [], "values": []}
    for name in least:
        without = {other: value for other, value in least.items() if other != name}
        with pytest.raises(InputError, match="schema" if name == "schema" else f"'{name}' is missing"):
            parse_line(json.dumps(without))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key": "a', "not a whole line"),
        ("[1]", "not a JSON object"),
        ('{"key": "a"}', "no schema is given, wanted 2"),
        ('{"schema": 3}', "schema 3, wanted 2"),
        ("[" * 100_000, "nested deeper than 16"),
        ({"seed": -1}, "seed is -1, wanted a whole number"),
        ({"seed": True}, "seed is true, wanted a whole number"),
        ({"value": None}, "value is null, wanted a number or string"),
        ({"provenance": 3}, "provenance is 3, wanted an object or null"),
        ({"purpose": "test"}, "purpose is \"test\", wanted evaluate or tune"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"final_loss": None}, "final_loss is null though diverged is false"),
        ({"losses": {"steps": [0, 1], "values": [1.0]}}, "losses is not two lists"),
        ({"losses": {"steps": [1, 0], "values": [1.0, 1.0]}}, "losses is not two lists"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line(line, message):
    with pytest.raises(InputError, match=message):
        parse_line(json.dumps(make_record(**line)) if isinstance(line, dict) else line)


def test_numbers_that_are_not_finite_are_missing():
    record = make_record(validation_loss=float("nan"), losses={"steps": [0, 1], "values": [1.0, 1e400]})
    parsed = parse_line(json.dumps(record))
    assert parsed["validation_loss"] is None
    assert parsed["losses"]["values"] == [1.0, None]
    assert parse_line(json.dumps(make_record(diverged=True, validation_loss=3.0)))["validation_loss"] is None


def test_labels_cannot_control_the_terminal():
    parsed = parse_line(json.dumps(make_record(optimizer="a\x1b[31m\n" + "b" * 500)))
    assert parsed["optimizer"].startswith("a\\x1b[31m\\nb")
    assert len(parsed["optimizer"]) == 120


def test_the_good_part_is_kept_and_every_gap_is_named(tmp_path):
    records = make_suite(values=(32, 64), series=("mlp-d3_digits",))
    drop = {("adamw", 64, 1), ("adam-1e-3", 32, 0), ("adam-1e-3", 32, 1), ("adam-1e-3", 32, 2)}
    kept = [r for r in records if (r["optimizer"], r["value"], r["seed"]) not in drop]
    folder = tmp_path / "out"
    folder.mkdir()
    path = write(folder / "results.jsonl", [kept[0], make_record(schema=1), *kept[1:]])
    with path.open("a") as file:
        file.write('\n{"schema": 2, "key": "to')
    found = read_results([folder])
    assert found.files[0].num_used == len(kept)
    assert [(str(p), list(row)) for p, row in found.cells.items()] == [
        ("mlp-d3_digits at width 32", ["mulo-small", "sp-small", "muadamw", "adamw"]),
        ("mlp-d3_digits at width 64", ["mulo-small", "sp-small", "muadamw", "adamw", "adam-1e-3"]),
    ]
    assert list(found.notes) == [
        f"{path}: line 2 left out: schema 1, wanted 2.",
        f"{path}: line {len(kept) + 3} left out: not a whole line of JSON.",
        "wide (cpu): adam-1e-3 has no runs for mlp-d3_digits at width 32.",
        "wide (cpu): adamw has 2 of 3 seeds for mlp-d3_digits at width 64 (missing: seed 1).",
    ]


def test_many_bad_lines_are_one_note(tmp_path):
    path = write(tmp_path / "a.jsonl", [*[{"schema": 1}] * 9, make_record(size="smoke", num_seeds=1)])
    (note,) = read_results([path]).notes
    assert note == f"{path}: lines 1, 2, 3, 4, 5, 6 and 3 more left out: schema 1, wanted 2."


def test_the_same_run_twice_counts_once_and_another_under_its_label_is_named(tmp_path):
    first = write(tmp_path / "a.jsonl", [make_record(size="smoke", num_seeds=1)] * 2)
    same = write(tmp_path / "b.jsonl", [make_record(size="smoke", num_seeds=1)])
    other = write(tmp_path / "c.jsonl", [make_record(size="smoke", num_seeds=1, key="other", final_loss=0.1)])
    assert read_results([first, same]).notes == ()
    found = read_results([first, other])
    assert [run["final_loss"] for run in next(iter(found.cells.values()))["adamw"]] == [0.1]
    assert found.notes[0].startswith("adamw: 1 runs left out that have this label")


def test_a_mean_is_over_runs_of_one_setting_the_last_one(tmp_path):
    """Seeds of an earlier command, of another rate, are not averaged with those of a later one."""
    early = [make_record(seed=seed, learning_rate=1e-3, key=f"a{seed}") for seed in range(3)]
    late = [make_record(seed=seed, learning_rate=4e-3, key=f"b{seed}") for seed in (2, 3)]
    found = read_results([write(tmp_path / "a.jsonl", [*early, *late])])
    (runs,) = (row["adamw"] for row in found.cells.values())
    assert [(run["seed"], run["learning_rate"]) for run in runs] == [(2, 4e-3), (3, 4e-3)]
    assert found.notes[0].startswith("adamw: 3 runs left out")


@pytest.mark.parametrize("field", ["value", "state_bytes"])
def test_a_number_beyond_any_float_is_a_bad_line(tmp_path, field):
    records = [make_record(seed=seed, key=f"{seed}") for seed in range(3)]
    found = read_results([write(tmp_path / "a.jsonl", [*records, make_record(**{field: 10**400})])])
    (note,) = found.notes
    assert "line 4" in note and field in note


def test_fewer_seeds_than_a_size_asks_for_are_said(tmp_path):
    (note,) = read_results([write(tmp_path / "a.jsonl", [make_record(num_seeds=1)])]).notes
    assert note == "wide (cpu): results of fewer seeds than the 3 of this size."


def test_what_was_not_run_alike_is_named(tmp_path):
    records = [
        make_record(num_seeds=1),
        make_record(num_seeds=1, optimizer="sgd", num_steps=50),
        make_record(num_seeds=1, suite="deep", size="gpu"),
    ]
    notes = read_results([write(tmp_path / "a.jsonl", records)]).notes
    assert notes[0] == "Several suites or sizes: deep (gpu), wide (cpu). Each is aggregated for itself."
    assert notes[1] == "Runs with different numbers of steps are compared: place mlp-d3_digits at width 32."


def test_code_may_differ_between_optimizers_but_not_for_one_or_between_baselines(tmp_path):
    def records(learned, *baselines):
        software = [{"jax": "1", "code": code} for code in (learned, *baselines)]
        names = ["mine", "adamw", "sgd"][: len(software)]
        return [
            make_record(
                size="smoke",
                num_seeds=1,
                optimizer=name,
                software=one,
                provenance={"seed": 0} if name == "mine" else None,
            )
            for name, one in zip(names, software, strict=True)
        ]

    assert read_results([write(tmp_path / "a.jsonl", records("a", "b", "b"))]).notes == ()
    (note,) = read_results([write(tmp_path / "b.jsonl", records("a", "b", "c"))]).notes
    assert note == "The runs of the baselines are of different versions of mulo's code."
    other = [dict(one, value=64) for one in records("d", "b")]
    (note,) = read_results([write(tmp_path / "c.jsonl", [*records("a", "b"), *other])]).notes
    assert note == "The runs of mine are of different versions of mulo's code."


def test_a_label_that_stands_for_two_thetas_is_named(tmp_path):
    records = [
        make_record(size="smoke", num_seeds=1, value=value, optimizer_config={"theta": digest})
        for value, digest in ((32, "a"), (64, "b"))
    ]
    notes = read_results([write(tmp_path / "a.jsonl", records)]).notes
    assert notes == ("adamw stands for different thetas at different places.",)


def test_nothing_usable_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.jsonl cannot be read: No such file"):
        read_results([tmp_path / "nowhere.jsonl"])
    with pytest.raises(InputError, match=r"is a folder without results\.jsonl"):
        read_results([tmp_path])
    with pytest.raises(InputError, match=r"Nothing to report on: .*a.jsonl: line 1 left out: schema 1"):
        read_results([write(tmp_path / "a.jsonl", [{"schema": 1}])])
    with pytest.raises(InputError, match="no finished runs"):
        read_results([write(tmp_path / "b.jsonl", [make_record(purpose="tune")])])
