"""Without the packages of an extra, what needs them says so in one line, with a command that works."""

import configparser
import subprocess
import sys

import pytest

from mulo import extras
from tests import ROOT

PROGRAM = """
import importlib, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
sys.exit(importlib.import_module(sys.argv[2]).main(sys.argv[3:]))
"""
NOT_THERE = "haiku,rich,matplotlib,scipy.stats,ray,sklearn,tensorboardX"


def run_without(modules, command, *arguments):
    words = [sys.executable, "-c", PROGRAM, modules, command, *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("eval_tasks.cli", "list --suite wide --size smoke"),
        ("eval_tasks.cli", "data"),
        ("eval_tasks.cli", "--suite wide --optimizer adamw --out {tmp}/out"),
        ("eval_tasks.cli", "--suite wide --optimizer adamw --workers 1 --out {tmp}/out"),
        ("eval_tasks.cli", "coord-check --task mlp-w8-d1_digits --out {tmp}/a.png"),
        ("meta_train.cli", "--preset quick --out {tmp}/run"),
    ],
)
def test_the_command_line_says_what_to_install(command, arguments, tmp_path):
    done = run_without(NOT_THERE, command, *arguments.format(tmp=tmp_path).split())
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "run pip install '.[" in done.stderr and "in the folder of mulo's checkout" in done.stderr
    else:
        assert arguments.split()[0] in ("list", "data")


def test_every_package_is_in_the_extra_that_is_named():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    distributions = {"haiku": "dm-haiku", "sklearn": "scikit-learn"}
    for module, extra in extras._EXTRA_OF.items():
        assert distributions.get(module, module) in parser["options.extras_require"][extra]


def test_no_message_names_an_index_that_does_not_have_us():
    for path in [*ROOT.glob("mulo/**/*.py"), *ROOT.glob("*_*/**/*.py"), *ROOT.glob("docs/*.md")]:
        assert "'mulo[" not in path.read_text(encoding="utf-8"), path
