import dataclasses
import io
import itertools
import json
import math

import pytest

from eval_tasks.aggregates import estimate
from eval_tasks.baselines import Baseline
from eval_tasks.contenders import baseline_contender, make_contenders
from eval_tasks.data import load_data
from eval_tasks.evaluation import Evaluation, count_runs
from eval_tasks.report.figures import draw_figure
from eval_tasks.report.text import print_tables
from eval_tasks.runs import ResultStore
from eval_tasks.suites import Suite, make_suite
from eval_tasks.tuning import GRID, choose
from mulo.errors import InputError
from tests.descriptors import SMALL_FC_H4

GIVEN = {"base_width": 2, "depth": 1, "data_set": "digits"}


def test_choice_of_a_learning_rate():
    assert choose({0.1: [1.0, 2.0], 0.2: [1.4, 1.4], 0.4: [0.0, None]}) == (0.2, False)
    assert choose({0.1: [1.0], 0.2: [1.0], 0.4: [1.0]}) == (0.1, True)
    assert choose({0.1: [None], 0.2: [3.0]}) == (0.2, True)


def test_baselines_that_differ_in_more_than_rate_and_decay_share_no_program():
    plain = Baseline(parametrization="sp", learning_rate=None, tuned_at="each width", weight_decay=0.0)
    decayed = dataclasses.replace(plain, weight_decay=0.1)
    other = dataclasses.replace(plain, b1=0.8)
    programs = [
        baseline_contender(name, b).program for name, b in (("a", plain), ("b", decayed), ("c", other))
    ]
    assert programs[0] == programs[1] != programs[2]


def test_the_grid_goes_up_by_factors_of_two():
    assert all(math.isclose(high, 2 * low) for low, high in itertools.pairwise(GRID))


def test_estimate_over_seeds():
    assert estimate([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / math.sqrt(3)), 0, 3)
    assert estimate([4.0]) == (4.0, None, 0, 1)
    assert estimate([4.0, None]) == (None, None, 1, 2)


def test_a_suite_takes_base_width_depth_and_data_from_the_checkpoint():
    suite = make_suite("wide", {}, {"a": {"tasks": ["mlp-w8-d2_digits", "mlp-w16-d3_digits"]}})
    assert (suite.base_width, suite.depth, suite.data_set) == (16, 3, "digits")
    assert suite.widths == (16, 64, 128, 256)
    assert make_suite("wide", {"base_width": 3}, {"a": {"tasks": ["mlp-w8-d2_digits"]}}).widths[-1] == 48


@pytest.mark.parametrize(
    ("provenances", "message"),
    [
        ({}, "No learned optimizer says what to run; give --base-width, --depth, --data-set."),
        ({"a": {}}, "The checkpoint a does not say which tasks"),
        (
            {"a": {"tasks": ["mlp-w8-d2_digits"]}, "b": {"tasks": ["mlp-w4-d2_digits"]}},
            "a: 8, b: 4\\); give --base-width",
        ),
    ],
)
def test_what_the_checkpoints_do_not_say_must_be_given(provenances, message):
    with pytest.raises(InputError, match=message):
        make_suite("wide", {}, provenances)


def test_all_baselines_take_part_unless_some_are_named(tmp_path):
    import mulo

    path = tmp_path / "theta.mulo"
    mulo.save(path, SMALL_FC_H4.checkpoint())
    labels = [contender.label for contender in make_contenders([str(path)])]
    assert labels == [tmp_path.name, "adamw", "muadamw", "adam-1e-3"]
    assert [contender.label for contender in make_contenders([str(path), "adamw"])] == labels[:2]


def test_number_of_runs_counts_tuning():
    suite = make_suite("wide", GIVEN, {})
    wanted = {"adamw": 4 * len(GRID) + 4, "muadamw": len(GRID) + 4, "adam-1e-3": 4}
    for name, points in wanted.items():
        assert count_runs(suite, make_contenders([name])) == 3 * points


@pytest.mark.usefixtures("standard_promotion")
def test_what_has_no_accuracy_is_null_in_the_results_and_left_out_of_the_tables(tmp_path):
    suite = Suite(
        name="wide",
        model="autoencoder",
        multiples=(1,),
        base_width=4,
        depth=1,
        data_set="digits",
        num_steps=3,
        batch_size=4,
        num_seeds=1,
        seed=0,
    )
    (contender,) = make_contenders(["adam-1e-3"])
    store = ResultStore(tmp_path, notify=str)
    cell = Evaluation(suite, load_data("digits"), store, lambda *_: None).cell(contender, 4)
    (line,) = store.path.read_text().splitlines()
    record = json.loads(line)
    assert record["validation_accuracy"] is None
    assert not record["diverged"]
    assert record["validation_loss"] == pytest.approx(1.0, rel=0.2)
    results, text = {contender.label: {4: cell}}, io.StringIO()
    print_tables(results, suite, text)
    assert f"{record['validation_loss']:.4f} " in text.getvalue()
    assert "%" not in text.getvalue()
    draw_figure(results, suite, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
