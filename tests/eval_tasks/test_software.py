"""The digest of the code that decides a run: which changes make results of before be run again."""

import shutil

import pytest

from eval_tasks import software
from tests.architecture.sources import ROOT

SMALL_FC, CELO = "mulo.optimizers.small_fc", "mulo.optimizers.celo"


CHANGED = [
    ("mulo/optimizers/small_fc.py", (False, True, False)),
    ("mulo/optimizers/velo.py", (False, False, True)),  # whose steps Celo has
    ("mulo/optimizers/_features.py", (False, True, True)),
    ("mulo/optimizers/celo2.py", (False, False, False)),
    ("mulo/optimizers/descriptions.py", (False, False, False)),
    ("mulo/mup/rules.py", (True, True, True)),
    ("eval_tasks/baselines.py", (True, True, True)),
    ("eval_tasks/models/mlp.py", (True, True, True)),
    ("eval_tasks/cli.py", (False, False, False)),
]
"""A file, and whether a change of it changes each of the digests."""


def digests():
    """Of the code of a baseline, and of two learned optimizers."""
    software.software_versions.cache_clear()
    return tuple(software.software_versions(module)["code"] for module in ("", SMALL_FC, CELO))


@pytest.fixture(scope="module")
def before():
    """The digests of the code as it is."""
    return digests()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The folder of a copy of the code, of which the digests are from now on."""
    for package in ("mulo", "eval_tasks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc"))
    monkeypatch.setattr(software, "__file__", str(tmp_path / "eval_tasks" / "software.py"))
    yield tmp_path
    software.software_versions.cache_clear()


def append(path, text):
    with path.open("a") as opened:
        opened.write(text)


def test_comments_do_not_count(before, copy):
    assert len(set(before)) == 3
    for file, _ in CHANGED:
        append(copy / file, "\n# a comment\n")
    assert digests() == before


@pytest.mark.parametrize(("file", "changed"), CHANGED)
def test_only_code_that_a_run_uses_counts(before, copy, file, changed):
    append(copy / file, "A_NEW_CONSTANT = 1\n")
    assert tuple(old != new for old, new in zip(before, digests(), strict=True)) == changed
