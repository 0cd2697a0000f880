"""Trees of leaves: checks that name the leaf's path in the error, and taking trees apart leaf by leaf."""

from typing import Any

import jax
import jax.numpy as jnp

from mulo._types import Params, PyTree
from mulo.errors import InputError


def path_name(path: tuple[Any, ...]) -> str:
    """A readable name of a leaf's place in its tree: `linear/w`."""
    # A Flax NNX variable is a node with the one child `.value`; NNX unwraps it before it calls optax.
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/") or "the only leaf"


def check_float_leaves(params: Params) -> None:
    """Refuses leaves that a learned optimizer cannot train.

    Raises:
      InputError: a leaf is not of a real floating-point dtype.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(
                f"Parameter {path_name(path)} has dtype {dtype}; learned optimizers train floating-point "
                "leaves only. Leave it out with optax.masked or optax.partition (complex leaves: "
                "optax.contrib.split_real_and_imaginary)."
            )


def check_same_shapes(grads: PyTree, params: Params) -> None:
    """Refuses gradients that do not have the structure and the shapes of the parameters.

    Raises:
      InputError: the first leaf that differs, by path.
    """
    grad_shapes = {path: jnp.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(grads)}
    param_shapes = {path: jnp.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}
    for path, shape in param_shapes.items():
        if path not in grad_shapes:
            raise InputError(
                f"The gradients have no leaf {path_name(path)}, but the parameters do. Pass the gradients of "
                "all parameters that the optimizer was initialised with."
            )
        if grad_shapes[path] != shape:
            raise InputError(
                f"The gradient of {path_name(path)} has shape {grad_shapes[path]}, its parameter {shape}. "
                "Pass the gradients of the parameters that the optimizer was initialised with."
            )
    for path in grad_shapes:
        if path not in param_shapes:
            raise InputError(
                f"The gradients have a leaf {path_name(path)} that the parameters do not have. Pass the "
                "gradients of the parameters that the optimizer was initialised with."
            )
    if jax.tree.structure(grads) != jax.tree.structure(params):
        raise InputError(
            f"The gradients have the leaves of the parameters in another structure: "
            f"{jax.tree.structure(grads)}; the parameters have {jax.tree.structure(params)}. Use the "
            "same containers for both."
        )


def check_statistics(statistics: PyTree, params: Params) -> None:
    """Refuses a state of other parameters.

    Args:
      statistics: from the state, one array for each parameter, of its shape.
      params: that are to be updated.

    Raises:
      InputError: the first leaf that differs, by path.
    """
    ours = {path_name(path): jnp.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(statistics)}
    theirs = {path_name(path): jnp.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}
    for name in [*theirs, *ours]:
        if ours.get(name) != theirs.get(name):
            raise InputError(
                f"The optimizer state was initialised for other parameters: for {name} it has "
                f"{_shape_words(ours.get(name))}, the parameters have {_shape_words(theirs.get(name))}. "
                "Initialise it with the parameters that are updated."
            )
    if jax.tree.structure(statistics) != jax.tree.structure(params):
        raise InputError(
            f"The optimizer state was initialised for parameters in the structure "
            f"{jax.tree.structure(statistics)}; these are in {jax.tree.structure(params)}. Use the same "
            "containers."
        )


def _shape_words(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"shape {shape}"


def split_leaves(trees: PyTree, outer: jax.tree_util.PyTreeDef, inner: jax.tree_util.PyTreeDef) -> list[Any]:
    """Takes a structure of trees apart into one structure for each leaf of those trees.

    Args:
      trees: of structure `outer`, every leaf of which is a tree with the leaves of `inner`.
      outer: structure of what each leaf keeps.
      inner: structure of the parameters.

    Returns:
      One structure `outer` of arrays for every leaf of `inner`, in its order.

    Raises:
      InputError: one of the trees has more leaves, or fewer.
    """
    # By place: boxes around a leaf, such as those of Flax, may say another sharding for each statistic.
    columns = [jax.tree.leaves(tree) for tree in outer.flatten_up_to(trees)]
    if any(len(column) != inner.num_leaves for column in columns):
        raise InputError(
            f"The optimizer state has {[len(column) for column in columns]} arrays in its statistics; wanted "
            f"{inner.num_leaves} in each. Initialise it with the parameters that are updated."
        )
    return [outer.unflatten(row) for row in zip(*columns, strict=True)]


def join_leaves(rows: list[Any], outer: jax.tree_util.PyTreeDef, before: PyTree) -> PyTree:
    """Puts together what `split_leaves` took apart, in the structure of `before`."""
    columns = zip(*(outer.flatten_up_to(row) for row in rows), strict=True)
    return jax.tree.structure(before).unflatten([leaf for column in columns for leaf in column])
