"""Every measure against numbers worked out by hand."""

import math

import numpy as np
import pytest

from eval_tasks.aggregates import (
    bootstrap_interval,
    interquartile_mean,
    normalised_score,
    smooth,
    speed_up,
    steps_to_reach,
    task_interval,
)
from eval_tasks.measures import TuningCost, measure
from eval_tasks.report.tables import winner_table
from eval_tasks.results import read_results
from mulo.errors import InputError
from tests.eval_tasks.synthetic import make_record, make_suite, write

STEPS = list(range(0, 100, 10))


def measure_records(tmp_path, records, reference=None):
    return measure(read_results([write(tmp_path / "results.jsonl", records)]), reference)


def test_smoothing_is_centred_and_shorter_at_the_ends():
    curve = [float(i) for i in range(40)]  # a twentieth of 40 points: one to each side
    assert smooth(curve)[1:-1] == pytest.approx(curve[1:-1])
    assert (smooth(curve)[0], smooth(curve)[-1]) == (0.5, 38.5)
    assert np.isnan(smooth([1.0, None])).tolist() == [False, True]


def test_steps_to_reach():
    curve = np.array([5.0, 3.0, np.nan, 2.0])
    assert steps_to_reach([0, 10, 20, 30], curve, 3.0) == 11
    assert steps_to_reach([0, 10, 20, 30], curve, 2.5) == 31
    assert steps_to_reach([0, 10, 20, 30], curve, 1.0) is None


def test_speed_up():
    reference = {"steps": STEPS, "values": [10.0 - i for i in range(10)]}  # 1.0 at step 90
    fast = {"steps": STEPS, "values": [10.0, 4.0, 1.0, *[0.5] * 7]}
    slow = {"steps": STEPS, "values": [10.0 - 0.5 * i for i in range(10)]}  # 5.5 at step 90
    assert speed_up(fast, 0.5, [reference], 1.0, 100) == 91 / 21
    assert speed_up(slow, 5.5, [reference], 1.0, 100) == 51 / 100  # the reference has 5.0 at step 50
    assert speed_up(reference, 1.0, [reference], 1.0, 100) == 1.0
    assert speed_up(fast, 0.5, [reference, fast], 1.0, 100) == (91 + 21) / 2 / 21
    assert speed_up(fast, None, [reference], 1.0, 100) == 0.0
    assert speed_up({"steps": [], "values": []}, 1.0, [reference], 1.0, 100) is None
    assert speed_up(fast, 1.0, [{"steps": [], "values": []}], 1.0, 100) is None
    # Neither reaches the other's loss, as the noise of single batches may have it: as fast as one another.
    assert speed_up(slow, 0.9, [reference], 0.8, 100) == 1.0


@pytest.mark.parametrize("shape", ["flat end", "slowly falling"])
def test_an_optimizer_is_as_fast_as_itself_whatever_the_noise(shape):
    """Both sides are read alike: a noisy curve reaches any level early, the reference's too."""
    rng, steps = np.random.default_rng(0), np.arange(200) * 5
    falling = 2.3 * np.exp(-np.arange(200) / 30) + (0.5 if shape == "flat end" else 0.0)
    falling = falling if shape == "flat end" else 2.3 / (1 + np.arange(200) / 20)

    def draw():
        return {"steps": steps.tolist(), "values": (falling * (1 + 0.06 * rng.normal(size=200))).tolist()}

    ups = []
    for _ in range(200):
        references = [draw() for _ in range(3)]
        target = float(np.mean([reference["values"][-2:] for reference in references]))
        ups.append(speed_up(draw(), target, references, target, 1000))
    assert np.median(ups) == pytest.approx(1.0, abs=0.1)  # read otherwise it was 1.2 to 1.8


def test_score():
    assert normalised_score(1.5, guessing=2.0, target=1.0) == 0.5
    assert normalised_score(0.5, guessing=2.0, target=1.0) == 1.5
    assert normalised_score(9.0, guessing=2.0, target=1.0) == 0.0


def test_interquartile_mean():
    assert float(interquartile_mean(np.array([0.0, 1.0, 3.0, 100.0]))) == 2.0
    assert float(interquartile_mean(np.array([0.0, 1.0, 3.0, 5.0, 100.0]))) == 3.0  # one of five at each end
    assert float(interquartile_mean(np.array([0.0, 1.0, 8.0]))) == 3.0  # of three none


def test_interval_over_tasks():
    # Seeds (0, 2) give means 0, 1, 2 with chances 1/4, 1/2, 1/4: so the limits are 0 and 2, and a constant
    # task shifts their mean over two tasks to half of that and more.
    assert task_interval([[0.0, 2.0], [4.0, 4.0]]) == (2.5, 2.0, 3.0)
    assert task_interval([[0.0, 2.0], [4.0, 4.0]]) == task_interval([[0.0, 2.0], [4.0, 4.0]])
    assert task_interval([[0.0, 2.0], [4.0]]) == (2.5, None, None)


def test_interval_covers_the_mean_about_as_often_as_it_says():
    # 20 seeds of a standard normal: the bootstrap's 95 % are about 93 %. Of 200 intervals the number that
    # cover 0 has a standard deviation of 3.6: from 170 to 199 is five of them to each side.
    def mean(sample, axis=-1):
        return sample.mean(axis=axis)

    draws = np.random.default_rng(1).normal(size=(200, 20))
    intervals = [bootstrap_interval([draw], mean) for draw in draws]
    assert 170 <= sum(interval.low <= 0 <= interval.high for interval in intervals) <= 199


def two_optimizers():
    """One task; the reference has 1.0 and 1.2, the other 0.8 and a diverged run. Guessing is 2.1."""
    common = {"num_seeds": 2, "guessing_loss": 2.1, "num_steps": 100}
    reference = {"steps": STEPS, "values": [2.0 - 0.1 * i for i in range(10)]}  # 1.1 at step 90
    other = {"steps": STEPS, "values": [2.0, 1.5, 1.1, *[0.8] * 7]}
    return [
        make_record(**common, seed=0, final_loss=1.0, losses=reference),
        make_record(**common, seed=1, final_loss=1.2, losses=reference, validation_loss=1.3),
        make_record(**common, seed=0, final_loss=0.8, losses=other, optimizer="new", state_bytes=5000,
                    step_seconds=0.003, validation_accuracy=0.7),
        make_record(**common, seed=1, final_loss=None, diverged=True, optimizer="new", state_bytes=5000,
                    step_seconds=0.005),
    ]  # fmt: skip


def test_one_task(tmp_path):
    (part,) = measure_records(tmp_path, two_optimizers())
    assert (part.reference, part.adam, part.title) == ("adamw", "adamw", "wide (cpu)")
    (row,) = part.cells.values()
    assert row["adamw"].final_loss == (1.1, pytest.approx(0.1), 0, 2)
    assert row["adamw"].validation_loss.mean == pytest.approx(1.2)
    assert row["adamw"].scores == pytest.approx([1.1, 0.9])
    assert row["new"].final_loss == (None, None, 1, 2)
    assert row["new"].scores == pytest.approx([1.3, 0.0])
    assert row["new"].validation_scores == pytest.approx([(2.1 - 1.1) / (2.1 - 1.2), 0.0])
    assert row["new"].speed_ups == pytest.approx([91 / 21, 0.0])
    assert row["new"].step_ratio == pytest.approx(2.0)
    assert row["new"].state_ratio == pytest.approx(2.5)
    assert next(iter(part.winners.values())) == ("adamw", None, None, False)
    aggregate = part.aggregates["new"]
    assert (aggregate.num_won, aggregate.num_diverged, aggregate.num_runs) == (0, 1, 2)
    assert aggregate.score == pytest.approx((0.65, 0.0, 1.3))
    assert part.aggregates["adamw"].score == pytest.approx((1.0, 0.9, 1.1))


@pytest.mark.parametrize(("second", "is_clear"), [([1.6, 1.8], True), ([1.05, 1.25], False), ([1.3], None)])
def test_a_win_is_clear_beyond_two_standard_errors(tmp_path, second, is_clear):
    # 1.0 and 1.2: 1.1 +- 0.1. 1.7 +- 0.1 is 0.6 away, where two errors of the difference are 0.28.
    records = [
        make_record(num_seeds=len(losses), optimizer=label, seed=seed, final_loss=loss)
        for label, losses in (("adamw", [1.0, 1.2]), ("b", second))
        for seed, loss in enumerate(losses)
    ]
    (part,) = measure_records(tmp_path, records)
    assert next(iter(part.winners.values())) == ("adamw", "b", is_clear, False)


def test_the_reference(tmp_path):
    records = [make_record(optimizer=label, num_seeds=1) for label in ("adamw", "a", "muadamw")]
    assert measure_records(tmp_path, records)[0].reference == "muadamw"
    (part,) = measure_records(tmp_path, records, "a")
    assert (part.reference, part.adam) == ("a", "muadamw")
    with pytest.raises(InputError, match="Did you mean 'adamw'"):
        measure_records(tmp_path, records, "adamv")
    (part,) = measure_records(tmp_path, [make_record(optimizer="a", num_seeds=1)])
    assert part.reference is None
    assert part.aggregates["a"].score is None
    assert part.notes[0].startswith("wide (cpu): no runs of adamw-oracle or muadamw or adamw")


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"diverged": True, "final_loss": None}, "every run of the reference adamw diverged"),
        ({"final_loss": 3.0}, "the reference adamw is hardly better than guessing"),
        ({"guessing_loss": None}, "guessing_loss is not given"),
    ],
)
def test_where_there_is_no_score_the_report_says_why(tmp_path, changes, note):
    records = [make_record(num_seeds=1, **changes), make_record(num_seeds=1, optimizer="new")]
    (part,) = measure_records(tmp_path, records)
    assert next(iter(part.cells.values()))["new"].scores == ()
    assert note in part.notes[0]


def test_an_oracle_is_no_rival_and_the_first_reference(tmp_path):
    records = [
        make_record(optimizer=label, num_seeds=1, final_loss=loss)
        for label, loss in (("adamw-oracle", 0.5), ("a", 0.9), ("b", 1.0))
    ]
    (part,) = measure_records(tmp_path, records)
    assert part.reference == "adamw-oracle"
    assert next(iter(part.winners.values()))[:2] == ("a", "b")


def test_a_tie_is_won_by_nobody(tmp_path):
    records = [make_record(optimizer=label, num_seeds=1, final_loss=0.5) for label in ("a", "b")]
    (part,) = measure_records(tmp_path, records)
    assert next(iter(part.winners.values())) == ("a", "b", False, True)
    assert [part.aggregates[label].num_won for label in "ab"] == [0, 0]
    assert winner_table(part).rows[0][1].text == "a tie"


def test_a_trial_with_a_changed_suite_does_not_replace_the_suite(tmp_path):
    whole = [make_record(seed=seed, key=f"a{seed}") for seed in range(3)]
    trial = make_record(suite_changes="num_steps=10", num_seeds=1, key="b", num_steps=10, final_loss=2.0)
    parts = measure_records(tmp_path, [*whole, trial])
    assert [part.title for part in parts] == ["wide (cpu)", "wide (cpu, changed: num_steps=10)"]
    assert [len(next(iter(part.cells.values()))["adamw"].records) for part in parts] == [3, 1]


def test_times_of_unlike_devices_are_no_ratio(tmp_path):
    fast = {"versions": {"device": "H100"}, "step_seconds": 1e-4}
    records = [make_record(num_seeds=1), make_record(num_seeds=1, optimizer="b", **fast)]
    (part,) = measure_records(tmp_path, records)
    assert part.aggregates["b"].step_ratio is None
    assert part.aggregates["adamw"].step_ratio == 1.0
    assert part.aggregates["b"].state_ratio == 1.0


def test_tuning_cost_counts_a_shared_run_once(tmp_path):
    tuned = [
        make_record(purpose="tune", key=key, value=value, num_steps=50)
        for key, value in (("a", 32), ("a", 64), ("b", 32))
    ]
    (part,) = measure_records(tmp_path, [make_record(num_seeds=1), *tuned])
    assert part.tuning == {"adamw": TuningCost(num_runs=2, num_steps=100)}


@pytest.mark.parametrize(("rate", "at_edge"), [(5e-4, True), (1e-3, False), (2e-3, True)])
def test_a_learning_rate_at_the_edge_of_its_grid(tmp_path, rate, at_edge):
    tuned = [make_record(purpose="tune", learning_rate=tried) for tried in (5e-4, 1e-3, 2e-3)]
    elsewhere = [make_record(purpose="tune", learning_rate=tried, value=64) for tried in (1e-5, 1e-1)]
    (part,) = measure_records(tmp_path, [make_record(num_seeds=1, learning_rate=rate), *tuned, *elsewhere])
    assert next(iter(part.cells.values()))["adamw"].at_edge is at_edge


def test_a_whole_suite(tmp_path):
    (part,) = measure_records(tmp_path, make_suite(num_points=40))
    assert len(part.cells) == 12
    assert part.aggregates["sp-small"].num_diverged == 12
    assert part.aggregates["mulo-small"].num_won == 12
    assert part.aggregates["muadamw"].score.value == pytest.approx(1.0)
    assert part.aggregates["mulo-small"].speed_up.value > 1.5
    assert part.aggregates["mulo-small"].state_ratio == 2.5
    assert part.tuning["adamw"].num_runs == 12 * 4 * 3
    assert "mulo-small" not in part.tuning
    assert all(math.isfinite(value) for a in part.aggregates.values() for value in a.score)
