import dataclasses
import importlib
import itertools
import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mulo
from eval_tasks.aggregates import estimate
from eval_tasks.baselines import DEFAULT_BASELINES, FAMILIES, Baseline, make_baseline
from eval_tasks.contenders import baseline_contender, make_contenders
from eval_tasks.evaluation import Evaluation, total_cost
from eval_tasks.names import parse_task_name
from eval_tasks.report.commands import make_report
from eval_tasks.results import read_results
from eval_tasks.runs import ResultStore, Run
from eval_tasks.sources import Learned, find_checkpoint, parse_source
from eval_tasks.suites import SIZES, SUITES, Series, Suite, make_suite
from eval_tasks.task import make_task
from eval_tasks.training import make_program
from eval_tasks.tuning import NUM_TRIALS, choose, make_grid
from mulo.errors import InputError
from tests.closeness import assert_trees_close
from tests.descriptors import CELO, SMALL_FC_H4
from tests.eval_tasks.synthetic import make_record

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_choice_of_a_learning_rate():
    assert choose({0.1: [1.0, 2.0], 0.2: [1.4, 1.4], 0.4: [0.0, None]}) == 0.2
    assert choose({0.1: [1.0], 0.2: [1.0], 0.4: [1.0]}) == 0.1
    assert choose({0.1: [None], 0.2: [3.0]}) == 0.2


def test_baselines_that_differ_in_more_than_the_rate_share_no_program():
    family = FAMILIES["adamw"]
    others = [family, family._replace(config={**family.config, "b1": 0.8}), FAMILIES["adam"]]
    programs = {baseline_contender("a", Baseline(family=other)).program for other in others}
    assert len(programs) == 3


def test_every_family_has_the_same_number_of_trials():
    for family in FAMILIES.values():
        grid = make_grid(family.centre)
        assert len(grid) == NUM_TRIALS
        assert all(math.isclose(high, 2 * low) for low, high in itertools.pairwise(grid))


def test_estimate_over_seeds():
    assert estimate([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / math.sqrt(3)), 0, 3)
    assert estimate([4.0]) == (4.0, None, 0, 1)
    assert estimate([4.0, None]) == (None, None, 1, 2)


def test_a_suite_takes_base_width_and_depth_from_the_checkpoint():
    (series,) = make_suite(
        "wide", "smoke", {}, {"a": {"tasks": ["mlp-w8-d2_digits", "mlp-w16-d3_digits"]}}
    ).series
    assert (series.base.width, series.base.depth, series.base.data_set) == (16, 3, "digits")
    assert series.values == (16, 64, 128, 256)
    (series,) = make_suite("wide", "smoke", {"width": 3}, {"a": {"tasks": ["mlp-w8-d2_digits"]}}).series
    assert series.values[-1] == 48
    # What is varied keeps its ratio to the base; what the suite does not follow is its own.
    (series,) = make_suite("deep", "smoke", {"depth": 6}, {"a": {"tasks": ["mlp-w8-d2_digits"]}}).series
    assert (series.base.depth, series.values, series.base.width) == (6, (6, 16), 8)
    (series,) = make_suite("long", "smoke", {"num_steps": 10}, {"a": {}, "b": {"tasks": ["sine:8"]}}).series
    assert (series.values, series.point(50).num_steps) == ((10, 50), 50)


def test_series_that_cannot_have_a_data_set_are_left_out_if_there_are_others():
    wide = make_suite("wide", "gpu", {"data_set": "cifar10"}, {})
    assert [series.name for series in wide.series] == ["mlp-w64-d3_cifar10 by width"]
    text = make_suite("wide", "gpu", {"data_set": "pydoc"}, {})
    assert [series.base.model for series in text.series] == ["transformer"]
    with pytest.raises(InputError, match="Model 'mlp' is for image data, and 'pydoc' is text"):
        make_suite("wide", "smoke", {"data_set": "pydoc"}, {})


def test_the_wide_suite_has_the_paper_s_widths_on_images_and_a_language_model():
    series = make_suite("wide", "gpu", {}, {}).series
    largest = {(one.base.model, one.base.data_set): one.values[-1] for one in series}
    for data_set in ("cifar10", "imagenet32", "imagenet64"):
        assert largest["mlp", data_set] == 8192
    assert largest["transformer", "tinyshakespeare"] == 3072
    assert all(one.values[0] == one.base.width for one in series)


@pytest.mark.parametrize(
    ("options", "provenances", "message"),
    [
        (
            {},
            {"a": {"tasks": ["mlp-w8-d2_digits"]}, "b": {"tasks": ["mlp-w4-d2_digits"]}},
            "a: 8, b: 4\\); give --base-width",
        ),
        ({"depth": 4, "width": 8}, {}, "8/3 of the base depth 4 is no whole number"),
        ({"width": 0}, {}, "The width of a task is 0"),
    ],
)
def test_suites_that_cannot_be(options, provenances, message):
    name = "deep" if "depth" in options else "wide"
    with pytest.raises(InputError, match=message):
        make_suite(name, "smoke", options, provenances)


def examples_seen(spec):
    """By all runs of one optimizer, in all series."""
    points = [one.point(value) for one in spec.series for value in one.values]
    return spec.num_seeds * sum(point.num_steps * point.batch_size for point in points)


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_grows_with_its_size(name):
    specs = [SUITES[name][size] for size in ("smoke", "cpu", "gpu")]
    assert len(specs) == len(SIZES) == len(SUITES[name])
    for smaller, larger in itertools.pairwise(specs):
        assert examples_seen(smaller) < examples_seen(larger)
        assert len(smaller.series) <= len(larger.series)
        largest = [max(max(one.values) for one in spec.series) for spec in (smaller, larger)]
        assert largest[0] < largest[1]


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_varies_one_thing_upwards_from_its_base(name):
    axis = {"wide": "width", "deep": "depth", "long": "num_steps", "arch": "width"}[name]
    for spec in SUITES[name].values():
        assert {one.axis for one in spec.series} == {axis}
        assert len({one.name for one in spec.series}) == len(spec.series)
        assert all(one.values[0] >= one.base_value for one in spec.series)


def test_all_baselines_take_part_unless_some_are_named(tmp_path):
    path = tmp_path / "theta.mulo"
    mulo.save(path, SMALL_FC_H4.checkpoint())
    labels = [contender.label for contender in make_contenders([str(path)])]
    assert labels == [tmp_path.name, *DEFAULT_BASELINES]
    assert [c.label for c in make_contenders([str(path), "adamw-oracle"])] == labels[:2]


def test_number_of_runs_counts_tuning():
    suite = make_suite("wide", "smoke", {"num_tuning_seeds": 2, "num_trials": 5}, {})
    wanted = {"adamw-oracle": 4 * 5, "muadamw": 5, "adam-1e-3": 0}
    for name, trials in wanted.items():
        assert total_cost(suite, make_contenders([name])).runs == 4 * 3 + 2 * trials


def series_of(task, *values, num_steps=3, batch_size=4, axis="width"):
    return Series(
        base=parse_task_name(task), num_steps=num_steps, batch_size=batch_size, axis=axis, values=values
    )


def suite_of(*series, num_seeds=1):
    return Suite(name="mine", size="smoke", series=series, num_seeds=num_seeds, num_tuning_seeds=1)


def test_what_has_no_accuracy_is_null_in_the_results_and_left_out_of_the_tables(tmp_path, capsys):
    suite = suite_of(series_of("autoencoder-w4-d1_digits", 4))
    (record,), _ = evaluate(tmp_path, suite, "adam-1e-3")
    assert record["validation_accuracy"] is None
    assert not record["diverged"]
    # Three steps from zero outputs: the variance of the validation images, near that of the training ones.
    assert record["validation_loss"] == pytest.approx(1.0, rel=0.2)
    make_report([tmp_path], tmp_path / "report")
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if line.startswith("| adam-1e-3"))
    assert f"{record['validation_loss']:.4f} | " in row
    assert "%" not in row


def evaluate(folder, suite, *sources):
    done = []
    with ResultStore(folder, notify=str) as store:
        Evaluation(suite, store, done.append).evaluate(make_contenders(sources))
    return [json.loads(line) for line in store.path.read_text().splitlines()], done


def test_a_run_that_two_comparisons_share_is_made_once_and_stands_in_both(tmp_path):
    suite = suite_of(series_of("mlp-w4-d1_digits", 4))
    both = ("sgd", "sgd-oracle")  # at the base they are tuned alike
    lines, _ = evaluate(tmp_path, suite, *both)
    assert len(lines) == 2 * (NUM_TRIALS + 1)
    assert len({line["key"] for line in lines}) == NUM_TRIALS + 1
    places = {(line["optimizer"], line["purpose"]) for line in lines}
    assert places == {(name, purpose) for name in both for purpose in ("tune", "evaluate")}
    assert len({line["wall_seconds"] for line in lines if line["purpose"] == "evaluate"}) == 1
    # In another suite: no new run, a new line.
    other = dataclasses.replace(suite, name="other")
    more, done = evaluate(tmp_path, other, *both)
    assert len(more) == 2 * len(lines)
    assert {line["key"] for line in more} == {line["key"] for line in lines}
    assert sum(advance.runs for advance in done) == 2 * (NUM_TRIALS + 1)
    assert all(advance.found for advance in done)


def test_an_optimizer_that_is_changed_back_is_reported_as_it_is(tmp_path, monkeypatch):
    """Without being run again: its lines are written once more, behind those of what it was in between."""
    monkeypatch.chdir(tmp_path)
    suite = suite_of(series_of("mlp-w4-d1_digits", 4))
    ends = []
    for rate in (0.1, 0.2, 0.1, 0.1):
        Path("changing.py").write_text(f"import optax\ndef make():\n    return optax.sgd({rate})\n")
        sys.modules.pop("changing", None)
        importlib.invalidate_caches()
        lines, _ = evaluate(tmp_path / "out", suite, "changing:make", "adam-1e-3")
        (row,) = read_results([tmp_path / "out"]).cells.values()
        ends.append((row["changing.make"][0]["final_loss"], len(lines)))
    assert [number for _, number in ends] == [2, 3, 4, 4]
    first, second, *again = (loss for loss, _ in ends)
    assert first != second
    assert again == [first, first]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains(name):
    """At a middling rate of its grid, which a cosine halves on average."""
    family = FAMILIES[name]
    rate = family.centre if family.schedule == "cosine" else family.centre / 2
    contender = baseline_contender(name, Baseline(family=family, learning_rate=rate))
    task = make_task("mlp-w16-d2_digits", family.parametrization)
    program = make_program(task, contender.make(task, 60), num_steps=60, batch_size=32, map_settings=True)
    setting = contender.make_setting([contender.learning_rate])
    outcome = program(task.source, setting, jax.random.split(jax.random.key(0), 1))
    first, last = outcome.losses[0, 0], outcome.losses[0, -5:].mean()
    # Loose: the optimizers differ, and 60 steps are few; one that is wired wrongly stands still or diverges.
    assert last < 0.9 * first
    assert outcome.validation_loss[0] < 0.95 * first


def test_muon_is_for_the_weights_inside_and_adam_for_the_rest():
    task = make_task("convnet-w8-d2_digits", "sp")
    params = task.init(jax.random.key(0))
    inner, setting = make_baseline(FAMILIES["muon"], task, 10), {"learning_rate": jnp.float32(0.1)}
    state = inner.init(setting, params, None)
    updates, _ = inner.update(setting, state, params, params, None)  # gradients like the parameters
    # All singular values of a step alike; consistent_rms: those of 0.2 in its root mean square.
    kernel = np.reshape(updates["convnet/conv_1"]["w"], (72, 8))
    values = np.linalg.svd(kernel, compute_uv=False)
    assert values.max() / values.min() < 2  # five Newton-Schulz iterations are not exact
    assert np.sqrt(np.mean(kernel**2)) == pytest.approx(0.1 * 0.2, rel=0.25)
    momenta = jax.tree.leaves(state.inner_states["muon"])
    assert sorted(x.shape for x in momenta if x.ndim > 1) == [(3, 3, 8, 8)]


def test_velo_and_celo_are_those_that_their_authors_released(tmp_path, monkeypatch):
    monkeypatch.setenv("MULO_DATA_DIR", str(tmp_path))
    assert parse_source("velo@cosine") == Learned("velo", schedule="cosine")
    assert find_checkpoint("velo") == "hf://amoudgl/velo-4000/theta.state"
    assert find_checkpoint("velo.mulo") == "velo.mulo"
    mulo.save(tmp_path / "celo.mulo", CELO.checkpoint())
    contender, baseline = make_contenders(["celo", "adam-1e-3"])
    assert (contender.label, contender.config["name"], baseline.label) == ("celo", "celo", "adam-1e-3")
    lines, _ = evaluate(tmp_path / "results", suite_of(series_of("mlp-w4-d1_digits", 4)), "celo", "adam-1e-3")
    assert [line["optimizer"] for line in lines] == ["celo", "adam-1e-3"]
    assert np.isfinite(lines[0]["final_loss"])


def test_variants_of_a_learned_optimizer(tmp_path):
    """A schedule and a learning rate multiply the step; weight decay is decoupled and follows both."""
    path = tmp_path / "mine.mulo"
    mulo.save(path, SMALL_FC_H4.checkpoint())
    sources = [str(path), f"{path}@cosine", f"{path}@linear,learning_rate=0.5,weight_decay=0.25"]
    plain, cosine, decayed = (make_contenders([source])[0] for source in sources)
    assert [c.label for c in (plain, cosine, decayed)] == [
        "mine",
        "mine@cosine",
        "mine@linear,learning_rate=0.5,weight_decay=0.25",
    ]
    assert decayed.config["learning_rate"] == 0.5
    assert "learning_rate" not in cosine.config  # by which runs are found again that were made without
    assert len({c.program for c in (plain, cosine, decayed)}) == 3
    task = make_task("mlp-w4-d1_digits", "sp")
    params = task.init(jax.random.key(0))

    def steps(contender):
        optimizer, theta = contender.make(task, 4), contender.make_setting([None])
        state, updates = optimizer.init(theta, params, 4), []
        for _ in range(3):
            update, state = optimizer.update(theta, state, params, params, jnp.float32(1.0))
            updates.append(update)
        return updates

    for index, (a, b, c) in enumerate(zip(steps(plain), steps(cosine), steps(decayed), strict=True)):
        factor = 0.5 * (1 + math.cos(math.pi * index / 4))
        assert_trees_close(b, jax.tree.map(lambda u, f=factor: u * np.float32(f), a), 1e-6)
        linear = np.float32(0.5 * (1 - index / 4))
        wanted = jax.tree.map(lambda u, p, f=linear: f * (u - np.float32(0.25) * p), a, params)
        assert_trees_close(c, wanted, 1e-6)


PLUGIN = """
import optax
def make(learning_rate, num_steps, mup):
    schedule = optax.cosine_decay_schedule(1.0, num_steps)
    from mulo.mup import scale_by_mup
    return optax.chain(
        optax.scale_by_adam(), scale_by_mup(mup, "adam"), optax.scale_by_schedule(schedule),
        optax.scale(-learning_rate),
    )
def wrong():
    return None
"""


def test_optimizers_of_others(tmp_path, monkeypatch):
    (tmp_path / "outsiders.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    suite = suite_of(series_of("mlp-w4-d1_digits", 8))
    sources = ("outsiders:make", "optax.lion(learning_rate=0.001)", "optax.sgd", "adam-1e-3")
    lines, _ = evaluate(tmp_path / "out", suite, *sources)
    counts = {}
    for line in lines:
        place = line["optimizer"], line["parametrization"], line["tuned_at"], line["purpose"]
        counts[place] = counts.get(place, 0) + 1
    assert counts == {
        ("outsiders.make", "mup", "base value", "tune"): NUM_TRIALS,
        ("outsiders.make", "mup", "base value", "evaluate"): 1,
        ("optax.lion(learning_rate=0.001)", "sp", "", "evaluate"): 1,
        ("optax.sgd", "sp", "base value", "tune"): NUM_TRIALS,
        ("optax.sgd", "sp", "base value", "evaluate"): 1,
        ("adam-1e-3", "sp", "", "evaluate"): 1,
    }
    with pytest.raises(InputError, match=r"outsiders\.wrong returned NoneType; wanted an optax"):
        evaluate(tmp_path / "out", suite, "outsiders:wrong")
    # The code is part of what a run is.
    digest = make_contenders(["outsiders:make"])[0].config["digest"]
    assert [line["optimizer_config"]["digest"] for line in lines[:1]] == [digest]
    (tmp_path / "outsiders.py").write_text(f"{PLUGIN}\n")
    assert make_contenders(["outsiders:make"])[0].config["digest"] != digest


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("adamv", "No optimizer is called 'adamv'. Did you mean 'adamw'"),
        ("optax.sgd(0.1)", "are not keywords with plain values"),
        ("optax.sgd(momentum=f())", "are not keywords with plain values"),
        ("mulo-quick@cosin", "No variant of a learned optimizer is called 'cosin'. Did you mean 'cosine'"),
        ("a.mulo@learning_rate=0", "learning_rate of a.mulo@learning_rate=0 is '0'; wanted a positive"),
        ("mulo-quick@weight_decay=x", "weight_decay of mulo-quick@weight_decay=x is 'x'; wanted a number"),
        ("optax.sgt", "optax.sgt cannot be used: "),
        ("no_such_module:make", "No module named 'no_such_module'"),
        ("optax.sgd(beta=0.9)", "optax.sgd takes no argument 'beta'; it takes learning_rate, momentum"),
    ],
)
def test_optimizers_that_are_not_there(source, message):
    with pytest.raises(InputError) as raised:
        make_contenders([source])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


BROKEN = """
import optax
def make(num_steps):
    return optax.GradientTransformation(lambda params: (), lambda grads, state, params: 1 / 0)
"""


def test_errors_of_others_are_one_line_before_anything_is_run(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "unreadable.py").write_text("def make(:")
    monkeypatch.chdir(tmp_path)
    suite = suite_of(series_of("mlp-w4-d1_digits", 8))
    with pytest.raises(InputError, match=r"broken\.make fails on mlp-w8-d1_digits: ZeroDivisionError"):
        evaluate(tmp_path / "out", suite, "broken:make", "adam-1e-3")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"unreadable\.make cannot be used: SyntaxError"):
        make_contenders(["unreadable:make"])


def test_a_diverged_run_is_a_result(tmp_path, capsys):
    suite = suite_of(series_of("mlp-w4-d2_digits", 4, num_steps=30), num_seeds=2)
    lines, _ = evaluate(tmp_path, suite, "optax.sgd(learning_rate=1e38)", "adam-1e-3")
    wild = [line for line in lines if line["optimizer"] != "adam-1e-3"]
    assert [line["diverged"] for line in wild] == [True, True]
    assert all(line["final_loss"] is None and None in line["losses"]["values"] for line in wild)
    make_report([tmp_path], tmp_path / "report")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| optax.sgd")]
    assert rows[0].count(" diverged ") == 2  # training and validation
    assert "2 (100 %)" in rows[-1]


def test_tuning_and_evaluation_use_other_keys(tmp_path):
    series = series_of("mlp-w4-d1_digits", 4)
    lines, _ = evaluate(tmp_path, suite_of(series), "sgd")
    (chosen,) = (line for line in lines if line["purpose"] == "evaluate")
    (tried,) = (
        line
        for line in lines
        if line["purpose"] == "tune" and line["learning_rate"] == chosen["learning_rate"]
    )
    assert chosen["seed"] == tried["seed"]
    assert chosen["losses"]["values"][0] != tried["losses"]["values"][0]  # another network, another batch


def test_every_field_is_part_of_what_a_run_is():
    run = Run(
        optimizer_config={"name": "a"}, task="t", width=1, depth=1, parametrization="sp", learning_rate=0.1,
        purpose="tune", seed=0, num_steps=1, batch_size=1, data_digest="d", jax_version="1", software={},
        platform="cpu", runs_per_call=3,
    )  # fmt: skip
    keys = {run.key}
    for field in dataclasses.fields(Run):
        value = getattr(run, field.name)
        other = {"name": "b"} if isinstance(value, dict) else value * 2 if value else 1
        keys.add(dataclasses.replace(run, **{field.name: other}).key)
    assert len(keys) == 1 + len(dataclasses.fields(Run))


def line_of(key, **changes):
    return json.dumps(make_record(**{"key": key, "purpose": "tune", **changes}))


@pytest.mark.parametrize(
    ("ending", "kept", "told"),
    [("\n", 2, 0), ("", 2, 0), ('\n{"key": "torn', 2, 1), ("\n{", 2, 1)],
)
def test_a_results_file_whose_last_line_is_torn_or_not_ended(tmp_path, ending, kept, told):
    """What is whole is kept; the next line begins on a line of its own."""
    path, heard = tmp_path / "results.jsonl", []
    path.write_text(line_of("1") + "\n" + line_of("2") + ending)
    with ResultStore(tmp_path, notify=heard.append) as store:
        assert (len(store), len(heard)) == (kept, told)
        store.append(json.loads(line_of("3")))
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["1", "2", "3"]


def test_one_process_at_a_time_writes_a_results_file(tmp_path):
    with ResultStore(tmp_path / "new", notify=str) as first:
        first.append(json.loads(line_of("1")))
        with pytest.raises(InputError, match="is being written by another mulo-eval"):
            ResultStore(tmp_path / "new", notify=str)
    with ResultStore(tmp_path / "new", notify=str) as second:
        assert len(second) == 1
    (tmp_path / "old").mkdir()
    (tmp_path / "old/results.jsonl").write_text(line_of("1", schema=1) + "\n")
    with pytest.raises(InputError, match="is not a result of mulo-eval: schema 1, wanted 2"):
        ResultStore(tmp_path / "old", notify=str)


def test_a_suite_that_is_changed_says_so():
    assert make_suite("wide", "smoke", {"num_steps": 200, "num_seeds": 3}, {}).changes == ""
    changed = make_suite("wide", "smoke", {"num_steps": 20, "num_seeds": 1, "width": 8}, {})
    assert changed.changes == "num_seeds=1, num_steps=20, width=8"
    provenance = {"tasks": ["mlp-w8-d2_digits"], "config": {"max_horizon": 100}}
    long = make_suite("long", "cpu", {}, {"a": provenance})
    assert (long.changes, long.series[0].values) == ("", (100, 500, 2500))
