"""Runs that are spread over workers on Ray: the same results, whatever dies."""

import json
import os
import signal
import time

import pytest

from eval_tasks.cli import main

pytest.importorskip("ray")
TINY = (
    *("--suite", "wide", "--base-width", "2", "--depth", "1", "--num-steps", "4", "--batch-size", "4"),
    *("--num-seeds", "2", "--num-tuning-seeds", "1", "--optimizer", "mulo-quick", "--optimizer", "sgd"),
)
MEASURED = ("key", "optimizer", "purpose", "diverged", "num_steps", "state_bytes", "data_digest")


def records(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda r: (r["key"], r["optimizer"]))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("own_cache", "standard_promotion")
def test_workers_give_the_results_of_one_process(tmp_path, capsys):
    assert main([*TINY, "--out", str(tmp_path / "one")]) == 0
    assert main([*TINY, "--workers", "2", "--out", str(tmp_path / "two")]) == 0
    capsys.readouterr()
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    assert [[r[name] for name in MEASURED] for r in one] == [[r[name] for name in MEASURED] for r in two]
    for a, b in zip(one, two, strict=True):
        # Workers have one thread each: sums over large arrays may be rounded otherwise.
        assert b["final_loss"] == pytest.approx(a["final_loss"], rel=1e-4)
        assert b["validation_loss"] == pytest.approx(a["validation_loss"], rel=1e-4)


@pytest.mark.fault
@pytest.mark.usefixtures("own_cache", "standard_promotion")
def test_a_worker_that_is_killed_is_replaced_and_its_runs_are_made(tmp_path, capsys):
    import threading

    psutil = pytest.importorskip("psutil")
    killed = []

    def strike():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for child in psutil.Process().children(recursive=True):
                if "RunActor" in " ".join(child.cmdline()):
                    time.sleep(2.0)
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)
                    return
            time.sleep(0.1)

    thread = threading.Thread(target=strike)
    thread.start()
    assert main([*TINY, "--workers", "2", "--out", str(tmp_path / "two")]) == 0
    thread.join()
    assert killed
    assert "was lost and is replaced" in capsys.readouterr().out
    expected = 4 * 2 * 2 + 9  # four widths, two seeds, two optimizers; nine trials
    assert len(records(tmp_path / "two")) == expected


def test_flags_without_workers_are_one_line(capsys):
    assert main([*TINY, "--workers-per-gpu", "2"]) == 2
    assert "--workers-per-gpu was given without --workers N or --gpus N" in capsys.readouterr().err
