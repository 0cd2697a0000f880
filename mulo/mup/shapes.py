"""Which dimensions of each parameter grow with width: shapes at two widths, compared."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mulo import _tree
from mulo._types import Params, PyTree
from mulo.errors import InputError
from mulo.mup.overrides import Leaf, Overrides, resolve_overrides
from mulo.mup.readings import Shapes, find_readings
from mulo.mup.roles import Reading, Role, make_reading
from mulo.mup.rules import RULES
from mulo.mup.summaries import summarize
from mulo.names import lookup

OPTIMIZERS = {"learned": "a learned optimizer", "adam": "Adam", "sgd": "SGD"}
FORMS = {"mup": "the model is written in muP", "standard": "the model is as it would be without muP"}
LAYOUTS = {"in_out": "outputs last: Flax, Haiku", "out_in": "outputs first: Equinox, PyTorch"}


@dataclasses.dataclass(frozen=True)
class LeafRule:
    """What muP knows of one leaf. The multipliers are those of a model written in muP.

    A learned optimizer goes by it: a leaf with fan-in axes is a matrix [fan_in, fan_out], any other a vector,
    and every position of the stacked axes is a tensor of its own. Hashable, and a leaf of a tree, not a node.
    """

    path: str
    shape: tuple[int, ...]  # in the network to be trained
    infinite: tuple[int, ...]  # axes that grow with width
    role: Role
    fan_in: int  # 1 for vectors, scalars, and what does not grow
    base_fan_in: int  # the same at base width
    fan_out: int = 1
    base_fan_out: int = 1
    fan_in_axes: tuple[int, ...] | None = ()  # that are summed over; `None`: the shape is all that is known
    stacked_axes: tuple[int, ...] = ()  # neither fan-in nor fan-out
    own_forward_multiplier: float | None = None  # given by the user, in place of the role's
    lr_multiplier: float = 1.0  # given by the user, on the whole step; in all of the next three

    @classmethod
    def by_axes(
        cls,
        shape: tuple[int, ...],
        fan_in: tuple[int, ...] | None,
        *,
        stacked: tuple[int, ...] = (),
        role: Role = Role.VECTOR,
        lr_multiplier: float = 1.0,
    ) -> "LeafRule":
        """A record of a leaf without a base width.

        Args:
          shape: of the leaf.
          fan_in: its fan-in axes; () for a vector, `None` to go by the shape.
          stacked: its stacked axes.
          role: what it is; the multiplier 1 of `Role.VECTOR` is that of weights that do not grow too.
          lr_multiplier: factor on its step, on top of the role's.

        >>> LeafRule.by_axes((8, 4), fan_in=(0,), role=Role.HIDDEN).update_multiplier
        0.125
        """
        size = math.prod(shape[axis] for axis in fan_in or ())
        return cls("", shape, (), role, size, size, fan_in_axes=fan_in, stacked_axes=stacked,
                   lr_multiplier=lr_multiplier)  # fmt: skip

    @property
    def update_multiplier(self) -> float:
        """Factor on a learned optimizer's step; on weight decay inside of it `lr_multiplier` alone is."""
        return RULES[self.role].update_multiplier(self.fan_in) * self.lr_multiplier

    @property
    def adam_lr_multiplier(self) -> float:
        """Factor on Adam's learning rate, relative to the base width."""
        return RULES[self.role].adam_lr_multiplier(self.fan_in, self.base_fan_in) * self.lr_multiplier

    @property
    def sgd_lr_multiplier(self) -> float:
        """Factor on SGD's learning rate, relative to the base width."""
        fans = self.fan_in, self.base_fan_in, self.fan_out, self.base_fan_out
        return RULES[self.role].sgd_lr_multiplier(*fans) * self.lr_multiplier

    @property
    def init_std(self) -> float:
        """Standard deviation of the initial values, for models written in muP."""
        return RULES[self.role].init_std(self.fan_in)

    @property
    def forward_multiplier(self) -> float:
        """Factor on what the leaf gives, for models written in muP; in standard form, on the leaf."""
        if self.own_forward_multiplier is not None:
            return self.own_forward_multiplier
        return RULES[self.role].forward_multiplier(self.fan_in)


_MULTIPLIERS: Mapping[str, Callable[[LeafRule], float]] = {
    "learned": lambda leaf: leaf.update_multiplier,
    "adam": lambda leaf: leaf.adam_lr_multiplier,
    "sgd": lambda leaf: leaf.sgd_lr_multiplier,
}


@dataclasses.dataclass(frozen=True)
class MuP:
    """The muP of a network: one record for each leaf. Hashable; holds no arrays. Prints as a table."""

    leaves: tuple[LeafRule, ...]
    form: str = "mup"  # or "standard": see `mulo.mup.infer`

    def summary(self) -> str:
        """A table of the leaves: path, shape, infinite dimensions, role, initial std, multipliers."""
        return summarize(self)

    __str__ = summary

    def multipliers(self, params: PyTree, optimizer: str) -> PyTree | None:
        """The factor on each leaf's step, shaped like `params`; `None` in SP.

        In standard form Adam's and SGD's take in what the form changes: a forward multiplier f becomes f
        for Adam, f**2 for SGD (the abc symmetries of Tensor Programs V, arXiv 2203.03466, appendix J). The
        run is that of the muP form to rounding for SGD with or without momentum, and for Adam where its
        epsilon is negligible beside the gradients; with weight decay, or for any other optimizer, use
        `mulo.mup.in_mup_form`.

        Args:
          params: the parameters, or a tree of their shapes, such as the updates. Leaves may be missing.
          optimizer: "learned", "adam" or "sgd"; optimizers whose steps do not depend on the size of the
            gradients go as Adam.

        Raises:
          InputError: `params` has a leaf that this muP does not know, or knows with another shape; no
            such optimizer; "learned" in standard form, where factors are not enough.
        """
        lookup(OPTIMIZERS, optimizer, "kind of optimizer for muP")
        if self.form == "mup":
            return self._map(params, _MULTIPLIERS[optimizer])
        if optimizer == "adam":
            return self._map(params, lambda leaf: leaf.adam_lr_multiplier * leaf.forward_multiplier)
        if optimizer == "sgd":
            return self._map(params, lambda leaf: leaf.sgd_lr_multiplier * leaf.forward_multiplier**2)
        raise _not_in_standard_form()

    def update_multipliers(self, params: Params) -> PyTree | None:
        """`multipliers(params, "learned")`: the factor on each leaf's step of a learned optimizer.

        Raises:
          InputError: see `multipliers`.
        """
        return self.multipliers(params, "learned")

    def rules(self, params: Params) -> PyTree | None:
        """The record of each leaf, shaped like `params`, for a learned optimizer; `None` in SP.

        Raises:
          InputError: `params` has a leaf that this muP does not know, or knows with another shape; or it is
            of the standard form, whose parameters an optimizer is not to see as they are.
        """
        if self.form == "standard" and self.leaves:
            raise _not_in_standard_form()
        return self.map_leaves(lambda leaf, _: leaf, params) if self.leaves else None

    def adam_lr_multipliers(self, params: Params) -> PyTree | None:
        """`multipliers(params, "adam")`: the factor on each leaf's Adam learning rate.

        Raises:
          InputError: see `multipliers`.
        """
        return self.multipliers(params, "adam")

    def forward_multipliers(self, params: Params) -> PyTree | None:
        """The factor on what each leaf gives in the muP form, shaped like `params`; `None` in SP.

        In standard form the leaf itself is that factor times the leaf of the muP form.

        Raises:
          InputError: `params` has a leaf that this muP does not know, or knows with another shape.
        """
        return self._map(params, lambda leaf: leaf.forward_multiplier)

    def map_leaves(self, function: Callable[..., Any], params: Params) -> PyTree:
        """`function(record, param)` for every leaf of `params`; there must be a record of each.

        Raises:
          InputError: `params` has a leaf that this muP does not know, or knows with another shape.
        """
        by_path = {leaf.path: leaf for leaf in self.leaves}

        def apply(path: tuple[Any, ...], param: Any) -> Any:
            # By path, not by position: under optax.masked and optax.partition only some leaves are here.
            leaf = by_path.get(_tree.path_name(path))
            if leaf is None:
                raise InputError(
                    f"This muP has no parameter {_tree.path_name(path)}; it was inferred for another model. "
                    "Infer it from the parameters that are trained."
                )
            if leaf.shape != jnp.shape(param):
                raise InputError(
                    f"This muP was inferred for {leaf.path} of shape {leaf.shape}, but the parameter has "
                    f"shape {jnp.shape(param)}. Infer it at the width that is trained."
                )
            return function(leaf, param)

        return jax.tree_util.tree_map_with_path(apply, params)

    def _map(self, params: Params, multiplier_fn: Callable[[LeafRule], float]) -> PyTree | None:
        if not self.leaves:
            return None
        return self.map_leaves(lambda leaf, _: multiplier_fn(leaf), params)


def _not_in_standard_form() -> InputError:
    return InputError(
        "A learned optimizer looks at the size of parameters and gradients, so in standard form factors "
        "on its steps are not enough. Use mulo.optimizer or mulo.init, which do the rest, "
        "mulo.mup.in_mup_form, or a model written in muP."
    )


STANDARD = MuP(leaves=())
"""Standard parametrization, said explicitly: every multiplier is 1."""


def infer(
    target: PyTree,
    base: PyTree,
    delta: PyTree | None = None,
    *,
    overrides: Overrides | None = None,
    other_depth: PyTree | None = None,
    layout: str = "in_out",
    form: str = "mup",
) -> MuP:
    """Finds the muP of a network from its parameters' shapes at two widths.

    A dimension that differs between the widths is infinite; the others are finite. Of a weight, the last
    axis is the fan-out and what is before it the fan-in; of attention kernels (features, heads, head_dim),
    the first is the fan-in. Where that leaves more than one multiplier for a leaf, this is an error, which
    says what the leaf may be; `mulo.mup.readings` says what is taken for granted. No name is looked at.
    No memory is needed: pass what `jax.eval_shape` returns. Print the result to see what was found.

    Shapes do not say what the forward pass does, so two things are the user's to check:

    - A leaf of role OUTPUT is one to whose result the model applies `mulo.mup.output_multiplier`. A narrow
      layer inside has the same shapes: where it has no such multiplier, give it `Role.HIDDEN`. The first
      of a low-rank pair is asked for where the two are in one layer of a larger network.
    - A tied embedding is an INPUT, and the model multiplies the logits; it has no standard form.

    Args:
      target: parameters (arrays or `jax.ShapeDtypeStruct`) of the network to be trained.
      base: the same network at another width; multipliers of Adam and SGD are relative to this one.
      delta: the same network at a third width; needed only where `target` has the base width itself.
      overrides: by path, or pattern of paths as "*/out/kernel", a `mulo.mup.Role`, or a `mulo.mup.Leaf`
        where there is more to say; what it does not say is still inferred.
      other_depth: `base` with another number of layers in its stacks (`nn.scan`, vmapped layers). Axes
        that differ are stacks, neither fan-in nor fan-out, and no other axis is one.
      layout: "in_out" as above; "out_in" where all weights are stored (out, in, ...), as in Equinox.
      form: "mup" for a model written in muP, with its multipliers in the forward pass. "standard" for one
        whose forward pass has none: `mulo.optimizer` and `mulo.init` (others: `mulo.mup.in_mup_form`) then
        train it as if it had them; start it from `mulo.mup.rescale_init`. The factor of an output weight
        is 1/fan-in in both forms. For one that is 1 at base width, so that the base network trains
        as it would without muP, give it `Leaf(forward_multiplier=base_fan_in / fan_in)`.

    Returns:
      MuP, with one record for each leaf of `target`.

    Raises:
      InputError: the trees differ in structure or rank, nothing differs in shape, or a leaf is ambiguous.

    >>> shape = lambda width: {"w": jnp.zeros((3, width)), "v": jnp.zeros((width, width))}
    >>> [(leaf.path, leaf.role.value, leaf.update_multiplier) for leaf in infer(shape(8), shape(4)).leaves]
    [('v', 'hidden', 0.125), ('w', 'input', 1.0)]
    """
    lookup(LAYOUTS, layout, "layout of weights")
    lookup(FORMS, form, "form of muP")
    widths = [_shapes(tree) for tree in (target, base, *([] if delta is None else [delta]))]
    depth = None if other_depth is None else _shapes(other_depth)
    for other in [*widths[1:], *([] if depth is None else [depth])]:
        _check_alike(widths[0], other)
    said = resolve_overrides(overrides, widths[0])
    parents = _parents(target)
    leaves = {
        path: _compare(path, parents[path], widths, depth, said.get(path, Leaf())) for path in widths[0]
    }
    if not any(leaf.infinite for leaf in leaves.values()):
        raise InputError(
            "No parameter differs in shape between the widths, so nothing is known to grow with width. Pass "
            "as `base` (or, to train at base width, as `delta`) the same network at another width."
        )
    return MuP(
        leaves=tuple(
            _choose(leaf, leaves, said.get(path, Leaf()), layout, form, depth is not None)
            for path, leaf in leaves.items()
        ),
        form=form,
    )


def _compare(
    path: str,
    parent: str,
    widths: list[dict[str, tuple[int, ...]]],
    depth: dict[str, tuple[int, ...]] | None,
    said: Leaf,
) -> Shapes:
    """What differs in one leaf. `widths`: the trees whose widths differ, target and base first."""
    shapes = tuple(tree[path] for tree in widths)
    axes = range(len(shapes[0]))
    stacked = said.stacked_axes or ()
    if depth is not None and said.stacked_axes is None:
        stacked = tuple(axis for axis in axes if depth[path][axis] != shapes[1][axis])
        if len(stacked) > 1:
            raise InputError(
                f"Parameter {path} has shape {shapes[1]} in `base` and {depth[path]} in `other_depth`; "
                "wanted one axis at most that differs. Pass `base` with another number of layers, at its "
                "width."
            )
    infinite = tuple(
        axis for axis in axes if axis not in stacked and len({shape[axis] for shape in shapes}) > 1
    )
    return Shapes(path=path, parent=parent, shapes=shapes, infinite=infinite, stacked=stacked)


def _choose(
    leaf: Shapes, leaves: Mapping[str, Shapes], said: Leaf, layout: str, form: str, stacks_known: bool
) -> LeafRule:
    """The record of one leaf; an error where the possible readings differ in what follows from them."""
    if said.fan_in_axes is not None:
        fan_out = tuple(axis for axis in leaf.own_axes if axis not in said.fan_in_axes)
        readings = [make_reading(said.fan_in_axes, fan_out, leaf.stacked, leaf.infinite)]
    else:
        readings = find_readings(leaf, leaves, layout, stacks_known or said.stacked_axes is not None)
        if said.role is not None:
            readings = [reading for reading in readings if reading.role is said.role] or readings
        elif not leaf.infinite:
            readings = readings[:1]
    records = [_record(leaf, reading, said) for reading in readings]
    effects = {
        (
            record.update_multiplier,
            record.adam_lr_multiplier,
            record.sgd_lr_multiplier,
            record.forward_multiplier if form == "standard" else None,
        )
        for record in records
    }
    if len(effects) != 1:
        raise InputError(_ambiguous(leaf, readings))
    return records[0]


def _record(leaf: Shapes, reading: Reading, said: Leaf) -> LeafRule:
    role = said.role or (reading.role if leaf.infinite else _finite_role(leaf))
    target, base = leaf.shapes[:2]
    weight = role not in (Role.VECTOR, Role.SCALAR)
    own_axes = tuple(axis for axis in range(len(target)) if axis not in reading.stacked)
    fan_out = reading.fan_out if weight else own_axes
    fan_in = reading.fan_in if weight else ()
    return LeafRule(
        path=leaf.path,
        shape=target,
        infinite=leaf.infinite,
        role=role,
        fan_in=math.prod(target[axis] for axis in fan_in),
        base_fan_in=math.prod(base[axis] for axis in fan_in),
        fan_out=math.prod(target[axis] for axis in fan_out),
        base_fan_out=math.prod(base[axis] for axis in fan_out),
        # What does not grow has the role of a vector; a matrix it is nevertheless, unless the user says not.
        fan_in_axes=reading.fan_in if said.role is None else fan_in,
        stacked_axes=reading.stacked,
        own_forward_multiplier=said.forward_multiplier,
        lr_multiplier=1.0 if said.lr_multiplier is None else said.lr_multiplier,
    )


def _finite_role(leaf: Shapes) -> Role:
    return Role.VECTOR if leaf.own_axes else Role.SCALAR


def _ambiguous(leaf: Shapes, readings: list[Reading]) -> str:
    may_be = " or ".join(f"{_as_leaf_text(reading)}, {reading.words}" for reading in readings)
    return (
        f"The role of {leaf.path}, shape {leaf.shapes[0]}, cannot be told: its axes {leaf.infinite} grow "
        f"with width ({leaf.shapes[1]} at base width), and it may be {may_be or 'nothing that is known'}. "
        f"Say which with overrides={{{leaf.path!r}: mulo.mup.Leaf(...)}}; or, where it may be stacked "
        "layers, pass as `other_depth` the shapes of `base` with another number of layers."
    )


def _as_leaf_text(reading: Reading) -> str:
    stacked = f", stacked_axes={reading.stacked}" if reading.stacked else ""
    return f"Leaf(role=Role.{reading.role.name}, fan_in_axes={reading.fan_in}{stacked})"


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_tree.path_name(path): tuple(jnp.shape(leaf)) for path, leaf in leaves}


def _parents(tree: PyTree) -> dict[str, str]:
    """The layer that holds each leaf: its path without the last step."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    value = jax.tree_util.GetAttrKey("value")  # of a Flax NNX variable, no step of its own
    return {
        _tree.path_name(path): jax.tree_util.keystr((path[:-1] if path[-1:] == (value,) else path)[:-1])
        for path in paths
    }


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
