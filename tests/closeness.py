"""Comparison of trees of arrays: exactly, or relative to the root mean square of each leaf."""

from typing import Any

import jax
import numpy as np


def assert_trees_equal(got: Any, wanted: Any) -> None:
    """Same structure, dtypes and bits."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype, jax.tree_util.keystr(path)
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def assert_trees_close(got: Any, wanted: Any, tolerance: float = 5e-6) -> None:
    """Same structure; differences at most `tolerance` times the root mean square of the wanted leaf.

    The default is that of the golden traces for one formula compiled in different ways.
    """
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert x.shape == y.shape, jax.tree_util.keystr(path)
        if x.size:
            limit = tolerance * np.sqrt(np.mean(np.square(y))) + 1e-30
            assert np.max(np.abs(x - y)) <= limit, f"{jax.tree_util.keystr(path)}: {x} is not {y}"


def all_finite(tree: Any) -> bool:
    """Whether every entry of every leaf is finite."""
    return all(bool(np.all(np.isfinite(np.asarray(x, np.float64)))) for x in jax.tree.leaves(tree))
