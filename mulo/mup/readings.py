"""How the axes of one leaf may be read: which are summed over, which result, which are a stack.

Shapes do not say it. What is taken for granted, none of it a name:

- a weight's fan-in axes stand before its fan-out axes (`layout="in_out"`: Flax, Haiku), or its one
  fan-out axis before all others (`layout="out_in"`: Equinox, PyTorch);
- a stack (the layers of a scan, experts) is the first axis, and no stack grows with width.

Where nothing else is known (`mulo.mup.evidence` says what may be), these hold too:

- a kernel of which the first axis grows and the last does not is no convolution;
- a kernel with several fan-out axes (queries of several heads) has a fan-in that grows;
- four axes of which no other than the last two grow are a two-dimensional convolution.
"""

import dataclasses

from mulo.mup.networks import Shapes
from mulo.mup.roles import Reading, make_reading

_CONVOLUTION = "a kernel that sums over all axes but the last (a convolution, an attention output)"
_SEVERAL_OUTPUTS = "a kernel whose last axes are all outputs (attention queries)"
_TRANSPOSED = "a transposed convolution, its outputs before its inputs"
_STACK = "a stack of layers along the first axis"
_FIRST = "a kernel whose first axis is the output"
_EMBEDDING = "an embedding, one row for each token"
_BIAS = "the bias of another leaf of its layer"
_VECTOR = "a bias or a gain"


def said_reading(leaf: Shapes) -> Reading | None:
    """What the user says of the axes."""
    if leaf.said.fan_in_axes is None:
        return None
    fan_out = tuple(axis for axis in leaf.own_axes if axis not in leaf.said.fan_in_axes)
    return make_reading(leaf.said.fan_in_axes, fan_out, leaf.stacked, leaf.infinite)


def vector_reading(leaf: Shapes) -> Reading:
    """All axes its own, but for known stacks."""
    return make_reading((), leaf.own_axes, leaf.stacked, leaf.infinite, _VECTOR)


def weight_readings(leaf: Shapes, layout: str) -> list[Reading]:
    """Every split of the axes into stack, fan-in and fan-out, the most usual first."""
    return _in_out(leaf) if layout == "in_out" else _out_in(leaf)


def usual_readings(leaf: Shapes, layout: str) -> list[Reading]:
    """Those that the conventions leave."""
    readings = weight_readings(leaf, layout)
    if layout == "out_in":
        return readings
    usual = [reading for reading in readings if _is_usual(leaf, reading)]
    if len(leaf.own_axes) == 4 and set(leaf.infinite) <= set(leaf.own_axes[2:]):
        usual = [reading for reading in usual if len(reading.fan_in) == 3]
    return usual


def transposed_readings(leaf: Shapes, layout: str) -> list[Reading]:
    """As the transposed convolutions of Haiku are stored: (height, width, out, in)."""
    if layout != "in_out" or len(leaf.own_axes) < 3:
        return []
    *window, outputs, inputs = leaf.own_axes
    return [make_reading((*window, inputs), (outputs,), leaf.stacked, leaf.infinite, _TRANSPOSED)]


def bias_reading(bias: Shapes, kernel: Reading) -> Reading:
    """The bias of a kernel, stacked as that is."""
    axes = range(len(bias.shapes[0]))
    stacked = bias.stacked
    if len(kernel.bias_axes()) == len(axes):
        stacked = tuple(place for place, axis in enumerate(kernel.bias_axes()) if axis in kernel.stacked)
    own = tuple(axis for axis in axes if axis not in stacked)
    return make_reading((), own, stacked, bias.infinite, _BIAS)


def with_words(reading: Reading, words: str, **changed: object) -> Reading:
    """The reading, called something else."""
    return dataclasses.replace(reading, words=words, **changed)


def _in_out(leaf: Shapes) -> list[Reading]:
    """The longest fan-in first."""
    axes, readings = leaf.own_axes, []
    for num_stacked in (0, 1) if _may_be_stacked(leaf) else (0,):
        inner = axes[num_stacked:]
        for num_inputs in range(len(inner) - 1, 0, -1):
            several = num_inputs < len(inner) - 1
            words = _STACK if num_stacked else _SEVERAL_OUTPUTS if several else _CONVOLUTION
            stacked = tuple(sorted((*leaf.stacked, *axes[:num_stacked])))
            readings.append(
                make_reading(inner[:num_inputs], inner[num_inputs:], stacked, leaf.infinite, words)
            )
    return readings


def _out_in(leaf: Shapes) -> list[Reading]:
    """The fan-out axis before all others, the kernel axes of a convolution last."""
    axes, readings = leaf.own_axes, []
    if not set(axes[2:]) & set(leaf.infinite):
        readings.append(make_reading(axes[1:], axes[:1], leaf.stacked, leaf.infinite, _FIRST))
    if len(axes) == 2 and set(leaf.infinite) == {axes[1]} and leaf.kind != "outputs first":
        readings.append(make_reading(axes[:1], axes[1:], leaf.stacked, leaf.infinite, _EMBEDDING))
    if _may_be_stacked(leaf):
        stacked = tuple(sorted((*leaf.stacked, axes[0])))
        readings.append(make_reading(axes[2:], axes[1:2], stacked, leaf.infinite, _STACK))
    return readings


def _may_be_stacked(leaf: Shapes) -> bool:
    axes = leaf.own_axes
    return not leaf.stacks_known and len(axes) > 2 and axes[0] not in leaf.infinite


def _is_usual(leaf: Shapes, reading: Reading) -> bool:
    first, last = reading.fan_in[0], reading.fan_out[-1]
    if len(reading.fan_out) > 1 and first not in leaf.infinite:
        return False
    return len(reading.fan_in) == 1 or first not in leaf.infinite or last in leaf.infinite
