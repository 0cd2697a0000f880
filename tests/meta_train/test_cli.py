import json
import subprocess
import sys

import pytest

from meta_train.cli import main

pytestmark = pytest.mark.usefixtures("standard_promotion")

# fmt: off
TINY = (
    "--tasks", "mlp-w2-d1_digits", "--batch-size", "4", "--hidden-size", "2", "--truncation-length", "2",
    "--min-horizon", "2", "--max-horizon", "4", "--num-pairs", "1", "--pairs-per-slot", "1",
)
# fmt: on


def run_cli(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_run_and_its_digest(tmp_path, capsys):
    out = tmp_path / "a"
    code, text, _ = run_cli(capsys, *TINY, "--meta-steps", 3, "--seed", 0, "--out", out)
    assert code == 0
    assert "meta-step 3/3" in text
    assert json.loads((out / "config.json").read_text())["meta_steps"] == 3
    code, text, _ = run_cli(capsys, "digest", out)
    last = text.splitlines()[-1]
    assert code == 0
    assert len(last) == 64
    assert set(last) <= set("0123456789abcdef")
    code, text, _ = run_cli(capsys, "--resume", out)
    assert code == 0
    code, _, err = run_cli(capsys, *TINY, "--meta-steps", 3, "--out", out)
    assert code == 2
    assert "exists already and is not overwritten" in err
    assert run_cli(capsys, "digest", out)[1].splitlines()[-1] == last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--preset quik", "No preset is called 'quik'. Did you mean 'quick'?"),
        ("--tasks mlp-w8-d2_digitz", "Did you mean 'digits'?"),
        ("--tasks mlp-w-8-d2_digits", "width"),
        ("--optimizer smal_fc", "Did you mean 'small_fc'?"),
        ("--estimator nope", "No gradient estimator is called 'nope'."),
        ("--meta-steps -1", "meta_steps is -1"),
        ("--meta-steps many", "invalid int value: 'many'"),
        ("--metasteps 3", "No flag is called --metasteps. Did you mean --meta-steps?"),
        ("--checkpoint-interval 0", "--checkpoint-interval is 0; wanted at least 1."),
        ("--resume no-such-run", "no-such-run is not a run"),
        ("digest no-such-run", "no-such-run is not a run"),
        ("statu runs/a", "No command is called 'statu'. Did you mean 'status'?"),
        ("digest", "the following arguments are required: run"),
        ("--tasks mlp-w8-d2_cifar10 --out {tmp}/c", "MULO_DATA_DIR"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MULO_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli(capsys, *arguments.format(tmp=tmp_path).split())
    assert code == 2
    assert message in err
    assert err.startswith("mulo-meta-train")
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_called_by_where_it_starts_from(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text('preset = "paper-s"\n')
    assert run_cli(capsys, *TINY, "--meta-steps", 1)[0] == 0
    assert run_cli(capsys, *TINY, "--meta-steps", 1, "--config", "mine.toml")[0] == 0
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "runs").iterdir()) == ["mine", "quick"]


def test_flags_cannot_change_a_resumed_run(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    code, _, err = run_cli(capsys, "--resume", tmp_path, "--seed", 1)
    assert (code, err.count("\n")) == (2, 1)
    assert "--seed cannot be changed with --resume" in err


def test_help_and_wrong_flags_are_answered_without_jax():
    program = (
        "import sys, meta_train.cli as cli\n"
        "try:\n    code = cli.main(sys.argv[1:])\nexcept SystemExit as error:\n    code = error.code\n"
        "sys.exit(100 if 'jax' in sys.modules else code)"
    )
    for arguments, code in (["--help"], 0), (["--preset", "quik"], 2), (["--tasks", "mlp-w0-d1_digits"], 2):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=False)
        assert done.returncode == code
