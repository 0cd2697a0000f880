"""What a user has in the current folder is found by its name, and hides nothing."""

import importlib
import sys

import pytest

from eval_tasks.user_modules import import_user_module


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_and_a_package_are_found(here):
    (here / "my_optimizer_file.py").write_text("import json\nvalue = json.dumps(1)")
    (here / "my_optimizer_package").mkdir()
    (here / "my_optimizer_package" / "__init__.py").write_text("")
    (here / "my_optimizer_package" / "part.py").write_text("from . import other\nvalue = other.value")
    (here / "my_optimizer_package" / "other.py").write_text("value = 7")
    (here / "json.py").write_text("raise SystemExit('hidden')")
    assert import_user_module("my_optimizer_file").value == "1"
    assert import_user_module("my_optimizer_package.part").value == 7


@pytest.mark.parametrize("name", ["optax", "imaplib", "optax.contrib"])
def test_what_is_installed_is_never_taken_from_there(here, monkeypatch, name):
    monkeypatch.delitem(sys.modules, "imaplib", raising=False)
    for hostile in ("optax", "imaplib"):
        (here / f"{hostile}.py").write_text("raise SystemExit('hidden')")
    assert import_user_module(name) is importlib.import_module(name)
    assert str(here) not in import_user_module(name).__file__


def test_other_modules_there_are_not_found_and_a_failed_one_leaves_nothing(here):
    (here / "my_helper_module").mkdir()
    (here / "my_helper_file.py").write_text("")
    (here / "my_broken_file.py").write_text("import my_helper_file")
    with pytest.raises(ModuleNotFoundError, match="my_helper_file"):
        import_user_module("my_broken_file")
    assert "my_broken_file" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        import_user_module("my_missing_file.part")
