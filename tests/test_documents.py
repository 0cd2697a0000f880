"""The Python in the documents runs, their command lines have flags that exist, their links lead somewhere."""

import configparser
import importlib
import re

import jax
import pytest

from tests import ROOT
from tests.documents import DOCUMENTS, PROGRAMS, command_lines, python_blocks

README = ROOT / "README.md"

each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix().removesuffix(".md")
)


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if python_blocks(path)], ids=lambda path: path.stem
)
def test_the_python_examples_run_in_order(path):
    namespace = {}
    with jax.numpy_rank_promotion("allow"):
        for block in python_blocks(path):
            exec(compile(block, path.name, "exec"), namespace)


def refusal(words, capsys):
    """What a program says of this command line, called with one flag more that no program has."""
    scripts = setup_cfg()["options.entry_points"]["console_scripts"]
    module = re.search(rf"^{words[0]} = ([\w.]+):main$", scripts, re.MULTILINE)[1]
    assert importlib.import_module(module).main([*words[1:], "--no-such-flag"]) == 2
    return capsys.readouterr().err


@each_document
def test_command_lines_have_flags_that_exist(path, capsys):
    for words in command_lines(path):
        if "--help" not in words:
            said = refusal(words, capsys)
            assert "No flag is called --no-such-flag. See" in said, f"{' '.join(words)}: {said}"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["mulo-eval", "--suite", "wide", "--optimizers", "mulo-s"], "--optimizer"),
        (["mulo-eval", "coord-check", "--task", "a", "--steps", "1"], "--steps"),
        (["mulo-meta-train", "--preset", "quick", "--width", "3"], "--width"),
    ],
)
def test_a_wrong_command_line_would_be_found(words, what, capsys):
    said = refusal(words, capsys)
    assert what in said and "No flag is called --no-such-flag" not in said


def test_every_program_is_in_the_readme_more_than_once():
    called = [words[0] for words in command_lines(README)]
    assert all(called.count(program) > 5 for program in PROGRAMS)


@each_document
def test_names_that_make_and_pip_are_given_exist(path):
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"(?:^    |`)make ([a-z][a-z-]*)", text, re.MULTILINE)
    rules = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(targets) <= set(rules)
    extras = set(re.findall(r"(?:mulo|\.)\[([a-z]+)\]", text))
    assert extras <= set(setup_cfg()["options.extras_require"])


def test_the_first_lines_are_the_two_commands():
    lines = [line.split() for line in README.read_text().splitlines() if line.startswith("    make")]
    assert [line[:2] for line in lines[:2]] == [["make", "demo"], ["make", "test"]]


@each_document
def test_every_local_link_leads_somewhere(path):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert not missing
