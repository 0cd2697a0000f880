"""What a leaf is for muP: its role, and its axes as fan-in, fan-out and stack."""

import dataclasses
import enum


class Role(enum.Enum):
    """What a leaf is: which of fan-in and fan-out grow with the width of the network."""

    INPUT = "input"  # fan-out grows; and a weight of which nothing grows, whose multipliers are the same
    HIDDEN = "hidden"  # both grow
    OUTPUT = "output"  # fan-in grows
    VECTOR = "vector"  # added or multiplied entry by entry: biases, norm gains
    SCALAR = "scalar"  # no dimension


@dataclasses.dataclass(frozen=True)
class Reading:
    """One way to read the axes of a leaf. Every axis is in exactly one of the three."""

    role: Role
    fan_in: tuple[int, ...]  # axes that are summed over
    fan_out: tuple[int, ...]  # axes of the result; for vectors, all of its own
    stacked: tuple[int, ...]  # axes that only line up leaves of the same kind: layers of a scan
    words: str  # for the error: what kind of leaf this would be

    def bias_axes(self) -> tuple[int, ...]:
        """The axes that the bias of such a layer has."""
        return tuple(sorted(self.stacked + self.fan_out))


def role_of(fan_in: tuple[int, ...], fan_out: tuple[int, ...], infinite: tuple[int, ...]) -> Role:
    """The role of a weight, from what grows.

    >>> role_of(fan_in=(0,), fan_out=(1,), infinite=(1,))
    <Role.INPUT: 'input'>
    """
    if not any(axis in infinite for axis in fan_in):
        return Role.INPUT
    return Role.HIDDEN if any(axis in infinite for axis in fan_out) else Role.OUTPUT


def make_reading(
    fan_in: tuple[int, ...],
    fan_out: tuple[int, ...],
    stacked: tuple[int, ...],
    infinite: tuple[int, ...],
    words: str = "",
) -> Reading:
    """A weight with these axes; a vector or a scalar where nothing is summed over."""
    no_weight = Role.VECTOR if fan_out else Role.SCALAR
    role = role_of(fan_in, fan_out, infinite) if fan_in else no_weight
    return Reading(role=role, fan_in=fan_in, fan_out=fan_out, stacked=stacked, words=words)
