"""What the user says of a leaf, by path or by a pattern of paths."""

import dataclasses
import fnmatch
import math
import numbers
from collections.abc import Mapping
from typing import Any

from mulo.errors import InputError
from mulo.mup.roles import Role

Overrides = Mapping[str, "Role | Leaf"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
    """What is known of a leaf; `None` leaves it to `mulo.mup.infer`.

    >>> qkv = Leaf(fan_in_axes=(0,))  # of shape (features, 3, heads, head_dim)
    """

    role: Role | None = None
    fan_in_axes: tuple[int, ...] | None = None  # axes that are summed over; () for a bias or a gain
    stacked_axes: tuple[int, ...] | None = None  # neither fan-in nor fan-out: layers, experts
    forward_multiplier: float | None = None  # in place of the role's; in standard form, what is moved
    lr_multiplier: float | None = None  # on top of the role's, for every optimizer; weight decay is in it

    def __post_init__(self):
        """Refuses what is no role, no axes or no factor."""
        if self.role is not None and not isinstance(self.role, Role):
            raise InputError(f"The role of a Leaf is {self.role!r}; wanted a mulo.mup.Role, as Role.HIDDEN.")
        for field in ("fan_in_axes", "stacked_axes"):
            axes = getattr(self, field)
            if axes is not None and not (isinstance(axes, tuple) and all(type(axis) is int for axis in axes)):
                raise InputError(f"{field} of a Leaf is {axes!r}; wanted a tuple of axes, as (0, 1).")
        for field in ("forward_multiplier", "lr_multiplier"):
            factor = getattr(self, field)
            if factor is not None and not _is_factor(factor):
                raise InputError(f"{field} of a Leaf is {factor!r}; wanted a number above 0.")


def _is_factor(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0


def resolve_overrides(overrides: Overrides | None, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Leaf]:
    """What is said of each leaf, the axes counted from 0.

    A path says more than a pattern (`*` stands for any characters, `/` too). Patterns that match the
    same leaf may say different things of it, but not the same thing differently.

    Args:
      overrides: by path or pattern.
      shapes: of all leaves, by path.

    Raises:
      InputError: nothing matches, two patterns contradict each other, or axes are not the leaf's.
    """
    if overrides is not None and not isinstance(overrides, Mapping):
        raise InputError(
            f"overrides is a {type(overrides).__name__}; wanted a dictionary of path or pattern -> "
            "mulo.mup.Role or mulo.mup.Leaf."
        )
    said: dict[str, Leaf] = {}
    exact = {}
    for pattern, value in (overrides or {}).items():
        leaf = _as_leaf(pattern, value)
        if pattern in shapes:
            exact[pattern] = leaf
            continue
        paths = [path for path in shapes if fnmatch.fnmatchcase(path, pattern)]
        if not paths:
            raise InputError(
                f"overrides names {pattern!r}, which is no parameter. There are: {', '.join(shapes)}."
            )
        for path in paths:
            said[path] = _merge(path, said.get(path, Leaf()), leaf)
    for path, leaf in exact.items():
        given = {field: value for field, value in _fields(leaf).items() if value is not None}
        said[path] = dataclasses.replace(said.get(path, Leaf()), **given)
    return {path: _with_counted_axes(path, leaf, len(shapes[path])) for path, leaf in said.items()}


def _as_leaf(path: str, value: Any) -> Leaf:
    if not isinstance(path, str):
        raise InputError(f"overrides names {path!r}; wanted a path or a pattern of paths, as '*/kernel'.")
    if isinstance(value, Leaf):
        return value
    if isinstance(value, Role):
        return Leaf(role=value)
    raise InputError(
        f"overrides gives {value!r} for {path}; wanted a mulo.mup.Role, as Role.HIDDEN, or a mulo.mup.Leaf."
    )


def _fields(leaf: Leaf) -> dict[str, Any]:
    return {field.name: getattr(leaf, field.name) for field in dataclasses.fields(leaf)}


def _merge(path: str, one: Leaf, other: Leaf) -> Leaf:
    for field, value in _fields(one).items():
        theirs = _fields(other)[field]
        if value is not None and theirs is not None and value != theirs:
            raise InputError(
                f"Two patterns of overrides match {path} and say different things: {field} {value!r} and "
                f"{theirs!r}. Name the path itself."
            )
    return dataclasses.replace(
        one, **{field: value for field, value in _fields(other).items() if value is not None}
    )


def _with_counted_axes(path: str, leaf: Leaf, rank: int) -> Leaf:
    counted: dict[str, tuple[int, ...] | None] = {}
    for field in ("fan_in_axes", "stacked_axes"):
        axes = getattr(leaf, field)
        if axes is None:
            continue
        if not all(-rank <= axis < rank for axis in axes):
            raise InputError(f"overrides gives {field} {axes} for {path}, which has {rank} axes.")
        counted[field] = tuple(sorted(axis % rank for axis in axes))
    both = [axis for axes in counted.values() for axis in axes or ()]
    if len(set(both)) < len(both):
        raise InputError(f"overrides gives an axis of {path} twice: {both}; wanted each axis at most once.")
    return dataclasses.replace(leaf, **counted)
