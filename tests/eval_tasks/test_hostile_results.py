"""Results files that say anything: each line is used or named, in text that can be printed."""

import copy
import json
import os
import random

import pytest

from eval_tasks import comparison
from eval_tasks.cli import main
from eval_tasks.measures import measure
from eval_tasks.report.commands import make_report
from eval_tasks.report.tables import aggregates_csv, results_csv
from eval_tasks.report.terminal import print_comparison, print_report
from eval_tasks.results import read_results
from eval_tasks.runs import ResultStore
from mulo.errors import InputError
from tests.eval_tasks.corpus import BAD_LINES, BAD_VALUES, LONG_NAMES
from tests.eval_tasks.synthetic import make_record, make_suite, write
from tests.mulo.growth_of_time import check_linear


def look_at(path, capsys):
    """All that is made of a results file but pictures; nothing but text that can be printed comes out."""
    try:
        results = read_results([path])
        parts = measure(results, None)
        print_report(parts, results.notes)
        print_comparison(comparison.compare(results, results, {}), 0.0, [])
        for text in (aggregates_csv(parts), results_csv(parts)):
            text.encode()
    except InputError as error:
        assert str(error).replace(str(path), "").isprintable()
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())


@pytest.mark.parametrize("field", make_record())
def test_every_field_with_every_value(field, tmp_path, capsys):
    records = []
    for number, value in enumerate(BAD_VALUES):
        for seed in range(2):
            fields = {"seed": seed, "key": f"{number}-{seed}", "series": f"s{number % 3}", field: value}
            records.append(make_record(**fields))
    look_at(write(tmp_path / "results.jsonl", records), capsys)


def change(generator, record):
    record = copy.deepcopy(record)
    for _ in range(generator.randint(1, 3)):
        field, value = generator.choice(list(record)), copy.deepcopy(generator.choice(BAD_VALUES))
        if field == "losses":
            record[field] = {"steps": [0, value], "values": [value, 1.0]}
        elif isinstance(record[field], dict) and record[field]:
            record[field][generator.choice(list(record[field]))] = value
        elif field != "schema":
            record[field] = value
    return record


def test_random_changes(tmp_path, capsys):
    generator = random.Random(0)
    base = make_suite(values=(32, 64), series=("mlp-d3_digits",))
    for _ in range(15):
        records = generator.sample(base, generator.randint(1, len(base)))
        path = write(tmp_path / "results.jsonl", [change(generator, r) for r in records] + records[:3])
        content = bytearray(path.read_bytes())
        for _ in range(generator.randint(0, 5)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        path.write_bytes(content)
        look_at(path, capsys)


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_bad_lines_are_named_and_the_others_are_used(line, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(line + b"\n" + json.dumps(make_record()).encode() + b"\n")
    found = read_results([path])
    assert sum(file.num_used for file in found.files) == 1
    assert all(note.isprintable() for note in found.notes)
    if line.strip():
        with pytest.raises(InputError, match="line 1, is not a result"):
            ResultStore(tmp_path, notify=str)
    else:
        ResultStore(tmp_path, notify=str).close()


def test_texts_inside_objects_are_made_printable_too(tmp_path):
    record = make_record(provenance={"name\x1b": ["\ud800", {"a": "\x07"}]})
    found = read_results([write(tmp_path / "results.jsonl", [record])])
    ((run,),) = (row["adamw"] for row in found.cells.values())
    assert run["provenance"] == {"name\\x1b": ["\\ud800", {"a": "\\x07"}]}


def test_long_labels_stay_apart(tmp_path):
    labels = [f"optax.lion({'x' * 300}={number})" for number in range(2)]
    found = read_results([write(tmp_path / "a.jsonl", [make_record(optimizer=label) for label in labels])])
    assert len(found.labels) == 2
    assert max(map(len, found.labels)) <= 120


def test_many_labels_at_many_places_are_read_in_time_and_said_in_few_lines(tmp_path):
    def make(size):
        records = [make_record(optimizer=f"o{n}", value=n + 1, key=str(n), num_seeds=1) for n in range(size)]
        return write(tmp_path / f"{size}.jsonl", records)

    check_linear(make, lambda path: read_results([path]), 100)
    notes = read_results([make(50)]).notes
    assert len(notes) == 51
    assert notes[0].endswith("and 43 more places.")


@pytest.mark.parametrize("name", LONG_NAMES)
@pytest.mark.parametrize(
    "command",
    [
        "report {}",
        "report . --out {}",
        "compare {} {}",
        "import {} --as mulo -o a",
        "coord-check --task mlp-w8-d1_digits --out {}.png",
        "data --data-dir {}",
        "--suite wide --optimizer adamw --out {}",
        "--suite wide --optimizer {}",
        "--suite wide --optimizer adamw --data-set {}.txt",
    ],
)
def test_names_that_no_file_can_have_are_one_line(name, command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "results.jsonl", [make_record()])
    status = main(command.replace("{}", name).split())
    assert status == (0 if command.startswith("data") else 2)
    assert capsys.readouterr().err.count("\n") == status // 2
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_a_report_follows_no_links(tmp_path):
    write(tmp_path / "results.jsonl", [make_record(seed=seed, key=str(seed)) for seed in range(3)])
    treasure = tmp_path / "treasure"
    treasure.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    names = ["report.html", "results.csv", "aggregates.csv", "wide-cpu-curves.png", "wide-cpu-curves.svg"]
    for name in names:
        (out / name).symlink_to(treasure)
    make_report([tmp_path], out)
    assert treasure.read_text() == "mine"
    assert not [name for name in names if (out / name).is_symlink()]


def test_a_report_folder_that_is_a_link_is_refused(tmp_path, capsys):
    write(tmp_path / "results.jsonl", [make_record()])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "report").symlink_to(tmp_path / "elsewhere")
    assert main(["report", str(tmp_path)]) == 2
    assert "is a symbolic link" in capsys.readouterr().err
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_results_file_that_is_none_is_refused(kind, tmp_path):
    path, treasure = tmp_path / "a" / "results.jsonl", tmp_path / "treasure"
    path.parent.mkdir()
    treasure.write_text("")
    if kind == "link":
        path.symlink_to(treasure)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        ResultStore(path.parent, notify=str)
    assert treasure.read_text() == ""


def keys_in(path):
    return [json.loads(line)["key"] for line in path.read_text().splitlines()]


def test_two_evaluations_do_not_mix_when_a_folder_is_renamed(tmp_path):
    with ResultStore(tmp_path / "x", notify=str) as first:
        first.append(make_record(key="1"))
        (tmp_path / "x").rename(tmp_path / "y")
        with ResultStore(tmp_path / "x", notify=str) as second:
            second.append(make_record(key="2"))
            with pytest.raises(InputError, match="it was moved, replaced or removed"):
                first.append(make_record(key="3"))
            with pytest.raises(InputError, match="it was moved, replaced or removed"):
                first.check_place()
            second.append(make_record(key="4"))
    assert keys_in(tmp_path / "x/results.jsonl") == ["2", "4"]
    assert keys_in(tmp_path / "y/results.jsonl") == ["1", "3"]


def test_a_torn_line_is_cut_from_the_file_that_was_read(tmp_path):
    (tmp_path / "x").mkdir()
    whole = json.dumps(make_record(key="1")) + "\n"
    (tmp_path / "x/results.jsonl").write_text(whole + '{"key": "to')
    with ResultStore(tmp_path / "x", notify=str) as first:
        (tmp_path / "x").rename(tmp_path / "y")
        (tmp_path / "x").mkdir()
        (tmp_path / "x/results.jsonl").write_text(whole * 3)
        with pytest.raises(InputError, match="it was moved"):
            first.append(make_record(key="2"))
    assert (tmp_path / "x/results.jsonl").read_text() == whole * 3
    assert keys_in(tmp_path / "y/results.jsonl") == ["1", "2"]
