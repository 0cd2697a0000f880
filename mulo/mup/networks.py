"""A network as `mulo.mup.infer` sees it: the shapes of its leaves at two widths, and where they stand."""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mulo import _tree
from mulo._libraries import is_embedding, stores_outputs_first
from mulo._types import PyTree
from mulo.errors import InputError
from mulo.mup.overrides import Leaf, Overrides, resolve_overrides

LAYOUTS = {"in_out": "outputs last: Flax, Haiku", "out_in": "outputs first: Equinox, PyTorch"}


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The shapes of one leaf in all networks that are compared, what differs, and what is said of it."""

    path: str
    place: tuple[str, ...]  # the path's steps
    shapes: tuple[tuple[int, ...], ...]  # [network][axis]; the first is the network to be trained
    infinite: tuple[int, ...]  # axes that grow with width
    stacked: tuple[int, ...]  # axes known to be stacks
    stacks_known: bool  # whether no other axis is one
    said: Leaf
    kind: str | None = None  # "outputs first" or "embedding", where the tree says it

    @property
    def layer(self) -> tuple[str, ...]:
        """Where the leaf's layer stands."""
        return self.place[:-1]

    @property
    def own_axes(self) -> tuple[int, ...]:
        """The axes that are not known to be stacks."""
        return tuple(axis for axis in range(len(self.shapes[0])) if axis not in self.stacked)

    @property
    def long_axes(self) -> tuple[int, ...]:
        """Those of them that are longer than 1 in some network."""
        return tuple(axis for axis in self.own_axes if any(shape[axis] != 1 for shape in self.shapes))

    def lengths(self, axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The lengths of these axes in every network: [axis][network]."""
        return tuple(tuple(shape[axis] for shape in self.shapes) for axis in axes)

    def size(self, axes: Sequence[int]) -> int:
        """How many entries these axes have together, in the network to be trained."""
        return math.prod(self.shapes[0][axis] for axis in axes)


@dataclasses.dataclass(frozen=True)
class Network:
    """All leaves, by path, and how their weights are stored."""

    leaves: Mapping[str, Shapes]
    layout: str

    @functools.cached_property
    def layers(self) -> Mapping[tuple[str, ...], list[Shapes]]:
        """The leaves of each layer."""
        layers = collections.defaultdict(list)
        for leaf in self.leaves.values():
            layers[leaf.layer].append(leaf)
        return layers

    @functools.cached_property
    def three_axes(self) -> Mapping[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """The lengths of each leaf of three axes -> those of its last two."""
        kernels = (leaf.lengths(leaf.own_axes) for leaf in self.leaves.values() if len(leaf.own_axes) == 3)
        return {kernel: kernel[1:] for kernel in kernels}

    def layer_of(self, leaf: Shapes) -> list[Shapes]:
        """The leaves of its layer, itself too."""
        return self.layers[leaf.layer]

    def inside(self, place: tuple[str, ...]) -> list[Shapes]:
        """All leaves below a place of the tree."""
        return [leaf for leaf in self.leaves.values() if leaf.place[: len(place)] == place]


def read_network(
    widths: Mapping[str, PyTree], depth: PyTree | None, overrides: Overrides | None, layout: str
) -> Network:
    """What differs between networks.

    Args:
      widths: name of the argument -> tree, target and base first.
      depth: base with another number of layers in its stacks, or `None`.
      overrides: what the user says, by path or pattern.
      layout: how weights are stored.

    Raises:
      InputError: what was given are no parameters, or not those of one network.
    """
    shapes = [_shapes(tree, name) for name, tree in widths.items()]
    depths = None if depth is None else _shapes(depth, "other_depth")
    for other in [*shapes[1:], *([] if depths is None else [depths])]:
        _check_alike(shapes[0], other)
    said = resolve_overrides(overrides, shapes[0])
    kinds = _kinds(widths["target"])
    leaves = {}
    for path in shapes[0]:
        theirs = tuple(tree[path] for tree in shapes)
        leaf = _compare(path, theirs, None if depths is None else depths[path], said.get(path, Leaf()))
        leaves[path] = dataclasses.replace(leaf, kind=kinds.get(path))
    return Network(leaves=leaves, layout=layout)


def _compare(
    path: str, shapes: tuple[tuple[int, ...], ...], depth: tuple[int, ...] | None, said: Leaf
) -> Shapes:
    """What differs in one leaf."""
    axes = range(len(shapes[0]))
    stacked = said.stacked_axes or ()
    if depth is not None and said.stacked_axes is None:
        stacked = tuple(axis for axis in axes if depth[axis] != shapes[1][axis])
        if len(stacked) > 1:
            raise InputError(
                f"Parameter {path} has shape {shapes[1]} in `base` and {depth} in `other_depth`; "
                "wanted one axis at most that differs. Pass `base` with another number of layers, at its "
                "width."
            )
    return Shapes(
        path=path,
        place=tuple(re.split(r"[/.]", path)),  # flat dictionaries too: "layers.0.weight"
        shapes=shapes,
        infinite=tuple(
            axis for axis in axes if axis not in stacked and len({shape[axis] for shape in shapes}) > 1
        ),
        stacked=stacked,
        stacks_known=depth is not None or said.stacked_axes is not None,
        said=said,
    )


def _shapes(tree: PyTree, argument: str) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf, by path."""
    is_one_leaf = jax.tree.structure(tree) == jax.tree.structure(0)
    if tree is None or (is_one_leaf and not (hasattr(tree, "shape") and hasattr(tree, "dtype"))):
        raise InputError(
            f"`{argument}` is {_in_words(tree)}; wanted the network's parameters: a tree of arrays, or of "
            "shapes as jax.eval_shape(init, key) gives them. mulo.mup.infer takes such a tree for each width."
        )
    _tree.check_parameters(tree)
    names = _tree.leaf_names(tree)
    return {name: tuple(jnp.shape(leaf)) for name, leaf in zip(names, jax.tree.leaves(tree), strict=True)}


def _in_words(tree: Any) -> str:
    if tree is None or isinstance(tree, bool | int | float | complex | str):
        return repr(tree)
    return f"a {type(tree).__name__}"


def _kinds(tree: PyTree) -> dict[str, str]:
    """What the tree itself says of its weights: the layers of Equinox."""
    kinds = {}
    for place, node in jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda node: stores_outputs_first(node) or is_embedding(node)
    ):
        kind = "outputs first" if stores_outputs_first(node) else "embedding" if is_embedding(node) else None
        if kind is not None:
            inner = jax.tree_util.tree_leaves_with_path(node)
            kinds |= {_tree.path_name((*place, *path)): kind for path, _ in inner}
    return kinds


def _check_alike(target: dict[str, tuple[int, ...]], other: dict[str, tuple[int, ...]]) -> None:
    for path in [*target, *other]:
        if path not in target or path not in other:
            raise InputError(
                f"Parameter {path} is there at one width only. Pass the same network, with the same depth, "
                "at two widths."
            )
        if len(target[path]) != len(other[path]):
            raise InputError(
                f"Parameter {path} has shape {target[path]} at one width and {other[path]} at the other; "
                "wanted the same number of dimensions."
            )
