"""What recipes and thetas are chosen by is not what released optimizers are measured on."""

import numpy as np
import pytest

from benchmarks import choose_recipe
from benchmarks.choose_recipe import TASKS, load_held_out, main
from eval_tasks.data import load_data
from eval_tasks.data.source import hold_out
from eval_tasks.names import parse_task_name
from eval_tasks.results import read_results
from eval_tasks.suites import SUITES
from meta_train.presets import PRESETS

RECIPES = ("mulo-s", "lo-sp-s", "mulo-x", "muvelo-s", "velo-s")
SUITE_TASKS = {
    str(series.point(value).task)
    for sizes in SUITES.values()
    for spec in sizes.values()
    for series in spec.series
    for value in series.values
}


@pytest.mark.parametrize("name", RECIPES)
def test_no_validation_task_of_a_recipe_is_of_a_suite(name):
    assert "mlp-w512-d3_digits" in SUITE_TASKS
    assert not SUITE_TASKS & set(PRESETS[name].validation_tasks)


def test_no_task_of_the_choice_is_of_a_suite():
    assert not SUITE_TASKS & set(TASKS)


@pytest.mark.parametrize("name", RECIPES)
def test_nor_has_a_kind_of_model_the_width_that_it_has_in_a_suite_that_results_are_of(name):
    measured = {
        (series.base.model, value if series.axis == "width" else series.base.width)
        for sizes in SUITES.values()
        for series in sizes["cpu"].series
        for value in series.values
    }
    assert ("convnet", 16) in measured
    chosen = map(parse_task_name, [*PRESETS[name].validation_tasks, *TASKS])
    assert not measured & {(task.model, task.width) for task in chosen}


def test_the_validation_split_stays_unseen():
    whole, held_out = load_data("digits"), load_held_out("digits")
    images = np.asarray(held_out.validation.images)
    np.testing.assert_array_equal(images, np.asarray(whole.train.images)[-len(images) :])
    assert held_out.num_examples("train") + len(images) == whole.num_examples("train")


@pytest.mark.usefixtures("standard_promotion")
def test_it_runs_optimizers_and_says_what_is_wrong_in_a_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(TASKS, "mlp-w4-d1_digits", (3, 8))
    held_out = []
    monkeypatch.setattr(choose_recipe, "hold_out", lambda source: held_out.append(source) or hold_out(source))
    assert main(["adam-1e-3", "--tasks", "mlp-w4-d1_digits", "--num-seeds", "1", "--out", str(tmp_path)]) == 0
    (row,) = read_results([tmp_path]).cells.values()
    assert [record["num_steps"] for record in row["adam-1e-3"]] == [3]
    assert len(held_out) == 1
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["adam-1e-3", "--tasks", "mlp-w4_digits", "--out", str(tmp_path)])
    assert "No task of the choice is called 'mlp-w4_digits'" in capsys.readouterr().err
