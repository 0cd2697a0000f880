"""A killed evaluation goes on where it was, and ends with the results of one that nothing happened to."""

import json
import signal

import pytest

from tests.faults.test_driver import wait_for

pytestmark = pytest.mark.fault

COMMAND = (
    "-m", "eval_tasks.cli", "--suite", "deep", "--optimizer", "sgd", "--num-trials", "4",
    "--base-width", "4", "--num-steps", "20", "--batch-size", "8",
)  # fmt: skip
NUM_RUNS = 4 + 2 * 3  # of a grid at the base; of three seeds at two depths
WHAT_IS_MEASURED = ("learning_rate", "seed", "final_loss", "validation_loss", "losses", "diverged")


def finish(process):
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return output


def kill_after_a_line(process, path):
    """Kills a process as soon as a whole line stands in a file, and returns the whole lines that do."""
    wait_for(lambda: path.exists() and b"\n" in path.read_bytes(), process)
    process.kill()
    process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL
    content = path.read_bytes()
    return content[: content.rindex(b"\n") + 1]


def measured(path):
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    return {r["key"]: {name: r[name] for name in WHAT_IS_MEASURED} for r in records}, len(records)


def test_an_evaluation_that_is_killed_ends_like_one_that_is_not(tmp_path, start_process):
    quiet, killed = (tmp_path / name / "results.jsonl" for name in ("quiet", "killed"))
    finish(start_process(*COMMAND, "--out", quiet.parent))
    process = start_process(*COMMAND, "--out", killed.parent)
    kept = kill_after_a_line(process, killed)
    assert 1 <= kept.count(b"\n") < NUM_RUNS  # while something was still to do
    again = finish(start_process(*COMMAND, "--out", killed.parent))
    # What stood there stands there still, times and all, and no run was made twice.
    assert killed.read_bytes().startswith(kept)
    (wanted, _), (found, num_lines) = measured(quiet), measured(killed)
    assert num_lines == len(found) == NUM_RUNS
    assert found == wanted
    assert str(killed.parent / "report" / "report.html") in again


def test_sigterm_to_an_evaluation_with_a_worker_is_one_line(tmp_path, start_process):
    """Ray's handlers would end it with SIGABRT and a trace of C++, or with 15."""
    process = start_process(*COMMAND, "--workers", "1", "--num-steps", "100000", "--out", tmp_path / "out")
    for line in process.stdout:
        if "results in" in line:
            break
    process.terminate()
    rest = process.stdout.read().splitlines()
    process.wait(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, rest
    assert [line for line in rest if "compiling" not in line] == ["mulo-eval: terminated."]
