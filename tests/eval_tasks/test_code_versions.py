"""Other code of others makes other runs: their module, and what it imports from beside it."""

import sys

import pytest

from eval_tasks.code_versions import code_version

FILES = {
    "entry_of_others.py": """
import json, beside_others
def make():
    from package_of_others import inner
""",
    "beside_others.py": "import entry_of_others\n",  # imports that go round in a circle
    "package_of_others/__init__.py": "",
    "package_of_others/inner.py": """
from . import deeper
from .other.leaf import x
def make():
    import unparsable
""",
    "package_of_others/deeper.py": "",
    "package_of_others/other/__init__.py": "from .. import deeper as _\n",
    "package_of_others/other/leaf.py": "x = 1\n",
    "package_of_others/stranger.py": "",
    "unparsable.py": "def (\n",
    "stranger.py": "",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if "of_others" in name or name == "beside_others"]:
        del sys.modules[name]


def test_a_change_counts_where_the_module_imports_it(folder):
    first = code_version("entry_of_others")
    assert first == code_version("entry_of_others")
    changed = set()
    for name, text in FILES.items():
        (folder / name).write_text(text + "#")
        if code_version("entry_of_others") != first:
            changed.add(name)
        (folder / name).write_text(text)
    assert set(FILES) - changed == {"package_of_others/stranger.py", "stranger.py"}


def test_a_module_inside_a_package_brings_the_package(folder):
    first = code_version("package_of_others.inner")
    for name, counts in {
        "package_of_others/__init__.py": True,
        "package_of_others/other/leaf.py": True,
        "beside_others.py": False,
    }.items():
        (folder / name).write_text(FILES[name] + "#")
        assert (code_version("package_of_others.inner") != first) is counts, name
        (folder / name).write_text(FILES[name])


def test_an_installed_package_is_its_version():
    import optax

    assert code_version("optax.contrib") == {"version": optax.__version__}
    assert list(code_version("jaxlib.version")) == ["version"]
    assert list(code_version("haiku")) == ["digest"]  # of the distribution dm-haiku
