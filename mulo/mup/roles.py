"""From infinite dimensions to a role: what a leaf is for muP."""

import enum

from mulo.errors import InputError


class Role(enum.Enum):
    """What a leaf is: which of fan-in and fan-out grow with the width of the network."""

    INPUT = "input"  # fan-out grows
    HIDDEN = "hidden"  # both grow
    OUTPUT = "output"  # fan-in grows
    VECTOR = "vector"  # one dimension: biases and norm gains, and leaves in which nothing grows
    SCALAR = "scalar"  # no dimension


def find_role(path: str, shape: tuple[int, ...], infinite: tuple[int, ...]) -> Role:
    """The role of a weight whose last axis is its output, as JAX libraries store it.

    Args:
      path: where the leaf is, for the error.
      shape: of the leaf; a convolution is (..., channels in, channels out).
      infinite: the axes that grow with width.

    Raises:
      InputError: other axes than the last two grow, so that fan-in cannot be told from the shape.

    >>> find_role("linear/w", (64, 128), (1,))
    <Role.INPUT: 'input'>
    """
    if not shape:
        return Role.SCALAR
    if len(shape) == 1 or not infinite:
        return Role.VECTOR
    last = len(shape) - 1
    if not set(infinite) <= {last - 1, last}:
        raise InputError(
            f"The role of {path}, shape {shape}, cannot be told: its axes {infinite} grow with width, and "
            f"only a growing fan-in (axis {last - 1}) and fan-out (axis {last}) are understood. Give it as "
            f"overrides={{{path!r}: mulo.mup.Role.HIDDEN}}, or .INPUT, .OUTPUT, .VECTOR."
        )
    if last not in infinite:
        return Role.OUTPUT
    return Role.HIDDEN if last - 1 in infinite else Role.INPUT


def fan_in(role: Role, shape: tuple[int, ...]) -> int:
    """Number of inputs of each output: the product of all axes but the last; 1 for vectors and scalars."""
    if role in (Role.VECTOR, Role.SCALAR):
        return 1
    product = 1
    for length in shape[:-1]:
        product *= length
    return product
