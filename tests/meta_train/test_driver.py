import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from meta_train import driver
from meta_train.config import MetaTrainConfig
from meta_train.driver import RunOptions, newest_theta, resume, run
from meta_train.executors.local import LocalExecutor
from meta_train.run_directory import RunDirectory
from mulo import load
from mulo.checkpoint_file import theta_digest
from mulo.errors import CheckpointError, InputError

pytestmark = pytest.mark.usefixtures("standard_promotion")

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
    assert newest_theta(stopped_run)[0] == 5
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
    update = driver.make_meta_update(dataclasses.replace(CONFIG, max_global_norm=1e9))
    theta = {"w": np.zeros(3, np.float32)}
    state = driver.make_meta_optimizer(CONFIG).init(theta)
    gradients = [{"w": np.float32([1, 2, 3])}, {"w": np.float32([3, 2, 1])}]
    _, _, norm = jax.block_until_ready(update(theta, state, gradients))
    assert float(norm) == pytest.approx(np.sqrt(12))


def test_killed_run_is_resumed_with_the_same_bits(whole_run, tmp_path):
    out = tmp_path / "killed"
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in dataclasses.asdict(CONFIG).items()
        if not isinstance(value, tuple)
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
