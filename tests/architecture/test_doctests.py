"""The examples in docstrings say what happens."""

import doctest
import importlib

import pytest

from tests.architecture.sources import sources

MODULES = [
    source.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for source in sources("mulo", "eval_tasks", "meta_train")
    if ">>>" in source.text
]


@pytest.mark.parametrize("package", ["mulo", "eval_tasks", "meta_train"])
def test_every_package_has_examples(package):
    assert any(name.split(".")[0] == package for name in MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0
