"""The muP of a network: what is known of each leaf, and the multipliers that follow."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mulo import _tree
from mulo._types import Params, PyTree
from mulo.errors import InputError
from mulo.mup.roles import Role
from mulo.mup.rules import RULES
from mulo.mup.summaries import summarize
from mulo.names import lookup

OPTIMIZERS = {"learned": "a learned optimizer", "adam": "Adam", "sgd": "SGD"}
FORMS = {"mup": "the model is written in muP", "standard": "the model is as it would be without muP"}


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
    fan_in: int  # 1 for vectors and scalars
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
        records = {leaf.path: leaf for leaf in self.leaves}
        params_leaves, structure = jax.tree.flatten(params)
        # By path, not by position: under optax.masked and optax.partition only some leaves are here.
        names = _tree.leaf_names(params)
        results = []
        for name, param in zip(names, params_leaves, strict=True):
            leaf = records.get(name)
            if leaf is None:
                raise InputError(_unknown(name, names, records))
            if leaf.shape != jnp.shape(param):
                raise InputError(
                    f"This muP was inferred for {leaf.path} of shape {leaf.shape}, but the parameter has "
                    f"shape {jnp.shape(param)}. Infer it at the width that is trained."
                )
            results.append(function(leaf, param))
        return structure.unflatten(results)

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


def _unknown(name: str, names: Sequence[str], records: Mapping[str, LeafRule]) -> str:
    """Why a leaf has no record: another nesting, or another model."""
    first, _, rest = name.partition("/")
    if all(other.startswith(f"{first}/") for other in names) and rest in records:
        return (
            f"This muP was inferred for the tree inside {first!r} of these parameters. Pass the tree inside, "
            f"or infer it from the tree with {first!r}."
        )
    outside = next(iter(records)).partition("/")[0]
    if f"{outside}/{name}" in records and all(path.startswith(f"{outside}/") for path in records):
        return (
            f"This muP was inferred for a tree that holds these parameters as {outside!r}. Pass that tree, "
            "or infer it from the tree that the optimizer gets."
        )
    return (
        f"This muP has no parameter {name}; it was inferred for another model. Infer it from the parameters "
        "that are trained."
    )


STANDARD = MuP(leaves=())
"""Standard parametrization, said explicitly: every multiplier is 1."""
