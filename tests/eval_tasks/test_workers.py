"""Runs that are spread over workers on Ray: the same results, whatever dies."""

import json
import os
import subprocess
import sys
import time

import pytest

from eval_tasks.cli import main

pytest.importorskip("ray", reason="workers need Ray: mulo[ray]")
TINY = (
    *("--suite", "long", "--base-width", "2", "--depth", "1", "--num-steps", "4", "--batch-size", "4"),
    *("--num-seeds", "2", "--num-tuning-seeds", "1", "--num-trials", "3"),
    *("--optimizer", "adam-1e-3", "--optimizer", "sgd"),
)
MEASURED = ("key", "optimizer", "purpose", "diverged", "num_steps", "state_bytes", "data_digest")


def records(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda r: (r["key"], r["optimizer"]))


LEARNED = "--optimizer", "mulo-quick"


def start(out, cache, *flags):
    """Ray starts processes by forking this one: it must not have JAX in it."""
    return subprocess.Popen(
        [sys.executable, "-m", "eval_tasks.cli", *TINY, *flags, "--out", str(out)],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_workers_give_the_results_of_one_process(tmp_path, capsys):
    with start(tmp_path / "two", tmp_path, "--workers", "2") as process:
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert main([*TINY, "--out", str(tmp_path / "one")]) == 0
    capsys.readouterr()
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    assert [[r[name] for name in MEASURED] for r in one] == [[r[name] for name in MEASURED] for r in two]
    for a, b in zip(one, two, strict=True):
        # Workers have one thread each: sums over large arrays may be rounded otherwise.
        assert b["final_loss"] == pytest.approx(a["final_loss"], rel=1e-4)
        assert b["validation_loss"] == pytest.approx(a["validation_loss"], rel=1e-4)


@pytest.mark.fault
def test_a_worker_that_is_killed_is_replaced_and_its_runs_are_made(tmp_path):
    psutil = pytest.importorskip("psutil", reason="finds the worker to kill; comes with Ray")
    with start(tmp_path / "two", tmp_path, *LEARNED, "--workers", "2") as process:
        deadline = time.monotonic() + 120
        while True:
            children = psutil.Process(process.pid).children(recursive=True)
            busy = [child for child in children if "RunActor.carry_out" in " ".join(child.cmdline())]
            if busy:
                break
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        busy[0].kill()
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "was lost and is replaced" in said
    assert len(records(tmp_path / "two")) == 2 * 2 * 3 + 3  # lengths, seeds, optimizers; trials


def test_flags_without_workers_are_one_line(capsys):
    assert main([*TINY, "--workers-per-gpu", "2"]) == 2
    assert "--workers-per-gpu was given without --workers N or --gpus N" in capsys.readouterr().err
