"""Which dimensions of each parameter grow with width: shapes at two widths, compared."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from mulo import _tree
from mulo._types import Params, PyTree
from mulo.errors import InputError
from mulo.mup.roles import Role, fan_in, find_role
from mulo.mup.rules import RULES


@dataclasses.dataclass(frozen=True)
class LeafMuP:
    """What muP knows of one leaf."""

    path: str
    shape: tuple[int, ...]  # in the network to be trained
    infinite: tuple[int, ...]  # axes that grow with width
    role: Role
    fan_in: int
    base_fan_in: int  # the same at base width

    @property
    def update_multiplier(self) -> float:
        """Factor on a learned optimizer's step."""
        return RULES[self.role].update_multiplier(self.fan_in)

    @property
    def adam_lr_multiplier(self) -> float:
        """Factor on Adam's learning rate, relative to the base width."""
        return RULES[self.role].adam_lr_multiplier(self.fan_in, self.base_fan_in)


@dataclasses.dataclass(frozen=True)
class MuP:
    """The muP of a network: one record for each leaf. Hashable; holds no arrays."""

    leaves: tuple[LeafMuP, ...]

    def update_multipliers(self, params: Params) -> PyTree | None:
        """The factor on each leaf's step of a learned optimizer, shaped like `params`; `None` in SP.

        Raises:
          InputError: `params` has a leaf that this muP does not know, or knows with another shape.
        """
        return self._multipliers(params, lambda leaf: leaf.update_multiplier)

    def adam_lr_multipliers(self, params: Params) -> PyTree | None:
        """The factor on each leaf's Adam learning rate, shaped like `params`; `None` in SP.

        Raises:
          InputError: `params` has a leaf that this muP does not know, or knows with another shape.
        """
        return self._multipliers(params, lambda leaf: leaf.adam_lr_multiplier)

    def _multipliers(self, params: Params, multiplier_fn: Callable[[LeafMuP], float]) -> PyTree | None:
        if not self.leaves:
            return None
        by_path = {leaf.path: leaf for leaf in self.leaves}

        def multiplier(path, param):
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
            return multiplier_fn(leaf)

        return jax.tree_util.tree_map_with_path(multiplier, params)


STANDARD = MuP(leaves=())
"""Standard parametrization, said explicitly: every multiplier is 1."""


def infer(
    target: PyTree,
    base: PyTree,
    delta: PyTree | None = None,
    *,
    overrides: Mapping[str, Role] | None = None,
) -> MuP:
    """Finds the muP of a network from its parameters' shapes at two widths.

    A dimension that differs between the widths is infinite; the others are finite. The last axis of
    a weight is its fan-out. No memory is needed: pass what `jax.eval_shape` returns.

    Args:
      target: parameters (arrays or `jax.ShapeDtypeStruct`) of the network to be trained.
      base: the same network at another width; Adam's multipliers are relative to this one.
      delta: the same network at a third width; needed only where `target` has the base width itself.
      overrides: role by path, where shapes cannot tell it.

    Returns:
      MuP, with one record for each leaf of `target`.

    Raises:
      InputError: the trees differ in structure or rank, nothing differs in shape, or a role is ambiguous.

    >>> shape = lambda width: {"w": jnp.zeros((3, width)), "v": jnp.zeros((width, width))}
    >>> [(leaf.path, leaf.role.value, leaf.update_multiplier) for leaf in infer(shape(8), shape(4)).leaves]
    [('v', 'hidden', 0.125), ('w', 'input', 1.0)]
    """
    trees = [_shapes(tree) for tree in (target, base, *([] if delta is None else [delta]))]
    target_shapes, base_shapes = trees[:2]
    for other in trees[1:]:
        _check_alike(target_shapes, other)
    overrides = dict(overrides or {})
    _check_overrides(overrides, target_shapes)
    leaves = []
    for path, shape in target_shapes.items():
        infinite = tuple(axis for axis in range(len(shape)) if len({tree[path][axis] for tree in trees}) > 1)
        role = overrides.get(path) or find_role(path, shape, infinite)
        leaves.append(
            LeafMuP(
                path=path,
                shape=shape,
                infinite=infinite,
                role=role,
                fan_in=fan_in(role, shape),
                base_fan_in=fan_in(role, base_shapes[path]),
            )
        )
    if not any(leaf.infinite for leaf in leaves):
        raise InputError(
            "No parameter differs in shape between the widths, so nothing is known to grow with width. Pass "
            "as `base` (or, to train at base width, as `delta`) the same network at another width."
        )
    return MuP(leaves=tuple(leaves))


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_tree.path_name(path): tuple(jnp.shape(leaf)) for path, leaf in leaves}


def _check_overrides(overrides: Mapping[str, Role], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for path, role in overrides.items():
        if path not in shapes:
            raise InputError(
                f"overrides names {path!r}, which is no parameter. There are: {', '.join(shapes)}."
            )
        if not isinstance(role, Role):
            raise InputError(f"overrides gives {role!r} for {path}; wanted a mulo.mup.Role, as Role.HIDDEN.")


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
