"""Trees of leaves: checks that name the leaf's path in the error, and taking trees apart leaf by leaf."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mulo._libraries import how_to_pass, is_around_array, is_complex_pair, is_untrained_variable
from mulo._types import Params, PyTree
from mulo.errors import InputError


def path_name(path: tuple[Any, ...]) -> str:
    """A readable name of a place in a tree: `linear/w`. Of leaves, `leaf_names` knows more."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "the only leaf"


def leaf_names(tree: PyTree) -> list[str]:
    """The name of every leaf, in their order: `linear/w`, whatever library holds the array there.

    What stands around an array has no name of its own: NNX variables, and Linen's sharding metadata, are
    unwrapped before optax is called. The two halves of a complex parameter, as
    `optax.contrib.split_real_and_imaginary` makes them, share its name.

    Raises:
      InputError: two leaves have one name, as in `{"a/b": x, "a": {"b": y}}`.

    >>> leaf_names({"linear": {"w": 1.0, "b": 2.0}})
    ['linear/b', 'linear/w']
    """
    names: list[str] = []
    seen: set[str] = set()
    for place, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_has_one_name):
        inner = jax.tree_util.tree_leaves_with_path(node)
        own = [path_name((*place, *path[1:])) for path, _ in inner]
        if is_complex_pair(node):
            own = [path_name(place)] * len(inner)
        for name in own if not is_complex_pair(node) else own[:1]:
            if name in seen:
                raise InputError(
                    f"Two leaves of the tree have the path {name}, as in {{'a/b': x, 'a': {{'b': y}}}}. "
                    "Rename one of them, so that each can be told by its path."
                )
            seen.add(name)
        names.extend(own)
    return names


def _has_one_name(node: Any) -> bool:
    return is_around_array(node) or is_complex_pair(node)


def check_float_leaves(params: Params) -> None:
    """Refuses leaves that a learned optimizer cannot train.

    Raises:
      InputError: a leaf is no array of a real floating-point dtype, or belongs to no parameter.
    """
    check_parameters(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(
                f"Parameter {path_name(path)} has dtype {dtype}; learned optimizers train real numbers. "
                "Put optax.contrib.split_real_and_imaginary around the optimizer (muP stays as it is), or "
                "leave it out with optax.masked."
            )


def check_parameters(tree: PyTree) -> None:
    """Refuses trees with leaves that are not trained: functions, integers, statistics, random keys.

    Raises:
      InputError: the first such leaf, by path, with what to pass in its place.
    """
    for place, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_noteworthy):
        if isinstance(node, Mapping):
            raise InputError(
                f"{_in_words(place)} holds the parameters and, beside them, {_untrained_collection(node)!r}, "
                "which is not trained. Pass variables['params']."
            )
        found = _untrained_words(node)
        if found:
            raise InputError(
                f"{_in_words(place)} {found}; wanted arrays that are trained. {how_to_pass(tree)}"
            )


def _is_noteworthy(node: Any) -> bool:
    return is_untrained_variable(node) or _untrained_collection(node) is not None


def _untrained_collection(node: Any) -> str | None:
    """The name of a collection that stands beside "params" in Flax's variables, and has the same layers."""
    params = node.get("params") if isinstance(node, Mapping) else None
    for name, collection in node.items() if isinstance(params, Mapping) else ():
        if (
            name != "params"
            and isinstance(collection, Mapping)
            and (name in _COLLECTIONS or collection.keys() & params.keys())
        ):
            return name
    return None


_COLLECTIONS = ("batch_stats", "cache", "intermediates", "perturbations", "spectral_norm")


def _untrained_words(leaf: Any) -> str | None:
    """What a leaf is, if it is not trained."""
    if is_untrained_variable(leaf):
        return f"is an nnx.{type(leaf).__name__}"
    if isinstance(leaf, bool | int | str):
        return f"is {leaf!r}"
    if not isinstance(leaf, float | complex) and not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        kind = "a function" if callable(leaf) and hasattr(leaf, "__name__") else "an object"
        return f"is {kind} of type {type(leaf).__name__}"
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return None if jnp.issubdtype(dtype, jnp.inexact) else f"has dtype {dtype}"


def _in_words(place: tuple[Any, ...]) -> str:
    return f"Leaf {path_name(place)}" if place else "The tree"


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
    ours, theirs = (
        {_spelt(path): jnp.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (statistics, params)
    )
    for keys in [*theirs, *ours]:
        if ours.get(keys) != theirs.get(keys):
            raise InputError(
                f"The optimizer state was initialised for other parameters: for {'/'.join(keys)} it has "
                f"{_shape_words(ours.get(keys))}, the parameters have {_shape_words(theirs.get(keys))}. "
                "Initialise it with the parameters that are updated."
            )
    if jax.tree.structure(statistics) != jax.tree.structure(params):
        raise InputError(
            f"The optimizer state was initialised for parameters in the structure "
            f"{jax.tree.structure(statistics)}; these are in {jax.tree.structure(params)}. Use the same "
            "containers."
        )


def _spelt(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The keys of a path as they are written, whatever container holds them."""
    return tuple(path_name((key,)) for key in path) or (path_name(path),)


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
