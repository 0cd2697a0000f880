"""Checkpoint files: a trained optimizer to a file and back, checked against what the optimizer expects."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mulo import _catalog, _tree
from mulo._envelope import read_file as read_file
from mulo._envelope import write_file as write_file
from mulo._types import PyTree, Theta
from mulo.errors import CheckpointError, InputError
from mulo.names import lookup
from mulo.optimizers import make_optimizer
from mulo.optimizers.base import LearnedOptimizer
from mulo.printing import one_line, quoted, shown

THETA_KIND = "theta"
MAX_THETA_BYTES = 64 * 2**20
PARAMETRIZATIONS = {"mup": "maximal update parametrization", "sp": "standard parametrization"}


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained learned optimizer.

    Args:
      optimizer: the learned optimizer.
      theta: its weights.
      parametrization: what it was meta-trained under: "mup" or "sp".
      provenance: JSON values that say where it comes from: tasks, meta-steps, seed, versions, meta-loss.

    Raises:
      InputError: unknown parametrization.
    """

    optimizer: LearnedOptimizer
    theta: Theta
    parametrization: str
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Refuses an unknown parametrization."""
        lookup(PARAMETRIZATIONS, self.parametrization, "parametrization")


def save(path: str | os.PathLike[str], checkpoint: Checkpoint, *, overwrite: bool = False) -> None:
    """Writes a trained optimizer to a file, atomically.

    Args:
      path: where to, by custom ending in `.mulo`; its folder must exist.
      checkpoint: what to write.
      overwrite: replace a file that is there.

    Raises:
      InputError: the file exists, theta does not fit the optimizer, or the provenance is not JSON.
      CheckpointError: the file cannot be written.
    """
    optimizer = checkpoint.optimizer
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{shown(path)}: exists already. Choose another name, or pass overwrite=True.")
    theta = fit(to_body(checkpoint.theta), _expected_theta(optimizer), "the theta to be saved")
    header = {
        "optimizer": {"name": optimizer.name, "config": optimizer.config()},
        "parametrization": checkpoint.parametrization,
        "provenance": checkpoint.provenance,
    }
    write_file(path, kind=THETA_KIND, header=header, body=to_body(theta), max_bytes=MAX_THETA_BYTES)


def check_theta(checkpoint: Checkpoint) -> None:
    """Refuses a theta that is not of its optimizer; looks at names and shapes alone.

    Raises:
      InputError: the first leaf that differs.
    """
    expected = _shapes(_expected_theta(checkpoint.optimizer))
    found = _shapes(checkpoint.theta)
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            has, wanted = (f"has shape {s[name]}" if name in s else "is not there" for s in (found, expected))
            raise InputError(
                f"The checkpoint's theta was not made for this {checkpoint.optimizer.name}: leaf "
                f"{name or 'without a name'} {has}; wanted that it {wanted}. "
                "Was a size changed, as hidden_size?"
            )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {
        "/".join(_names(path)): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def load_file(path_or_name: str | os.PathLike[str], *, expect: str | None = None) -> Checkpoint:
    """A checkpoint file, a run directory or a released optimizer of this package; see `mulo.load`."""
    path = _find(path_or_name)
    header, body = read_file(path, kind=THETA_KIND, max_bytes=MAX_THETA_BYTES)
    name, config = _optimizer_fields(header, path)
    if expect is not None and name != expect:
        raise CheckpointError(f"{shown(path)}: is for optimizer {quoted(name)}; wanted {expect!r}.")
    optimizer, theta = bind(name, config, body, shown(path))
    try:
        return Checkpoint(
            optimizer=optimizer,
            theta=jax.device_put(theta),
            parametrization=header["parametrization"],
            provenance=header["provenance"],
        )
    except InputError as error:
        raise CheckpointError(f"{shown(path)}: {one_line(error)}") from error


def bind(
    name: str, config: dict[str, Any], body: dict[str, Any], where: str
) -> tuple[LearnedOptimizer, Theta]:
    """The optimizer that a file is for, and the file's arrays as its theta.

    Args:
      name: of the optimizer.
      config: its fields.
      body: nested dictionaries of arrays.
      where: the file, for the error.

    Raises:
      CheckpointError: there is no such optimizer, it cannot be built, or the arrays do not fit it.
    """
    try:
        optimizer = make_optimizer(name, config)
        expected = _expected_theta(optimizer)
    except Exception as error:  # the values come from the file: any of them may break a constructor
        raise CheckpointError(f"{where}: its optimizer cannot be built: {one_line(error)}") from error
    return optimizer, fit(body, expected, where)


def to_body(tree: PyTree) -> dict[str, Any]:
    """Nested dictionaries for `write_file`, from any tree; `fit` is the way back.

    Fields of NamedTuples go by name, entries of tuples and lists by position; containers without a
    leaf, and `None`, are left out.

    Raises:
      InputError: the tree is a single leaf, or two keys have the same spelling.

    >>> to_body({"a": (1.0, [2.0])})
    {'a': {'0': 1.0, '1': {'0': 2.0}}}
    """
    body: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = _names(path)
        if not names:
            raise InputError(f"The tree is a single {type(leaf).__name__}; wanted a dictionary of arrays.")
        node = body
        for name in names[:-1]:
            node = node.setdefault(name, {})
        if names[-1] in node:
            raise InputError(f"The tree has two leaves called {_tree.path_name(path)}.")
        node[names[-1]] = leaf
    return body


def fit(body: dict[str, Any], expected: PyTree, where: str, *, finite: bool = True) -> PyTree:
    """The arrays of `body` in the structure of `expected`, if they fit it leaf by leaf.

    Args:
      body: nested dictionaries of arrays, as from `read_file` or `to_body`.
      expected: a tree of arrays or `jax.ShapeDtypeStruct`; may hold NamedTuples, tuples and lists.
      where: what the body is of, for the error: the file.
      finite: refuse NaN and infinities.

    Returns:
      Arrays (those of `body`, as NumPy arrays) in the structure of `expected`.

    Raises:
      CheckpointError: a leaf is missing, too many, or of another shape or dtype, or not finite.
    """
    wanted, structure = jax.tree_util.tree_flatten_with_path(expected)
    found = dict(_leaves(body))
    arrays = []
    for path, leaf in wanted:
        names = _names(path)
        if names not in found:
            raise CheckpointError(f"{where}: has no leaf {quoted('/'.join(names))}, which is expected.")
        arrays.append(_fit_leaf(found.pop(names), leaf, f"{where}: leaf {quoted('/'.join(names))}", finite))
    if found:
        name = "/".join(next(iter(found)))
        raise CheckpointError(f"{where}: has a leaf {quoted(name)} that is not expected.")
    return structure.unflatten(arrays)


def theta_digest(theta: Theta) -> str:
    """SHA-256 of theta in hexadecimal: of paths, shapes, dtypes and little-endian bytes, in order of paths.

    Two thetas have the same digest if and only if they agree in every bit.
    """
    digest = hashlib.sha256()
    leaves = {_names(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(theta)}
    for names, array in sorted(leaves.items()):
        digest.update(json.dumps([names, array.shape, array.dtype.name]).encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _expected_theta(optimizer: LearnedOptimizer) -> PyTree:
    return jax.eval_shape(lambda: optimizer.init_theta(jax.random.key(0)))  # without a key on the device


def _find(path_or_name: str | os.PathLike[str]) -> Path:
    names = _catalog.released()
    if isinstance(path_or_name, str) and path_or_name in names:
        return names[path_or_name]
    if os.path.isdir(path_or_name):  # noqa: PTH112
        path = Path(path_or_name) / _catalog.THETA_FILE
        if not os.path.lexists(path):
            raise CheckpointError(
                f"{shown(path_or_name)}: is a folder without {_catalog.THETA_FILE}. Wanted a checkpoint "
                "file, or the directory of a meta-training run that has finished."
            )
        return path
    path = Path(path_or_name)
    is_name = isinstance(path_or_name, str) and path.name == path_or_name and not path.suffix
    if is_name and not os.path.lexists(path):
        try:
            lookup(names, path_or_name, "released optimizer")
        except InputError as error:
            there = f" There are: {', '.join(names)}." if names and "Did you mean" in str(error) else ""
            raise CheckpointError(f"{error}{there} Nor is there a file {quoted(path_or_name)}.") from None
    return path


def _optimizer_fields(header: dict[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    """Name and configuration of the optimizer; the types of all our fields are checked."""
    for field, wanted in (("optimizer", dict), ("parametrization", str), ("provenance", dict)):
        if not isinstance(header.get(field), wanted):
            raise CheckpointError(
                f"{shown(path)}: header field {field!r} is {quoted(header.get(field))}; "
                f"wanted a {wanted.__name__}."
            )
    name, config = header["optimizer"].get("name"), header["optimizer"].get("config")
    if not isinstance(name, str) or not isinstance(config, dict):
        raise CheckpointError(
            f"{shown(path)}: header field 'optimizer' is {quoted(header['optimizer'])}; "
            "wanted name and config."
        )
    return name, config


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)


def _leaves(node: Any, names: tuple[str, ...] = ()) -> Any:
    """Names and leaf of every leaf of nested dictionaries."""
    if not isinstance(node, dict):
        yield names, node
        return
    for key, value in node.items():
        yield from _leaves(value, (*names, key))


def _fit_leaf(leaf: Any, expected: Any, where: str, finite: bool) -> np.ndarray:
    array, shape = np.asarray(leaf), np.shape(expected)
    dtype = getattr(expected, "dtype", None) or np.asarray(expected).dtype
    if array.shape != shape:
        raise CheckpointError(f"{where} has shape {quoted(array.shape)}; wanted {shape}.")
    if array.dtype != dtype:
        are_floats = all(jax.numpy.issubdtype(one, jax.numpy.floating) for one in (array.dtype, dtype))
        advice = f" Convert it with .astype({str(dtype)!r}) before it is saved." if are_floats else ""
        raise CheckpointError(f"{where} has dtype {array.dtype}; wanted {dtype}.{advice}")
    if finite and not np.all(np.isfinite(array)):
        num_nonfinite = int(np.sum(~np.isfinite(array)))
        raise CheckpointError(f"{where} holds {num_nonfinite} entries that are not finite.")
    return array
