"""tests/matrix.sh, which `make test-matrix` calls: which Pythons it finds, and what it says at the end."""

import os
import subprocess

import pytest

from tests.architecture.sources import ROOT


def write_script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def matrix(tmp_path):
    """Runs the script with a `make` that notes how it is called, and fails for a Python 3.99."""
    bin_folder = tmp_path / "bin"
    write_script(bin_folder / "make", 'echo "$@" >> "$CALLS"; case "$*" in *3.99*) exit 1;; esac')

    def run(versions):
        (tmp_path / "calls").write_text("")
        result = subprocess.run(
            ["bash", ROOT / "tests" / "matrix.sh", "test"],
            env={
                "PATH": f"{bin_folder}:{os.environ['PATH']}",
                "CALLS": str(tmp_path / "calls"),
                "MAKE": "make",
                "PYENV_ROOT": str(tmp_path / "pyenv"),
                "PYTHONS": versions,
                "VENV": str(tmp_path / "venv"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout.splitlines(), (tmp_path / "calls").read_text().splitlines()

    return run


def write_python(path, version):
    write_script(path, f'case "$1" in -V) echo "Python {version}.1";; -c) echo {version};; esac')


def test_each_version_that_runs_has_its_own_environment(tmp_path, matrix):
    write_python(tmp_path / "bin" / "python3.97", "3.97")
    write_script(tmp_path / "bin" / "python3.98", "exit 127")  # a shim whose version is not chosen
    write_python(tmp_path / "pyenv" / "versions" / "3.98.1" / "bin" / "python", "3.98")
    status, lines, calls = matrix("3.96 3.97 3.98")
    assert status == 0
    assert lines[0] == "Python 3.96: not installed"
    assert [line.split(", jax")[0] for line in lines[1:]] == ["Python 3.97.1", "Python 3.98.1"]
    assert all("make test passed" in line for line in lines[1:])
    assert f"PYTHON={tmp_path}/bin/python3.97 VENV={tmp_path}/venv-3.97 test" in calls[0]
    assert f"PYTHON={tmp_path}/pyenv/versions/3.98.1/bin/python VENV={tmp_path}/venv-3.98 test" in calls[1]


def test_one_that_fails_fails_all_and_the_others_run(tmp_path, matrix):
    for version in ("3.98", "3.99", "3.97"):
        write_python(tmp_path / "bin" / f"python{version}", version)
    status, lines, calls = matrix("3.98 3.99 3.97")
    assert status == 1 and len(calls) == 3
    assert ["FAILED" in line for line in lines] == [False, True, False]


def test_none_that_is_installed_is_an_error(matrix):
    status, lines, calls = matrix("3.96")
    assert (status, lines, calls) == (2, ["Python 3.96: not installed"], [])
