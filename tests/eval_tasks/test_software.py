"""The digest of the code that decides a run: which changes make results of before be run again."""

import shutil

import pytest

from eval_tasks import software
from tests.architecture.sources import ROOT

SMALL_FC, CELO = "mulo.optimizers.small_fc", "mulo.optimizers.celo"


@pytest.fixture
def digests(tmp_path, monkeypatch):
    """Gives the digests of a copy of the code: of a baseline, and of two learned optimizers."""
    for package in ("mulo", "eval_tasks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc"))
    monkeypatch.setattr(software, "__file__", str(tmp_path / "eval_tasks" / "software.py"))

    def compute():
        software.software_versions.cache_clear()
        return tuple(software.software_versions(module)["code"] for module in ("", SMALL_FC, CELO))

    yield compute
    software.software_versions.cache_clear()


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("mulo/optimizers/small_fc.py", (False, True, False)),
        ("mulo/optimizers/velo.py", (False, False, True)),  # whose steps Celo has
        ("mulo/optimizers/_features.py", (False, True, True)),
        ("mulo/optimizers/celo2.py", (False, False, False)),
        ("mulo/optimizers/descriptions.py", (False, False, False)),
        ("mulo/mup/rules.py", (True, True, True)),
        ("eval_tasks/baselines.py", (True, True, True)),
        ("eval_tasks/models/mlp.py", (True, True, True)),
        ("eval_tasks/cli.py", (False, False, False)),
    ],
)
def test_only_code_that_a_run_uses_counts(digests, tmp_path, file, changed):
    before = digests()
    assert len(set(before)) == 3
    with (tmp_path / file).open("a") as opened:
        opened.write("\n# a comment\n")
    assert digests() == before
    with (tmp_path / file).open("a") as opened:
        opened.write("A_NEW_CONSTANT = 1\n")
    assert tuple(old != new for old, new in zip(before, digests(), strict=True)) == changed
