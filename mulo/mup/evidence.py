"""What the leaves of a network say of one another: an ordered list of rules, the first that knows decides.

No name is looked at, only shapes, and which leaves are in one layer; of Equinox's layers also the type.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from mulo.mup.networks import Network, Shapes
from mulo.mup.readings import (
    bias_reading,
    said_reading,
    transposed_readings,
    usual_readings,
    vector_reading,
    weight_readings,
    with_words,
)
from mulo.mup.roles import Reading, Role

OUTPUT = "a kernel onto few outputs, to which the model applies mulo.mup.output_multiplier"
EMBEDDING_OR_OUTPUT = "embedding or output"  # here the axes matter, not only the multipliers


class Decision(NamedTuple):
    """The readings of a leaf that are possible, the most usual first, and by which rule."""

    readings: list[Reading]
    rule: str


def decide(leaf: Shapes, network: Network) -> Decision:
    """By the first rule that knows something of the leaf."""
    for rule, find in RULES.items():
        readings = find(leaf, network)
        if readings:
            return Decision(readings, rule)
    return Decision([], "none")


def _said(leaf: Shapes, network: Network) -> list[Reading] | None:
    del network
    said = said_reading(leaf)
    return None if said is None else [said]


def _one_axis(leaf: Shapes, network: Network) -> list[Reading] | None:
    del network
    return [vector_reading(leaf)] if len(leaf.own_axes) < 2 else None


def pair(leaf: Shapes, network: Network) -> list[Reading] | None:
    """Where a layer holds two leaves, and one has the shape of the bias of the other, it is that."""
    layer = network.layer_of(leaf)
    if len(layer) != 2:
        return None
    other = layer[0] if layer[1] is leaf else layer[1]
    for readings in _kernel_readings(other, network):
        told = [reading for reading in readings if _is_bias(leaf, other, reading)]
        if told:
            return [bias_reading(leaf, told[0])]
    for readings in _kernel_readings(leaf, network):
        told = [reading for reading in readings if _is_bias(other, leaf, reading)]
        if told:
            return told
    return None


def _kernel_readings(leaf: Shapes, network: Network) -> list[list[Reading]]:
    """What may be told by a bias: what is said, else the usual, else other readings."""
    if len(leaf.own_axes) < 2:
        return []
    said = said_reading(leaf)
    if said is not None:
        return [[said]]
    every = weight_readings(leaf, network.layout)
    usual = [reading for reading in every if len(reading.fan_out) == 1 or reading.fan_in[0] in leaf.infinite]
    return [usual, every, transposed_readings(leaf, network.layout)]


def _is_bias(bias: Shapes, kernel: Shapes, reading: Reading) -> bool:
    """Whether it has the shape of this kernel's bias, but for axes of length 1."""
    if len(bias.long_axes) >= len(kernel.long_axes) and len(bias.own_axes) >= len(kernel.own_axes):
        return False
    every, axes = range(len(bias.shapes[0])), reading.bias_axes()
    if bias.lengths(every) == kernel.lengths(axes):
        return True
    return _long(bias.lengths(every)) == _long(kernel.lengths(axes)) and not reading.stacked


def _long(lengths: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(length for length in lengths if set(length) != {1})


def _axes_of_length_one(leaf: Shapes, network: Network) -> list[Reading] | None:
    """A bias (n, 1, 1) and a gain (1, 1, n) are vectors; a kernel of one input or one output is none."""
    if len(leaf.long_axes) > 1:
        return None
    (axis,) = leaf.long_axes or leaf.own_axes[-1:]
    *_, before, last = leaf.own_axes
    first, second = leaf.own_axes[:2]
    alike = [other for other in network.layer_of(leaf) if other is not leaf and other.shapes == leaf.shapes]
    if network.layout == "in_out":
        of_one_output, of_one_input = axis == before, axis == last
    else:
        of_one_output, of_one_input = axis == second, axis == first
    if of_one_output and leaf.infinite and not alike:
        return None
    has_bias = any(
        len(other.own_axes) == 1 and other.lengths(other.own_axes) == leaf.lengths((axis,))
        for other in network.layer_of(leaf)
    )
    if of_one_input and len(leaf.own_axes) == 2 and has_bias:
        return None
    return [vector_reading(leaf)]


def _embedding(leaf: Shapes, network: Network) -> list[Reading] | None:
    """Stored outputs first, an embedding looks like an output: the tree's type, or other biases, tell."""
    readings = weight_readings(leaf, network.layout)
    rows = [
        reading for reading in readings if reading.role is Role.INPUT and reading.fan_in == leaf.own_axes[:1]
    ]
    if network.layout == "in_out" or len(readings) != 2 or not rows:
        return None
    if leaf.kind == "embedding":
        return rows
    outputs = (other for other in network.leaves.values() if other is not leaf)
    if any(_is_told_output(other, network) for other in outputs):
        return [*rows, *(reading for reading in readings if reading not in rows)]
    return None


def _rows_or_outputs(leaf: Shapes, network: Network) -> list[Reading] | None:
    """Of several such leaves none is known to be the output: no reading is more usual."""
    if network.layout == "in_out" or not _has_rows(leaf, network) or leaf.said.role is not None:
        return None
    others = (other for other in network.leaves.values() if other is not leaf and other.said.role is None)
    if not any(_has_rows(other, network) and not pair(other, network) for other in others):
        return None
    return weight_readings(leaf, network.layout)


def _has_rows(leaf: Shapes, network: Network) -> bool:
    """Whether it may be an embedding of weights stored outputs first."""
    if len(leaf.long_axes) < 2 or leaf.kind == "embedding" or said_reading(leaf) is not None:
        return False
    roles = [reading.role for reading in weight_readings(leaf, network.layout)]
    return Role.INPUT in roles and Role.OUTPUT in roles


def _is_told_output(leaf: Shapes, network: Network) -> bool:
    if len(leaf.own_axes) < 2 or not leaf.infinite:
        return False
    if leaf.said.role is not None:
        return leaf.said.role is Role.OUTPUT
    told = pair(leaf, network) or []
    return leaf.kind == "outputs first" or any(reading.role is Role.OUTPUT for reading in told)


def _attention(leaf: Shapes, network: Network) -> list[Reading] | None:
    """Kernels (features, heads, head_dim) and (heads, head_dim, features) tell what the other is."""
    if network.layout != "in_out" or len(leaf.own_axes) != 3:
        return None
    kernels = network.three_axes
    first, second, third = leaf.lengths(leaf.own_axes)
    # (features, heads, head_dim) has the counterpart (any heads, head_dim, features): with grouped
    # queries there are fewer heads here than there.
    is_query = (third, first) in kernels.values()
    # (heads, head_dim, features) has the counterpart (features, heads, head_dim).
    is_output = (third, first, second) in kernels
    if is_query == is_output:
        return None
    readings = weight_readings(leaf, network.layout)
    told = [reading for reading in readings if reading.stacked == leaf.stacked]
    told = [reading for reading in told if len(reading.fan_in) == (1 if is_query else 2)]
    return _with_inside(told)


def _conventions(leaf: Shapes, network: Network) -> list[Reading]:
    """The usual readings; in a layer of several leaves, it may be the bias of another too."""
    biases = _kernels_of(leaf, network)
    return [*biases, *_with_inside(usual_readings(leaf, network.layout))]


def _kernels_of(bias: Shapes, network: Network) -> list[Reading]:
    """As the bias of another leaf of its layer, one with several fan-out axes."""
    return [
        bias_reading(bias, reading)
        for other in network.layer_of(bias)
        if other is not bias and len(other.own_axes) > len(bias.own_axes)
        for reading in usual_readings(other, network.layout)
        if len(reading.fan_out) > 1 and not reading.stacked and _is_bias(bias, other, reading)
    ][:1]


def _with_inside(readings: list[Reading]) -> list[Reading]:
    """With what else a kernel may be that maps what grows onto several axes that do not.

    One such axis is taken for the network's output. Several (few heads for keys and values) are hardly
    that; inside of the network the model may or may not apply the output multiplier.
    """
    result = []
    for reading in readings:
        if reading.role is Role.OUTPUT and len(reading.fan_out) > 1:
            inside = with_words(reading, "the same without that multiplier", role=Role.HIDDEN)
            result += [with_words(reading, OUTPUT), inside]
        else:
            result.append(reading)
    return result


RULES: dict[str, Callable[[Shapes, Network], list[Reading] | None]] = {
    "overrides": _said,
    "one axis": _one_axis,
    "the only other leaf of its layer": pair,
    "axes of length 1": _axes_of_length_one,
    "embeddings": _embedding,
    EMBEDDING_OR_OUTPUT: _rows_or_outputs,
    "attention": _attention,
    "conventions": _conventions,
}


def find_stacks(network: Network) -> Network:
    """With the stacks known that a bias or the user tells of: what stands beside them is stacked alike.

    Beside: below a place of the tree where every leaf of two axes or more has the same first axis.
    """
    leaves = dict(network.leaves)
    for leaf in network.leaves.values():
        told = (0,) if leaf.said.stacked_axes == (0,) else ()
        if not leaf.stacks_known and len(leaf.own_axes) > 2:
            readings = pair(leaf, network) or []
            told = readings[0].stacked if readings else ()
        if told != (0,) or (leaves[leaf.path].stacked and not leaf.stacks_known):
            continue
        for other in _beside(leaf, network):
            if not other.stacks_known and other.shapes[0] and other.lengths((0,)) == leaf.lengths((0,)):
                leaves[other.path] = dataclasses.replace(other, stacked=(0,), stacks_known=True)
    return dataclasses.replace(network, leaves=leaves)


def _beside(leaf: Shapes, network: Network) -> list[Shapes]:
    """The leaves of the largest part of the tree, around this leaf, that may be one stack."""
    found = [leaf]
    for depth in range(len(leaf.layer), -1, -1):
        inside = network.inside(leaf.place[:depth])
        weights = [other for other in inside if len(other.shapes[0]) > 1]
        if any(other.lengths((0,)) != leaf.lengths((0,)) or 0 in other.infinite for other in weights):
            break
        if any(_is_no_stack(other, network) for other in weights):
            break
        found = inside
    return found


def _is_no_stack(leaf: Shapes, network: Network) -> bool:
    if leaf.stacks_known:
        return 0 not in leaf.stacked
    told = pair(leaf, network)
    return bool(told) and not any(reading.stacked for reading in told)
