import contextlib
import dataclasses
import errno
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from meta_train import driver, metrics
from meta_train.config import MetaTrainConfig
from meta_train.driver import RunOptions, resume, run
from meta_train.errors import DivergedError, StorageError
from meta_train.executors.local import LocalExecutor
from meta_train.meta_update import make_meta_update
from meta_train.run_directory import RunDirectory
from meta_train.saving import newest_theta
from meta_train.status import format_status, read_status, watch
from mulo import load
from mulo.checkpoint_file import theta_digest
from mulo.errors import CheckpointError, InputError

pytestmark = [pytest.mark.usefixtures("standard_promotion"), pytest.mark.optimized]

CONFIG = MetaTrainConfig(
    tasks=("mlp-w2-d1_digits", "mlp-w3-d2_digits"),
    batch_size=4,
    hidden_size=2,
    truncation_length=2,
    min_horizon=2,
    max_horizon=8,
    num_pairs=2,
    pairs_per_slot=1,
    meta_steps=8,
    warmup_steps=1,
)
OPTIONS = RunOptions(checkpoint_interval=3)


@pytest.fixture(scope="module", autouse=True)
def shared_programs():
    """Runs of one configuration share its programs: to trace them anew is most of what a run costs here.

    Those that go on in another process, in tests/faults, make their own.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("build_programs", "Validator", "make_meta_update"):
            patch.setattr(driver, name, functools.cache(getattr(driver, name)))
        yield


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run that was never interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    outcome = run(CONFIG, out, OPTIONS)
    assert outcome.signal_number is None
    return out


class StopAt:
    """Stands in for the executor and raises SIGTERM in its own process at one meta-step."""

    def __init__(self, meta_step):
        self.meta_step = meta_step

    def __call__(self, *arguments):
        executor, stop_at = LocalExecutor(*arguments), self.meta_step
        advance = executor.advance

        def advance_and_stop(theta, meta_step):
            if meta_step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return advance(theta, meta_step)

        executor.advance = advance_and_stop
        return executor


@pytest.fixture
def stopped_run(tmp_path, monkeypatch):
    """A run that SIGTERM stopped after 5 of 8 meta-steps."""
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(driver, "LocalExecutor", StopAt(4))
        outcome = run(CONFIG, out, OPTIONS)
    assert (outcome.meta_step, outcome.signal_number) == (5, signal.SIGTERM)
    return out


def read_metrics(out):
    timed = ("wall_seconds", "inner_steps_per_second")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


def digest(out):
    return theta_digest(load(out / "theta.mulo").theta)


def test_a_run_leaves_theta_metrics_configuration_and_log(whole_run):
    checkpoint = load(whole_run / "theta.mulo")
    assert checkpoint.parametrization == "mup"
    assert checkpoint.provenance["tasks"] == list(CONFIG.tasks)
    assert [line["meta_step"] for line in read_metrics(whole_run)] == list(range(8))
    assert MetaTrainConfig.from_json((whole_run / "config.json").read_text(), "") == CONFIG
    assert "Finished" in (whole_run / "log.txt").read_text()
    assert [path.name for path in sorted((whole_run / "checkpoints").iterdir())] == [
        "step-00000006.mulo",
        "step-00000008.mulo",
    ]


def test_theta_is_trained(whole_run):
    start = driver.build_optimizer(CONFIG).init_theta(driver.addressed_key(0, "theta"))
    assert theta_digest(start) != digest(whole_run)


def test_a_stopped_and_resumed_run_ends_with_the_same_bits(whole_run, stopped_run):
    assert not (stopped_run / "theta.mulo").exists()
    assert f"--resume {stopped_run}" in (stopped_run / "log.txt").read_text()
    assert newest_theta(*RunDirectory.open(stopped_run))[0] == 5
    outcome = resume(stopped_run, OPTIONS)
    assert outcome.signal_number is None
    assert digest(stopped_run) == digest(whole_run)
    assert read_metrics(stopped_run) == read_metrics(whole_run)


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_bits_are_the_same(whole_run, stopped_run):
    newest = RunDirectory(stopped_run).checkpoint_path(5)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    resume(stopped_run, OPTIONS)
    assert f"Passed over: {newest}" in (stopped_run / "log.txt").read_text()
    assert digest(stopped_run) == digest(whole_run)
    assert read_metrics(stopped_run) == read_metrics(whole_run)


def test_when_no_checkpoint_can_be_read_the_run_is_not_begun_again(stopped_run):
    for path in (stopped_run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="No checkpoint of"):
        resume(stopped_run, OPTIONS)


def test_resume_of_a_run_without_a_checkpoint_begins_it(whole_run, stopped_run):
    for path in (stopped_run / "checkpoints").iterdir():
        path.unlink()
    resume(stopped_run, OPTIONS)
    assert digest(stopped_run) == digest(whole_run)


def test_resume_of_a_finished_run_changes_nothing(whole_run):
    before = (whole_run / "theta.mulo").read_bytes()
    assert resume(whole_run, OPTIONS).signal_number is None
    assert (whole_run / "theta.mulo").read_bytes() == before


def test_a_run_directory_is_never_overwritten(whole_run):
    with pytest.raises(InputError, match="exists already and is not overwritten"):
        run(CONFIG, whole_run, OPTIONS)


def test_a_changed_configuration_is_not_resumed(stopped_run):
    changed = dataclasses.replace(CONFIG, seed=5)
    (stopped_run / "config.json").write_text(changed.to_json())
    with pytest.raises(CheckpointError, match="No checkpoint of"):
        resume(stopped_run, OPTIONS)


def test_two_processes_do_not_share_a_run(whole_run):
    directory, _ = RunDirectory.open(whole_run)
    with directory.lock(), pytest.raises(InputError, match="in use by another process"):
        resume(whole_run, OPTIONS)


def test_the_seed_decides_theta(whole_run, tmp_path):
    run(dataclasses.replace(CONFIG, seed=1), tmp_path / "other", OPTIONS)
    assert digest(tmp_path / "other") != digest(whole_run)


def test_gradients_of_slots_are_averaged_in_slot_order():
    update = make_meta_update(dataclasses.replace(CONFIG, max_global_norm=1e9))
    theta = {"w": np.zeros(3, np.float32)}
    state = driver.make_meta_optimizer(CONFIG).init(theta)
    gradients = [{"w": np.float32([1, 2, 3])}, {"w": np.float32([3, 2, 1])}]
    _, _, statistics = jax.block_until_ready(update(theta, state, gradients))
    assert float(statistics.gradient_norm) == pytest.approx(np.sqrt(12))


def test_a_gradient_that_is_not_finite_changes_nothing():
    update = make_meta_update(CONFIG)
    theta = {"w": np.ones(3, np.float32)}
    state = driver.make_meta_optimizer(CONFIG).init(theta)
    for bad in (np.nan, np.inf):
        after, next_state, statistics = update(theta, state, [{"w": np.float32([1, bad, 3])}])
        assert bool(statistics.skipped)
        for new, old in zip(
            jax.tree.leaves((after, next_state)), jax.tree.leaves((theta, state)), strict=True
        ):
            np.testing.assert_array_equal(new, old)
    assert not bool(update(theta, state, [{"w": np.ones(3, np.float32)}])[2].skipped)


class BadGradients:
    """Stands in for the executor; from one meta-step on the first slot's gradient is NaN."""

    def __init__(self, first, last):
        self.first, self.last = first, last

    def __call__(self, *arguments):
        executor, bad = LocalExecutor(*arguments), range(self.first, self.last + 1)
        advance = executor.advance

        def advance_badly(theta, meta_step):
            first, *others = advance(theta, meta_step)
            if meta_step in bad:
                first = first._replace(gradient=jax.tree.map(lambda g: g * np.nan, first.gradient))
            return [first, *others]

        executor.advance = advance_badly
        return executor


def test_a_skipped_meta_step_is_told_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "LocalExecutor", BadGradients(2, 3))
    assert run(CONFIG, tmp_path / "run", OPTIONS).signal_number is None
    lines = read_metrics(tmp_path / "run")
    assert [line["skipped"] for line in lines] == [False, False, True, True, False, False, False, False]
    assert lines[2]["gradient_norm"] is None
    rates = [line["learning_rate"] for line in lines]
    assert rates[1] > rates[2] == rates[3] == rates[4] > rates[5]  # of the steps that are made
    assert lines[1]["theta_norms"] == lines[2]["theta_norms"] == lines[3]["theta_norms"]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("the meta-gradient is not finite; theta stays as it is") == 2
    assert read_status(tmp_path / "run").skipped == 2


def test_too_many_skipped_in_a_row_stop_the_run_and_name_the_last_good_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "LocalExecutor", BadGradients(4, 99))
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"in 10 meta-steps in a row.*step-00000003\.mulo") as caught:
        run(dataclasses.replace(CONFIG, meta_steps=20), out, OPTIONS)
    assert len(read_metrics(out)) == 14
    assert "\n" not in str(caught.value)
    assert not (out / "theta.mulo").exists()
    assert RunDirectory(out).checkpoint_steps() == [3]


VALIDATED = dataclasses.replace(
    CONFIG, validation_tasks=("mlp-w5-d1_digits",), validation_interval=3, validation_steps=4
)


@pytest.fixture(scope="module")
def validated_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "validated"
    run(VALIDATED, out, OPTIONS)
    return out


def test_validation_scores_theta_and_keeps_the_best(validated_run):
    lines = read_metrics(validated_run)
    scores = {line["meta_step"] + 1: line["validation_score"] for line in lines if "validation_score" in line}
    assert list(scores) == [3, 6, 8]
    best = min(scores, key=scores.get)
    assert lines[-1]["best_meta_step"] == best
    checkpoint = load(validated_run / "best.mulo")
    assert checkpoint.provenance["meta_steps"] == best
    assert checkpoint.provenance["validation_score"] == pytest.approx(scores[best], rel=1e-6)
    assert load(validated_run / "theta.mulo").provenance["meta_steps"] == 8


def test_validation_does_not_change_theta(whole_run, validated_run):
    assert digest(whole_run) == digest(validated_run)


# Before, at and after the first validation and checkpoint; the others are like one of these.
@pytest.mark.parametrize(
    "stop_at", [pytest.param(stop, marks=() if stop in (1, 2, 4) else pytest.mark.slow) for stop in range(7)]
)
def test_resume_at_any_meta_step_ends_with_the_same_bits(validated_run, tmp_path, monkeypatch, stop_at):
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(driver, "LocalExecutor", StopAt(stop_at))
        assert run(VALIDATED, out, OPTIONS).meta_step == stop_at + 1
    assert read_status(out).state == "stopped"
    resume(out, OPTIONS)
    assert digest(out) == digest(validated_run)
    assert read_metrics(out) == read_metrics(validated_run)
    assert theta_digest(load(out / "best.mulo").theta) == theta_digest(
        load(validated_run / "best.mulo").theta
    )


def fail_fsync(monkeypatch, calls):
    """Makes these calls of `os.fsync`, counted from 0, fail as on a full disk; a checkpoint makes two."""
    made, fsync = iter(range(10**6)), os.fsync

    def full(descriptor):
        if next(made) in calls:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)


def test_a_checkpoint_that_the_disk_does_not_take_is_tried_again(whole_run, tmp_path, monkeypatch):
    fail_fsync(monkeypatch, {0})
    out = tmp_path / "run"
    run(CONFIG, out, OPTIONS)
    log = (out / "log.txt").read_text()
    assert "meta-step 3: not saved." in log and "No space left on device" in log
    assert RunDirectory(out).checkpoint_steps() == [8, 6]
    assert digest(out) == digest(whole_run)


def test_a_disk_that_stays_full_stops_the_run_in_one_line_and_keeps_the_checkpoints(
    whole_run, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        fail_fsync(patch, set(range(2, 100)))
        wanted = rf"No space left on device.*from meta-step 3 with: mulo-meta-train --resume {out}"
        with pytest.raises(StorageError, match=wanted) as caught:
            run(CONFIG, out, OPTIONS)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003.mulo"]
    resume(out, OPTIONS)
    assert digest(out) == digest(whole_run)


def test_metrics_that_cannot_be_written_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "open_to_append", lambda _: Path("/dev/full").open("a"))  # noqa: SIM115
    with pytest.raises(StorageError, match=r"No space left on device\. .* from meta-step 0"):
        run(CONFIG, tmp_path / "run", OPTIONS)


def test_a_damaged_best_theta_is_written_anew(validated_run, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(driver, "LocalExecutor", StopAt(6))
        run(VALIDATED, out, OPTIONS)
    (out / "best.mulo").write_bytes(b"damaged")
    resume(out, OPTIONS)
    assert load(out / "best.mulo").provenance == load(validated_run / "best.mulo").provenance


def test_curves_are_gone_on_with_without_being_asked_for_again(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(driver, "LocalExecutor", StopAt(4))
        run(CONFIG, out, RunOptions(tensorboard=True))
    (before,) = (out / "tensorboard").iterdir()
    before.rename(before.with_suffix(".before"))  # event files are named by the second
    resume(out)
    assert len(list((out / "tensorboard").iterdir())) == 2


def test_status_of_a_finished_a_running_and_a_beginning_run(whole_run, tmp_path):
    status = read_status(whole_run)
    assert (status.state, status.meta_step, status.meta_steps) == ("finished", 8, 8)
    assert status.meta_loss == pytest.approx(np.mean([line["meta_loss"] for line in read_metrics(whole_run)]))
    assert set(status.task_losses) == set(CONFIG.tasks)
    assert status.checkpoint.endswith("step-00000008.mulo")
    text = format_status(status)
    assert "finished, meta-step 8 of 8" in text and "mlp-w2-d1_digits" in text
    directory = RunDirectory.create(tmp_path / "new", CONFIG)
    with directory.lock():
        assert read_status(directory.path).state == "running"
        Path(directory.metrics_path).write_text('{"meta_step": 0, "meta_loss": 1.0, "clipped_fraction": 0, ')
        assert read_status(directory.path).meta_step == 0
    assert "stopped, meta-step 0 of 8" in format_status(read_status(directory.path))


def test_status_tells_the_time_left_without_compilation_and_the_last_validation(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", CONFIG)
    seconds = [60.0, 1.0, 1.0, 1.0, 1.0]  # the first meta-step compiles
    lines = [json.dumps({"meta_step": step, "wall_seconds": s}) for step, s in enumerate(seconds)]
    lines[1] = json.dumps({"meta_step": 1, "wall_seconds": 1.0, "validation_score": -0.5})
    lines[3] = json.dumps({"meta_step": 3, "wall_seconds": 1.0, "validation_score": 0.25})
    directory.metrics_path.write_text("\n".join(lines) + '\n{"meta_step": 5, "validation_score": 9')
    status = read_status(directory.path)
    assert status.seconds_left == 3.0
    assert (status.last_score, status.last_score_meta_step) == (0.25, 4)
    assert "last validation   0.2500 after meta-step 4" in format_status(status)


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_shows_a_running_run_and_ends_with_it(whole_run, tmp_path, monkeypatch, terminal):
    out = shutil.copytree(whole_run, tmp_path / "run[1]")
    # The run is held, as by a process that trains it, until watch waits for the second time.
    looks, held = iter(range(2)), contextlib.ExitStack()
    held.enter_context(RunDirectory(out).lock())
    monkeypatch.setattr(time, "sleep", lambda _: next(looks) and held.close())
    console = Console(file=io.StringIO(), force_terminal=terminal, width=500, highlight=False)
    watch(out, console)
    shown = console.file.getvalue()
    assert shown.count("run[1]: running, meta-step 8 of 8") >= 2
    assert ": running" not in shown.rpartition("run[1]: finished, meta-step 8 of 8")[2]
    for what in (
        "time left",
        "meta-loss",
        *CONFIG.tasks,
        "inner steps/s",
        "clipped losses",
        "last checkpoint",
    ):
        assert what in shown


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run(CONFIG, tmp_path / "run", RunOptions(checkpoint_interval=1, keep_checkpoints=4))
    assert RunDirectory(tmp_path / "run").checkpoint_steps() == [8, 7, 6, 5]


def test_metrics_hold_theta_norms_and_learned_decays(whole_run):
    last = read_metrics(whole_run)[-1]
    theta = load(whole_run / "theta.mulo").theta
    assert last["theta_norms"]["mlp/w0"] == pytest.approx(np.linalg.norm(theta["mlp"]["w0"]), rel=1e-5)
    assert set(last["decays"]) >= {"momentum/0", "second_moment/0", "factored/2"}
    assert last["decays"]["momentum/0"] == pytest.approx(0.9, abs=0.1)


@pytest.mark.fault
def test_killed_run_is_resumed_with_the_same_bits(whole_run, tmp_path):
    out = tmp_path / "killed"
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in CONFIG.to_dict().items()
        if not isinstance(value, tuple | bool)  # their flags take other forms
    ]
    command = [sys.executable, "-m", "meta_train.cli", "--tasks", *CONFIG.tasks, *flags]
    with subprocess.Popen([*command, "--out", out, "--checkpoint-interval", "1"]) as process:
        deadline = time.monotonic() + 120
        while len(RunDirectory(out).checkpoint_steps()) < 2 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
    resume(out, OPTIONS)
    assert digest(out) == digest(whole_run)
    assert read_metrics(out) == read_metrics(whole_run)
