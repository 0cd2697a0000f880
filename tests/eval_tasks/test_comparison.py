import pytest

from eval_tasks.cli import main
from eval_tasks.comparison import compare
from eval_tasks.results import read_results
from mulo.errors import InputError
from tests.eval_tasks.synthetic import make_record, write


def runs(losses, label="mulo-a", tag="", **changes):
    """One run for each loss, at one task; `None` diverged. The tag makes them other runs."""
    return [
        make_record(
            optimizer=label, seed=seed, final_loss=loss, diverged=loss is None, num_seeds=len(losses),
            validation_loss=loss, key=f"{label}{changes}{seed}{tag}", **changes,
        )
        for seed, loss in enumerate(losses)
    ]  # fmt: skip


@pytest.fixture
def files(tmp_path):
    return lambda a, b: (write(tmp_path / "a.jsonl", a), write(tmp_path / "b.jsonl", b))


@pytest.fixture
def compare_records(files):
    return lambda a, b, pairs=None: compare(*(read_results([path]) for path in files(a, b)), pairs)


def test_ratio_is_the_geometric_mean_over_tasks(compare_records):
    a = [*runs([1.0, 1.0]), *runs([2.0, 2.0], value=64)]
    b = [*runs([4.0, 4.0], tag="b"), *runs([2.0, 2.0], value=64, tag="b"), *runs([9.0, 9.0], value=128)]
    found = compare_records(a, b)
    (difference,) = found.differences
    assert difference.num_points == 2
    assert difference.loss_ratio == pytest.approx((2.0, 2.0, 2.0))  # of 4 and 1
    assert found.overall.loss_ratio == difference.loss_ratio


def test_interval_resamples_both_sides(compare_records):
    # Each side's mean is 1, 2 or 3, the outer ones in a quarter of the draws: 3 and 1/3 in a sixteenth each.
    (difference,) = compare_records(runs([1.0, 3.0]), runs([1.0, 3.0], tag="b")).differences
    assert difference.loss_ratio == pytest.approx((1.0, 1 / 3, 3.0))
    assert not difference.is_regression(0.0)


@pytest.mark.parametrize(
    ("b", "tolerance", "is_regression"),
    [
        ([1.10, 1.12, 1.14], 0.0, True),
        ([1.10, 1.12, 1.14], 0.05, True),
        ([1.10, 1.12, 1.14], 0.2, False),
        ([0.90, 0.92, 0.91], 0.0, False),
        ([0.90, 1.40, 1.00], 0.0, False),
        ([0.50, 0.50, None], 0.0, True),
    ],
)
def test_regression(compare_records, b, tolerance, is_regression):
    (difference,) = compare_records(runs([1.0, 1.02, 0.98]), runs(b, tag="b")).differences
    assert difference.is_regression(tolerance) is is_regression


def test_the_same_runs_are_no_part_of_the_whole(compare_records):
    a = [*runs([1.0, 1.1], "adamw"), *runs([1.0, 1.0])]
    b = [*runs([1.0, 1.1], "adamw"), *runs([3.0, 3.0], tag="b")]
    found = compare_records(a, b)
    assert [(d.label, d.is_same) for d in found.differences] == [("adamw", True), ("mulo-a", False)]
    assert found.overall.loss_ratio.value == pytest.approx(3.0)
    assert compare_records(a, a).overall is None


def test_optimizers_with_other_names(compare_records):
    a = [*runs([1.0, 1.0], "adamw"), *runs([1.0, 1.0], "old")]
    b = [*runs([1.0, 1.0], "adamw"), *runs([2.0, 2.0], "new")]
    assert [d.label for d in compare_records(a, b).differences] == ["adamw", "old -> new"]
    b += runs([4.0, 4.0], "newer")
    found = compare_records(a, b)
    assert [d.label for d in found.differences] == ["adamw"]
    assert found.notes == ["Only in A: old.", "Only in B: new, newer."]
    labels = [d.label for d in compare_records(a, b, {"old": "newer"}).differences]
    assert labels == ["adamw", "old -> newer"]
    with pytest.raises(InputError, match=r"No optimizer of B is called 'mew'. Did you mean 'new'"):
        compare_records(a, b, {"old": "mew"})


def test_what_cannot_be_judged_is_said(compare_records):
    with pytest.raises(InputError, match="Nothing can be judged"):
        compare_records(runs([1.0]), runs([2.0], tag="b"))
    with pytest.raises(InputError, match="share no optimizer at any task"):
        compare_records(runs([1.0, 1.0]), runs([1.0, 1.0], value=64))
    a, b = [*runs([1.0, 1.0]), *runs([1.0], value=64)], [*runs([1.0, 1.2], tag="b"), *runs([1.0], value=64)]
    assert "1 of 2 tasks are not in the loss ratio" in compare_records(a, b).notes[0]


@pytest.mark.parametrize(
    ("b", "flags", "status", "verdict"),
    [
        (runs([1.1, 1.12], tag="b"), [], 1, "worse"),
        (runs([1.1, 1.12], tag="b"), ["--tolerance", "0.3"], 0, "no clear difference"),
        (runs([0.8, 0.9], tag="b"), [], 0, "better"),
        (runs([1.0, 1.01]), [], 0, "the same runs"),
    ],
)
def test_command(files, capsys, b, flags, status, verdict):
    a, b = files(runs([1.0, 1.01]), b)
    assert main(["compare", str(a), str(b), *flags]) == status
    assert verdict in capsys.readouterr().out


def test_what_b_lacks_or_ran_otherwise_is_said_and_does_not_pass(files, capsys):
    wide = {"value": 64, "task": "mlp-w64-d3_digits"}
    a = [*runs([1.0, 1.01]), *runs([1.0, 1.01], **wide)]
    for b, note in (
        (runs([0.8, 0.81], tag="b"), "1 of 2 tasks of A are not in B (first: mlp-d3_digits at width 64)."),
        (
            [*runs([0.8, 0.81], tag="b"), *runs([0.1, 0.11], tag="b", num_steps=1000, **wide)],
            "mlp-d3_digits at width 64 is left out; A and B differ in num_steps.",
        ),
    ):
        paths = [str(path) for path in files(a, b)]
        assert main(["compare", *paths]) == 1
        said = " ".join(capsys.readouterr().out.split())
        assert note in said
        assert "0.80" in said  # the other task alone
        assert main(["compare", *paths, "--allow-missing"]) == 0
        capsys.readouterr()


def test_missing_seeds_and_other_devices_are_said(files, capsys):
    a = runs([1.0, 1.01, 1.02])
    b = runs([0.8, 0.81], tag="b", versions={"device": "H100"})
    assert main(["compare", *map(str, files(a, b))]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "A and B differ in device" in said
    assert "seeds of A are not in B at 1 of 1 tasks" in said


def test_why_nothing_can_be_compared_is_said(files, capsys):
    paths = files(runs([1.0, 1.01]), runs([0.8, 0.81], tag="b", num_steps=1000))
    assert main(["compare", *map(str, paths)]) == 2
    assert "A and B differ in num_steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.jsonl"], "the following arguments are required: B"),
        (["a.jsonl", "b.jsonl"], "a.jsonl cannot be read"),
        (["a", "b", "--tolerance", "-1"], "--tolerance is -1.0; wanted a number from 0"),
        (["a", "b", "--match", "x"], "--match is 'x'; wanted LABEL_IN_A=LABEL_IN_B"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
