"""Faults of whole runs: of the driver, of Ray, of the disk. What goes on ends with the same bits."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import time

import pytest

from meta_train import saving
from meta_train.cli import main
from meta_train.config import MetaTrainConfig
from meta_train.driver import RunOptions, run
from meta_train.errors import ExecutorError
from meta_train.executors import crew
from meta_train.executors.interface import Died
from meta_train.executors.local import LocalExecutor
from meta_train.executors.options import WorkerOptions
from meta_train.executors.worker import versions
from meta_train.meta_update import make_meta_update
from meta_train.programs import build_programs
from meta_train.run_directory import RunDirectory
from meta_train.saving import newest_theta
from mulo import load
from mulo.checkpoint_file import theta_digest
from mulo.errors import CheckpointError
from tests.faults.fake_pool import FakePool
from tests.faults.test_distributed import CONFIG, train

pytestmark = pytest.mark.usefixtures("standard_promotion")

FLAGS = [
    *("--tasks", *CONFIG.tasks, "--batch-size", "8", "--hidden-size", "4", "--truncation-length", "2"),
    *("--min-horizon", "2", "--max-horizon", "12", "--num-pairs", "4", "--pairs-per-slot", "1"),
    *("--preset", "paper-s", "--checkpoint-interval", "4"),
]
LONG = "2000"
"""Meta-steps of a run that is to be interrupted."""


def digest(out):
    return theta_digest(load(out / "theta.mulo").theta)


def wait_for(condition, process, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def checkpoints(out):
    return RunDirectory(out).checkpoint_steps() if out.exists() else []


def assert_saved_bits(out):
    """The newest theta is that of the local executor after as many meta-steps."""
    directory, config = RunDirectory.open(out)
    meta_step, theta = newest_theta(directory, config)
    local = LocalExecutor(config, build_programs(config))
    assert train(local, make_meta_update(config), range(meta_step), config=config) == theta_digest(theta)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The digest of a run in one process, nothing having happened."""
    out = tmp_path_factory.mktemp("quiet") / "run"
    assert main([*FLAGS, "--meta-steps", "12", "--out", str(out)]) == 0
    return digest(out)


@pytest.fixture(scope="module")
def long_quiet(tmp_path_factory):
    out = tmp_path_factory.mktemp("quiet") / "run"
    assert main([*FLAGS, "--meta-steps", LONG, "--out", str(out)]) == 0
    return digest(out)


def full_disk(failing):
    """A writer that finds the disk full at some of its calls."""
    count = iter(range(10**6))
    write = saving.write_resume_file

    def write_or_fail(path, *rest):
        if next(count) in failing:
            raise CheckpointError(f"{path}: cannot be written: No space left on device.")
        write(path, *rest)

    return write_or_fail


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(quiet, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "write_resume_file", full_disk({1}))
    out = tmp_path / "run"
    assert main([*FLAGS, "--meta-steps", "12", "--out", str(out)]) == 0
    log = (out / "log.txt").read_text()
    assert "not saved" in log and "No space left on device. The run goes on" in log
    assert checkpoints(out) == [12, 4]
    assert digest(out) == quiet


def test_a_disk_that_stays_full_ends_the_run_and_nothing_saved_is_lost(quiet, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_resume_file", full_disk(range(1, 99)))
        flags = ["--meta-steps", "12", "--checkpoint-interval", "2", "--out", str(out)]
        assert main([*FLAGS, *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"No space left.*go on from meta-step 2 with: mulo-meta-train --resume", line)
    assert checkpoints(out) == [2]
    assert main(["--resume", str(out)]) == 0
    assert digest(out) == quiet


class FakeCluster:
    """Workers in this process; at meta-step 7 something happens to them."""

    def __init__(self, fault):
        self._fault = fault

    def make_pool(self, config, log_folder):
        del log_folder
        pool = FakePool(config, build_programs(config), fault=self._fault)
        pool.versions = versions()
        return pool


def lose_all(call):
    call.pool.later(0.1, Died(call.worker.worker_id, "lost for good", hopeless=True))


def ask_to_stop(call):
    if call.worker.place == 0:
        os.kill(os.getpid(), signal.SIGTERM)


def lose_all_by_a_signal(call):
    ask_to_stop(call)
    lose_all(call)


@pytest.mark.parametrize("what", [lose_all, ask_to_stop, lose_all_by_a_signal])
def test_when_no_worker_answers_any_more_the_driver_saves_what_it_knows(quiet, tmp_path, monkeypatch, what):
    """Not only what the last regular checkpoint has, here after meta-step 4."""
    if what is ask_to_stop:
        monkeypatch.setattr(crew, "_STOP_SECONDS", 0.0)
    config = dataclasses.replace(CONFIG, warmup_steps=MetaTrainConfig().warmup_steps)  # that of `quiet`
    out = tmp_path / "run"
    options = RunOptions(checkpoint_interval=4, workers=WorkerOptions(workers=5, snapshot_interval=3))
    cluster = FakeCluster(lambda call: what(call) if call.request.meta_step == 7 else call.answer)
    if what is lose_all:
        with pytest.raises(ExecutorError, match=r"step-00000007\.mulo\. Go on with"):
            run(config, out, options, cluster)
    else:
        assert run(config, out, options, cluster).signal_number == signal.SIGTERM
        assert "after 7 meta-steps; all is saved. Go on" in (out / "log.txt").read_text()
    assert checkpoints(out) == [7, 4]
    assert "5 workers are asked for, and 4 have work" in (out / "log.txt").read_text()
    assert main(["--resume", str(out)]) == 0
    assert digest(out) == quiet


KILL_IN_A_WRITE = """
import os, signal, sys
from mulo import _envelope
from meta_train.cli import main
from meta_train.config import MetaTrainConfig
fsync, count = os.fsync, iter(range(99))
def fsync_or_die(number):
    if next(count) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(number)
os.fsync = fsync_or_die
main(sys.argv[1:])
"""


@pytest.mark.parametrize("workers", [(), pytest.param(("--workers", "2"), marks=pytest.mark.fault)])
def test_the_driver_is_killed_while_it_writes_a_checkpoint(quiet, tmp_path, start_process, workers):
    out = tmp_path / "run"
    flags = [*FLAGS, "--meta-steps", "12", "--checkpoint-interval", "2", *workers]
    process = start_process("-c", KILL_IN_A_WRITE, *flags, "--out", out)
    assert process.wait(120) == -signal.SIGKILL
    torn = [path.name for path in (out / "checkpoints").iterdir() if not path.name.startswith("step-")]
    assert len(torn) == 1 and checkpoints(out)
    assert main(["--resume", str(out)]) == 0
    assert digest(out) == quiet
    assert all(path.name.startswith("step-") for path in (out / "checkpoints").iterdir())


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_signal_checkpoints_and_another_number_of_workers_goes_on(
    long_quiet, tmp_path, start_process, number
):
    out = tmp_path / "run"
    process = start_process(
        *("-m", "meta_train.cli", *FLAGS, "--meta-steps", LONG, "--workers", "2", "--out", out)
    )
    wait_for(lambda: len(checkpoints(out)) > 1, process)
    began = time.monotonic()
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert time.monotonic() - began < 30
    said = process.stdout.read()
    assert f"all is saved. Go on with: mulo-meta-train --resume {out}" in said
    assert checkpoints(out)[0] < int(LONG)
    newest = RunDirectory(out).checkpoint_path(checkpoints(out)[0])
    newest.write_bytes(newest.read_bytes()[:-100])  # and the file is torn, too
    again = start_process("-m", "meta_train.cli", "--resume", out, "--workers", "1")
    assert again.wait(120) == 0, again.stdout.read()
    assert f"Passed over: {newest}" in (out / "log.txt").read_text()
    assert digest(out) == long_quiet
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["meta_step"] for line in lines] == list(range(int(LONG)))
    assert lines[0]["num_workers"] == 2 and lines[-1]["num_workers"] == 1


@pytest.mark.fault
def test_a_signal_to_all_processes_of_a_run_is_one_to_the_driver(tmp_path, start_process):
    """As batch systems send it."""
    psutil = pytest.importorskip("psutil")
    out = tmp_path / "run"
    flags = ["--meta-steps", "50000", "--checkpoint-interval", "100", "--workers", "2", "--out", out]
    process = start_process("-m", "meta_train.cli", *FLAGS, *flags)
    wait_for(lambda: len(checkpoints(out)) > 1, process)
    began = time.monotonic()
    for each in (*psutil.Process(process.pid).children(recursive=True), process):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert time.monotonic() - began < 30
    assert "all is saved. Go on with" in said
    assert_saved_bits(out)


@pytest.mark.fault
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_ray_itself_is_lost(tmp_path, start_process, name):
    psutil = pytest.importorskip("psutil")
    out = tmp_path / "run"
    flags = ["--meta-steps", "50000", "--checkpoint-interval", "100", "--workers", "2", "--out", out]
    process = start_process("-m", "meta_train.cli", *FLAGS, *flags)
    wait_for(lambda: len(checkpoints(out)) > 1, process)
    ours = psutil.Process(process.pid).children(recursive=True)
    (victim,) = [child for child in ours if child.name() == name]
    victim.kill()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    (line,) = [line for line in said.splitlines() if "error:" in line]
    assert re.search(r"Ray is lost.*last checkpoint is \S*step-\d+\.mulo\. Go on with: .*--resume", line)
    # Nothing that was made is lost, nor only what regular checkpoints have.
    assert checkpoints(out)[0] == len((out / "metrics.jsonl").read_text().splitlines())
    assert_saved_bits(out)
