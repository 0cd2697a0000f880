"""A run writes into the directory that it locked, and through no symbolic link; and knows its checkpoints."""

import json
import os
import shutil
from pathlib import Path

import pytest

from meta_train import driver
from meta_train.cli import main
from meta_train.driver import RunOptions, resume, run
from meta_train.errors import StorageError
from meta_train.executors.local import LocalExecutor
from meta_train.run_directory import RunDirectory
from mulo import load
from mulo.errors import CheckpointError
from tests.meta_train import test_driver as runs
from tests.meta_train.test_driver import CONFIG, OPTIONS, digest, read_metrics

pytestmark = [pytest.mark.usefixtures("standard_promotion"), pytest.mark.optimized]

shared_programs = runs.shared_programs
whole_run = runs.whole_run
stopped_run = runs.stopped_run
OFTEN = RunOptions(checkpoint_interval=1)


@pytest.fixture
def at_meta_step(monkeypatch):
    """Something happens while a run makes a meta-step."""

    def arrange(meta_step, do):
        def make(*arguments):
            executor = LocalExecutor(*arguments)
            advance = executor.advance

            def advance_and_do(theta, step):
                if step == meta_step:
                    do()
                return advance(theta, step)

            executor.advance = advance_and_do
            return executor

        monkeypatch.setattr(driver, "LocalExecutor", make)

    return arrange


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def make_successor(out):
    """Another run at the same place, with checkpoints of the same names."""
    successor = RunDirectory.create(out, CONFIG)
    for step in range(1, 12):
        successor.checkpoint_path(step).write_bytes(b"another's")
    return files_of(out)


def test_a_renamed_run_goes_on_where_it_is_and_leaves_its_successor_alone(whole_run, tmp_path, at_meta_step):
    out, moved, there = tmp_path / "run", tmp_path / "moved", {}

    def rename():
        out.rename(moved)
        there.update(make_successor(out))

    at_meta_step(4, rename)
    run(CONFIG, out, OFTEN)
    assert files_of(out) == there
    assert digest(moved) == digest(whole_run) and read_metrics(moved) == read_metrics(whole_run)
    assert RunDirectory(moved).checkpoint_steps() == [8, 7]
    log = (moved / "log.txt").read_text()
    assert log.count(f"has been moved to {moved}") == 1 and f"optimizer is {moved}" in log


def test_a_renamed_run_that_is_stopped_says_where_to_go_on(tmp_path, at_meta_step):
    out, moved = tmp_path / "run", tmp_path / "moved to $HOME"
    at_meta_step(4, lambda: (out.rename(moved), out.mkdir(), os.kill(os.getpid(), 15)))
    run(CONFIG, out, OPTIONS)
    assert f"--resume '{moved}'" in (moved / "log.txt").read_text()
    assert list(out.iterdir()) == []


def test_a_removed_run_stops_in_one_line(tmp_path, at_meta_step):
    out, there = tmp_path / "run", {}

    def remove():
        shutil.rmtree(out)
        there.update(make_successor(out))

    at_meta_step(4, remove)
    with pytest.raises(StorageError, match=r"run has been removed while this run was using it") as caught:
        run(CONFIG, out, OFTEN)
    assert "\n" not in str(caught.value)
    assert files_of(out) == there


def test_a_removed_lock_is_taken_again_or_the_run_stops(whole_run, tmp_path, at_meta_step):
    first, second = tmp_path / "first", tmp_path / "second"
    at_meta_step(4, lambda: (first / "lock").unlink())
    run(CONFIG, first, OPTIONS)
    assert digest(first) == digest(whole_run)
    other = RunDirectory(second).lock()

    def take():
        (second / "lock").unlink()
        other.__enter__()

    at_meta_step(4, take)
    with pytest.raises(StorageError, match="in use by another process"):
        run(CONFIG, second, OFTEN)
    assert RunDirectory(second).checkpoint_steps() == [4, 3]
    other.__exit__(None, None, None)


def test_removed_checkpoints_are_written_anew(whole_run, tmp_path, at_meta_step):
    out = tmp_path / "run"
    at_meta_step(4, lambda: shutil.rmtree(out / "checkpoints"))
    run(CONFIG, out, OFTEN)
    assert digest(out) == digest(whole_run)
    assert RunDirectory(out).checkpoint_steps() == [8, 7]


@pytest.mark.parametrize("name", [6, 8, 9, 99999999])
def test_a_copied_checkpoint_is_passed_over(whole_run, stopped_run, name):
    directory = RunDirectory(stopped_run)
    copy = directory.checkpoint_path(name)
    shutil.copy(directory.checkpoint_path(5), copy)
    assert resume(stopped_run, OPTIONS).meta_step == 8
    assert f"Passed over: {copy} was written after meta-step 5" in (stopped_run / "log.txt").read_text()
    assert digest(stopped_run) == digest(whole_run)
    assert read_metrics(stopped_run) == read_metrics(whole_run)
    # It never counted among those that are kept.
    assert [step for step in directory.checkpoint_steps() if step <= 8] == [8, 6]


@pytest.mark.parametrize("name", [3, 9])
def test_a_renamed_checkpoint_alone_is_an_error_in_one_line(stopped_run, capsys, name):
    directory = RunDirectory(stopped_run)
    Path(directory.checkpoint_path(5)).rename(directory.checkpoint_path(name))
    for step in directory.checkpoint_steps():
        if step != name:
            directory.checkpoint_path(step).unlink()
    assert main(["--resume", str(stopped_run)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "it was renamed or copied" in err
    assert main(["digest", str(stopped_run)]) == 2
    assert not (stopped_run / "theta.mulo").exists()


def test_a_checkpoint_of_another_run_is_refused(stopped_run):
    other = CONFIG.replace(seed=9)
    (stopped_run / "config.json").write_text(other.to_json())
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        resume(stopped_run, OPTIONS)


BAD_LINES = {
    "blank": b"\n",
    "nul": b"\0\0\0\n",
    "not utf-8": b'{"meta_step": 1, "\xff": 1}\n',
    "said by a library": b"WARNING: something\n",
    "a list": b"[1]\n",
    "no meta-step": b'{"meta_loss": 1}\n',
    "a text": b'{"meta_step": 1, "meta_loss": "low"}\n',
    "deep": b'{"meta_step": 1, "meta_loss": ' + b"[" * 10**5 + b"]" * 10**5 + b"}\n",
    "long": b'{"meta_step": 1, "a": ' + b"1" * 2**21 + b"}\n",
    "too large": b'{"meta_step": 1, "meta_loss": 1' + b"0" * 400 + b"}\n",
    "nan": b'{"meta_step": 1, "meta_loss": NaN}\n',
}


@pytest.mark.parametrize("where", [0, 2, 5])
def test_lines_that_are_no_records_cost_nothing(whole_run, stopped_run, where):
    path = stopped_run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[where:where] = [*BAD_LINES.values(), *lines[:1]]
    path.write_bytes(b"".join(lines))
    resume(stopped_run, OPTIONS)
    num_bad = len(BAD_LINES) + 1  # a meta-step that was there before
    assert f"Passed over: {num_bad} lines of {path}" in (stopped_run / "log.txt").read_text()
    assert digest(stopped_run) == digest(whole_run)
    assert read_metrics(stopped_run) == read_metrics(whole_run)
    assert load(stopped_run / "theta.mulo").provenance == load(whole_run / "theta.mulo").provenance


def test_metrics_that_are_lost_or_spoilt_on_the_way_cost_no_theta(whole_run, tmp_path, at_meta_step):
    out = tmp_path / "run"
    at_meta_step(5, lambda: (out / "metrics.jsonl").unlink())
    run(CONFIG, out, OPTIONS)
    assert digest(out) == digest(whole_run)
    assert load(out / "theta.mulo").provenance["meta_loss"] is None


LINKED = ("lock", "log.txt", "metrics.jsonl", "config.json", "theta.mulo", "best.mulo")


@pytest.mark.parametrize("name", [*LINKED, "dangling"])
def test_nothing_is_written_through_a_symbolic_link(stopped_run, tmp_path, capsys, name):
    victim = tmp_path / "victim"
    for link in LINKED if name == "dangling" else [name]:
        path = stopped_run / link
        content = path.read_bytes() if path.exists() else b"mine"
        path.unlink(missing_ok=True)
        if name != "dangling":
            victim.write_bytes(content)
        elif link == "config.json":
            path.write_bytes(content)
            continue
        path.symlink_to(victim)
    code = main(["--resume", str(stopped_run)])
    err = capsys.readouterr().err
    if name == "dangling":
        assert code == 2 and not victim.exists()
    else:
        assert victim.read_bytes() == content
    if code:
        assert err.count("\n") == 1 and "it is a symbolic link, which is not written through" in err
        assert f"{stopped_run}/" in err


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_no_folder_is_reached_through_a_symbolic_link(stopped_run, tmp_path, capsys, name):
    pytest.importorskip("tensorboardX")
    elsewhere, folder = tmp_path / "elsewhere", stopped_run / name
    if folder.exists():
        folder.rename(elsewhere)
    else:
        elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    before = files_of(elsewhere)
    assert main(["--resume", str(stopped_run), "--tensorboard"]) in (1, 2)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "it is a symbolic link" in err
    assert files_of(elsewhere) == before


def test_a_run_without_its_configuration_is_told_of_in_one_voice(stopped_run, tmp_path, capsys):
    (stopped_run / "config.json").unlink()
    said = []
    for flags in (["--resume", stopped_run], ["--out", stopped_run], ["status", stopped_run]):
        assert main(list(map(str, flags))) == 2
        said.append(capsys.readouterr().err)
        assert said[-1].count("\n") == 1
    assert all("not a run" in line and "no config.json" in line for line in said)
    assert "--resume" not in said[1].split("exists")[1]
    assert main(["--resume", str(tmp_path / "nowhere")]) == 2
    assert "is not a run: nothing is there" in capsys.readouterr().err


def test_commands_to_go_on_with_are_those_of_a_shell(stopped_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, shown in [("it's $HOME; `x`", "'it'\"'\"'s $HOME; `x`'"), ("-x y", "'./-x y'")]:
        shutil.copytree(stopped_run, tmp_path / name)
        assert main(["--out", f"./{name}"]) == 2
        assert f"--resume {shown}," in capsys.readouterr().err
        assert main(["status", f"./{name}"]) == 0
        assert f"mulo-meta-train --resume {shown}\n" in capsys.readouterr().out
    assert json.loads((stopped_run / "config.json").read_text())["meta_steps"] == 8
