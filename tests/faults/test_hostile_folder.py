"""Nothing that lies in the current folder runs in a worker, but the optimizer module that a user names."""

import subprocess
import sys

import pytest

ray_clusters = pytest.importorskip("eval_tasks.workers.ray_clusters")

NAMES = ("optax", "json", "jax", "numpy", "haiku", "flax", "mulo", "eval_tasks", "meta_train", "ray")
TRAP = """
import os
with open({folder!r} + "/sprung", "a") as file:
    file.write(f"{{os.getpid()}} {{__name__}} {{os.sys.argv}}\\n")
raise SystemExit("a file of the current folder was run")
"""
OPTIMIZER = "import optax\n\ndef make(learning_rate):\n    return optax.sgd(learning_rate)\n"


def test_workers_are_told_of_no_folder_of_this_process():
    config = ray_clusters._JobConfig()
    config._py_driver_sys_path.extend(["/current/folder"])
    assert list(config._py_driver_sys_path) == []
    assert b"/current/folder" not in config._serialize()


@pytest.fixture
def trapped(tmp_path):
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(TRAP.format(folder=str(tmp_path)))
    (tmp_path / "my_own_optimizer.py").write_text(OPTIMIZER)
    return tmp_path


def run_there(folder, module, *arguments):
    """As by the installed command: -P, since `python -m` itself would put the current folder on the path."""
    command = [sys.executable, "-P", "-m", module, *map(str, arguments)]
    # A colon at the end of PYTHONPATH would be the current folder too.
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    sprung = folder / "sprung"
    assert not sprung.exists(), sprung.read_text()
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.fault
def test_meta_training(trapped):
    # fmt: off
    run_there(
        trapped, "meta_train.cli", "--tasks", "mlp-w2-d1_digits", "--batch-size", "4", "--hidden-size", "2",
        "--truncation-length", "2", "--min-horizon", "2", "--max-horizon", "4", "--num-pairs", "1",
        "--pairs-per-slot", "1", "--meta-steps", "2", "--workers", "1", "--out", "run",
    )
    # fmt: on
    assert (trapped / "run" / "theta.mulo").exists()
    (log,) = (trapped / "run" / "workers").iterdir()
    assert "ready" in log.read_text() and log.stat().st_mode & 0o777 == 0o600


@pytest.mark.fault
def test_evaluation_with_an_optimizer_of_the_users(trapped):
    # fmt: off
    run_there(
        trapped, "eval_tasks.cli", "--suite", "deep", "--optimizer", "my_own_optimizer:make",
        "--optimizer", "sgd", "--num-trials", "1", "--num-seeds", "1", "--base-width", "4",
        "--num-steps", "4", "--batch-size", "8", "--workers", "1", "--out", "results",
    )
    # fmt: on
    assert "my_own_optimizer" in (trapped / "results" / "results.jsonl").read_text()
