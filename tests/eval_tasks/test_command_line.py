"""The standard streams of both command lines, whatever they are at the start."""

import importlib
import os
import subprocess
import sys

import pytest

from eval_tasks.command_line import check_folder
from mulo.errors import InputError

PROGRAM = """
import os, sys
from eval_tasks.command_line import unless_pipe_is_closed
def run():
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
    assert descriptor > 2, descriptor
    print("out \\udcff \\u2028", flush=True)
    print("err", file=sys.stderr, flush=True)
    return 0
sys.exit(unless_pipe_is_closed(run))
"""


ENVIRONMENT = {**os.environ, "PYTHONIOENCODING": "ascii"}


def run_in_shell(redirections, *arguments, program=PROGRAM):
    words = ["sh", "-c", f'exec "$0" -c "$@" {redirections}', sys.executable, program, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=ENVIRONMENT)


@pytest.mark.parametrize("redirections", ["", "<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_files_never_get_the_descriptors_of_standard_streams(redirections, tmp_path):
    done = run_in_shell(redirections, tmp_path / "file")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_bytes() == b""
    said = "" if " >&-" in f" {redirections}" else "out \\udcff \\u2028\n"
    assert done.stdout == said


def test_output_that_cannot_be_written_is_one_line(tmp_path):
    done = run_in_shell(">/dev/full", tmp_path / "file")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("command", ["meta_train.cli", "eval_tasks.cli"])
@pytest.mark.parametrize("redirections", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_both_commands_begin_so(command, redirections):
    program = f"import sys; from {command} import main; sys.exit(main(sys.argv[1:]))"
    done = run_in_shell(redirections, "no-such-command", program=program)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["n" * 256, "a/" * 3000, "nul\0"])
def test_a_name_that_no_folder_can_have_is_refused(name, tmp_path):
    with pytest.raises(InputError) as caught:
        check_folder(tmp_path / name)
    assert "\n" not in str(caught.value) and "--out" in str(caught.value)


@pytest.mark.parametrize(
    ("command", "arguments", "flag"),
    [
        ("eval_tasks.cli", "--suite wide --optimiser adamw", "--optimizer"),
        ("eval_tasks.cli", "--suite wide --optimizer adamw --steps 3", "--num-steps"),
        ("eval_tasks.cli", "--suite wide --optimizer adamw --output=x", "--out"),
        ("eval_tasks.cli", "--suite wide --optimizer adamw -out x", "--out"),
        ("eval_tasks.cli", "coord-check --task mlp-w64-d3_digits --lr 1", "--learning-rate"),
        ("eval_tasks.cli", "list --sute wide", "--suite"),
        ("meta_train.cli", "--steps 10", "--meta-steps"),
        ("meta_train.cli", "--optimiser celo", "--optimizer"),
        ("meta_train.cli", "--meta_steps 10", "--meta-steps"),
        ("meta_train.cli", "--BatchSize 10", "--batch-size"),
    ],
)
def test_a_misspelt_flag_is_told_the_right_one(command, arguments, flag, capsys):
    main = importlib.import_module(command).main
    assert main(arguments.split()) == 2
    message = capsys.readouterr().err
    assert f"Did you mean {flag}? See " in message
    assert message.count("\n") == 1


def test_a_flag_like_no_other_is_named(capsys):
    assert importlib.import_module("eval_tasks.cli").main(["--zzz", "1"]) == 2
    assert "No flag is called --zzz. See mulo-eval --help." in capsys.readouterr().err
