import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from eval_tasks.cli import main
from eval_tasks.costs import Cost
from eval_tasks.display import Display
from eval_tasks.suites import make_suite
from tests.descriptors import SMALL_FC_H4

pytestmark = pytest.mark.usefixtures("standard_promotion")

# fmt: off
TINY = (
    "--base-width", "2", "--depth", "1", "--data-set", "digits",
    "--num-steps", "4", "--batch-size", "4", "--num-seeds", "2",
)
# fmt: on


def run_cli(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def checkpoint(tmp_path):
    import mulo

    path = tmp_path / "mine.mulo"
    mulo.save(path, SMALL_FC_H4.checkpoint())
    return path


def test_an_evaluation_ends_with_the_report_of_its_results_and_a_second_run_adds_nothing(
    tmp_path, capsys, checkpoint
):
    out = tmp_path / "results"
    command = ["--suite", "long", *TINY, "--optimizer", checkpoint, "--optimizer", "adam-1e-3", "--out", out]
    code, text, err = run_cli(capsys, *command)
    assert (code, err) == (0, "")
    assert "compiling mine, mlp-w2-d1_digits\n" in text
    content = (out / "results.jsonl").read_bytes()
    records = [json.loads(line) for line in content.splitlines()]
    assert sorted((r["optimizer"], r["num_steps"], r["seed"]) for r in records) == [
        (name, steps, seed) for name in ("adam-1e-3", "mine") for steps in (4, 20) for seed in (0, 1)
    ]
    for name in ("loss", "curves"):
        picture = out / "report" / f"long-smoke-{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert str(out / "report" / "report.html") in text
    assert "steps 20" in text
    mean = sum(r["final_loss"] for r in records if (r["optimizer"], r["num_steps"]) == ("mine", 20)) / 2
    assert f"{mean:.4f} +- " in text
    told = text[text.index("long (smoke") :]
    code, again, _ = run_cli(capsys, *command)
    assert code == 0
    assert (out / "results.jsonl").read_bytes() == content
    assert again[again.index("long (smoke") :] == told
    assert run_cli(capsys, "report", out) == (0, told.removesuffix(f"results: {out / 'results.jsonl'}\n"), "")


def test_a_baseline_is_tuned_and_shown_with_its_learning_rate(tmp_path, capsys):
    seeds = ("--num-seeds", 1, "--num-tuning-seeds", 1)
    command = ["--suite", "wide", *TINY, *seeds, "--optimizer", "muadamw", "--out", tmp_path / "a"]
    code, text, _ = run_cli(capsys, *command)
    assert code == 0
    records = [json.loads(line) for line in (tmp_path / "a/results.jsonl").read_text().splitlines()]
    tuned = {r["learning_rate"]: r["tail_loss"] for r in records if r["purpose"] == "tune"}
    assert {r["width"] for r in records if r["purpose"] == "tune"} == {2}
    chosen = min(tuned, key=tuned.get)
    assert {r["learning_rate"] for r in records if r["purpose"] == "evaluate"} == {chosen}
    shown = f"{chosen:g}{'*' if chosen in (min(tuned), max(tuned)) else ''}"
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| muadamw")]
    assert ["muadamw", "base value", *[shown] * 4] in [[cell.strip() for cell in row] for row in rows]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--suite wyde --optimizer adamw", "No suite is called 'wyde'. Did you mean 'wide'?"),
        ("--suite wide --optimizer adamv", "No optimizer is called 'adamv'. Did you mean 'adamw'?"),
        ("--suite wide --optimizer no-such", "no-such"),
        ("--suite wide --optimizer adamw --data-set digitz", "Did you mean 'digits'?"),
        ("--suite wide", "the following arguments are required: --optimizer"),
        ("wide", "A suite is given as --suite wide, with --optimizer beside it."),
        ("--suite wide --optimizer adamw --workers 0", "No workers are asked for; wanted --gpus N or --work"),
        ("--optimizer adamw", "the following arguments are required: --suite"),
        ("--suite wide --size small --optimizer adamw", "No size of a suite is called 'small'"),
        ("--suite wide --optimizer mulo-quick@cosin", "Did you mean 'cosine'?"),
        ("--suite wide --optimizer adamw --base-width -4", "-4"),
        ("--suite wide --optimizer adamw --depth 0", "depth"),
        ("--suite wide --optimizer adamw --num-steps 0", "--num-steps is 0; wanted at least 1."),
        ("--suite wide --optimizer adamw --num-seeds -1", "--num-seeds is -1; wanted at least 1."),
        ("--suite wide --optimizer adamw --num-trials 100000", "--num-trials is 100000; wanted at most 101."),
        ("--suite wide --optimizer adamw --seed -1", "--seed is -1"),
        ("--suite wide --optimizer mulo-s@cosine,linear", "mulo-s@cosine,linear gives its schedule twice"),
        (
            "--suite wide --optimizer adamw --out {file}",
            "is no folder; wanted a folder, which may exist or not.",
        ),
        ("--suite wide --optimizer adamw --out {file}/a/b", "is no folder; wanted a folder, which may exist"),
        ("report {tmp} --out {file}/a", "is no folder; wanted a folder, which may exist or not."),
        ("report {tmp}", "is a folder without results.jsonl; wanted one that has it, or files"),
        ("report {file}", "Nothing to report on: there are no finished runs in {file}."),
        (
            "coord-check --task mlp-w64-d2_digits --widths 64 64",
            "--widths has one width; wanted at least two",
        ),
        ("coord-check --task mlp-w64-d2_digits --out a.foo", "wanted a file whose name ends in .png, .svg"),
        ("coord-check --task mlp-w64-d2_digits --out no/a.png", "there is no folder no: make it first."),
        ("--suite wide --optimizer adamw --batch-size x", "invalid int value: 'x'"),
        (
            "--suite wide --optimizer adamw --base-width 2 --depth 1 --data-set cifar10 --out {tmp}/c",
            "MULO_DATA_DIR",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MULO_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.touch()
    code, out, err = run_cli(capsys, *arguments.format(tmp=tmp_path, file=file).split())
    assert code == 2
    assert message.format(file=file) in err
    assert err.startswith("mulo-eval: error: ")
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_truncated_checkpoint_is_refused_and_kept(keep, tmp_path, capsys, checkpoint):
    content = checkpoint.read_bytes()[:keep]
    checkpoint.write_bytes(content)
    code, out, err = run_cli(
        capsys, "--suite", "wide", *TINY, "--optimizer", checkpoint, "--out", tmp_path / "a"
    )
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(checkpoint) in err
    assert checkpoint.read_bytes() == content
    assert not (tmp_path / "a").exists()


def test_wrong_flags_are_answered_without_jax():
    script = (
        "import sys, eval_tasks.cli\n"
        "assert eval_tasks.cli.main(['--suite', 'wyde', '--optimizer', 'adamw']) == 2\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.mark.parametrize("command", [("eval_tasks.cli", "data"), ("meta_train.cli", "config")])
def test_nobody_reads_the_output(command):
    module, word = command
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", module, word], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(("number", "status", "word"), [(15, 143, "terminated"), (2, 130, "interrupted")])
@pytest.mark.parametrize("ending", ["signal", "Ray's own exception", "Ray's own exit"])
def test_a_signal_is_one_line_and_an_exit_status(number, status, word, ending, tmp_path, capsys, monkeypatch):
    """Ray turns what a handler raises into an interruption of its own, or exits with the number itself."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*_):
        (tmp_path / "my results").mkdir(exist_ok=True)
        (tmp_path / "my results" / "results.jsonl").touch()
        if ending == "Ray's own exit" and number == signal.SIGTERM:
            sys.exit(number)
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        except KeyboardInterrupt:
            if ending != "signal":
                raise KeyboardInterrupt from None
            raise

    monkeypatch.setattr("eval_tasks.cli._run", run)
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli(capsys, "--suite", "wide", "--optimizer", "adamw", "--out", "my results")
    command = "mulo-eval --suite wide --optimizer adamw --out 'my results'"
    assert (code, out) == (status, "")
    assert err == f"mulo-eval: {word}. Finished runs are kept; go on with: {command}\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_compilation_is_said_at_once_and_then_now_and_then():
    written = io.StringIO()
    with Display(Cost(1, 1, 1.0, 1.0), Console(file=written, width=100)) as display:
        for number in range(3):
            display.compiling(f"compiling {number}")
    assert written.getvalue() == "compiling 0\n"


def test_names_in_a_checkpoint_are_printed_without_what_controls_a_terminal(tmp_path):
    import mulo
    from eval_tasks.contenders import make_contenders

    name = "a\x1b[31m\ud800\u202e" + "x" * 300
    provenance = {"name": name, "tasks": ["\ud800", name]}
    path = tmp_path / "mine.mulo"
    mulo.save(path, dataclasses.replace(SMALL_FC_H4.checkpoint(), provenance=provenance))
    contender = make_contenders([str(path), "adam-1e-3"])[0]
    assert contender.label.startswith("a\\x1b[31m\\ud800\\u202exx")
    assert contender.label.isprintable() and len(contender.label) <= 120
    make_suite("wide", "smoke", {}, {contender.label: contender.provenance})
