"""The examples in the docstrings of mulo say what happens."""

import doctest
import importlib

import pytest

import mulo
from tests.architecture.sources import sources

MODULES = [
    source.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for source in sources("mulo")
    if ">>>" in source.text
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name == "mulo":
        _load_or_skip("mulo-quick")
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0


def _load_or_skip(released: str) -> None:
    try:
        mulo.load(released)
    except mulo.CheckpointError as error:
        pytest.skip(f"its example uses a released optimizer that is not there: {error}")
