"""How the axes of a leaf may be read: which are summed over, which result, which are a stack.

Shapes do not say it. What is used, in this order, none of it a name:

1. Conventions. Only what follows from them is known without further evidence:
   - a weight's fan-in axes stand before its fan-out axes (`layout="in_out"`: Flax, Haiku), or its one
     fan-out axis before all others (`layout="out_in"`: Equinox, PyTorch);
   - a stack (the layers of a scan, experts) is the first axis, and no stack grows with width;
   - a kernel of which the first axis grows and the last does not is no convolution;
   - a kernel with several fan-out axes (queries of several heads) has a fan-in that grows;
   - four axes of which no other than the last two grow are a two-dimensional convolution.
2. The bias: where a layer holds two leaves, and one has the shape of the bias of the other, it is that. Where
   it holds more, as a flat dictionary does, it may be that or a weight.
3. The counterpart: attention has kernels (features, heads, head_dim) and (heads, head_dim, features);
   each tells what the other is.

4. The low-rank pair: in a layer of a larger network, a kernel onto few outputs of which another kernel of
   that layer makes many again may be its first half (LoRA), to which no output multiplier is applied.

What is left are the readings among which `mulo.mup.infer` does not choose, unless they come to the same.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from mulo.mup.roles import Reading, Role, make_reading

_CONVOLUTION = "a kernel that sums over all axes but the last (a convolution, an attention output)"
_SEVERAL_OUTPUTS = "a kernel whose last axes are all outputs (attention queries)"
_STACK = "a stack of layers along the first axis"
_BIAS = "the bias of another leaf of its layer"
_OUTPUT = "a kernel onto few outputs, to which the model applies mulo.mup.output_multiplier"
_LOW_RANK = "the first of a low-rank pair, without that multiplier"


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The shapes of one leaf in all networks that are compared, and what differs."""

    path: str
    parent: str  # of the layer that holds it
    shapes: tuple[tuple[int, ...], ...]  # [network][axis]; the first is the network to be trained
    infinite: tuple[int, ...]  # axes that grow with width
    stacked: tuple[int, ...]  # axes known to be stacks

    @property
    def own_axes(self) -> tuple[int, ...]:
        """The axes that are not known to be stacks."""
        return tuple(axis for axis in range(len(self.shapes[0])) if axis not in self.stacked)

    def lengths(self, axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The lengths of these axes in every network: [axis][network]."""
        return tuple(tuple(shape[axis] for shape in self.shapes) for axis in axes)


_Split = Callable[[Shapes, bool], list[Reading]]


def find_readings(
    leaf: Shapes, leaves: Mapping[str, Shapes], layout: str, stacks_known: bool
) -> list[Reading]:
    """The readings of one leaf that are possible, the most usual first.

    Args:
      leaf: of which the readings are wanted.
      leaves: all of them, by path.
      layout: "in_out" or "out_in".
      stacks_known: whether all stacked axes are known, so that no other axis is one.
    """
    axes = leaf.own_axes
    if len(axes) < 2:
        return [make_reading((), axes, leaf.stacked, leaf.infinite)]
    split = _in_out if layout == "in_out" else _out_in
    possible = split(leaf, stacks_known)
    layer = [other for other in leaves.values() if other.parent == leaf.parent]
    if len(layer) == 2:
        other = layer[0] if layer[1] is leaf else layer[1]
        for reading in split(other, stacks_known):
            if _is_bias(leaf, other, reading):
                return [_bias_reading(leaf, reading)]
        told = [reading for reading in possible if _is_bias(other, leaf, reading)]
        if told:
            return told
    possible = [
        *(_bias_reading(leaf, reading) for reading in _kernels_of(leaf, layer, split, stacks_known)),
        *possible,
    ]
    if len(layer) < len(leaves):
        possible = _with_low_rank(possible, leaf, layer, split, stacks_known)
    if layout == "out_in":
        return possible
    usual = [reading for reading in possible if _is_usual(leaf, reading)]
    if len(axes) == 4 and set(leaf.infinite) <= set(axes[2:]):
        usual = [reading for reading in usual if len(reading.fan_in) == 3]
    usual = _attention_readings(leaf, leaves, usual) or usual
    return [alternative for reading in usual for alternative in _with_bottleneck(reading)]


def _in_out(leaf: Shapes, stacks_known: bool) -> list[Reading]:
    """Every split of the axes into stack, fan-in and fan-out, the longest fan-in first."""
    axes, readings = leaf.own_axes, []
    may_be_stacked = not stacks_known and len(axes) > 2 and axes[0] not in leaf.infinite
    for num_stacked in (0, 1) if may_be_stacked else (0,):
        inner = axes[num_stacked:]
        for num_inputs in range(len(inner) - 1, 0, -1):
            several = num_inputs < len(inner) - 1
            if several and inner[0] not in leaf.infinite:
                continue
            words = _STACK if num_stacked else _SEVERAL_OUTPUTS if several else _CONVOLUTION
            stacked = tuple(sorted((*leaf.stacked, *axes[:num_stacked])))
            readings.append(
                make_reading(inner[:num_inputs], inner[num_inputs:], stacked, leaf.infinite, words)
            )
    return readings


def _is_usual(leaf: Shapes, reading: Reading) -> bool:
    """Whether a kernel that sums over several axes is no convolution along an axis that grows."""
    if not reading.fan_in:
        return True
    first, last = reading.fan_in[0], reading.fan_out[-1]
    return len(reading.fan_in) == 1 or first not in leaf.infinite or last in leaf.infinite


def _is_bias(bias: Shapes, kernel: Shapes, reading: Reading) -> bool:
    bias_axes = reading.bias_axes()
    return bias.lengths(range(len(bias.shapes[0]))) == kernel.lengths(bias_axes)


def _kernels_of(bias: Shapes, layer: Sequence[Shapes], split: _Split, stacks_known: bool) -> list[Reading]:
    """Readings of other leaves of the layer as a kernel of which this leaf has the shape of the bias.

    Only of kernels with several fan-out axes: a stack of kernels has biases that go as input weights do.
    """
    return [
        reading
        for other in layer
        if other is not bias and len(other.own_axes) > len(bias.own_axes)
        for reading in split(other, stacks_known)
        if len(reading.fan_out) > 1 and not reading.stacked and _is_bias(bias, other, reading)
    ][:1]


def _with_low_rank(
    readings: list[Reading], leaf: Shapes, layer: Sequence[Shapes], split: _Split, stacks_known: bool
) -> list[Reading]:
    """With the first half of a low-rank pair beside each kernel onto few outputs that may be one."""

    def is_second_half(other: Shapes, reading: Reading, first: Reading) -> bool:
        return reading.role is Role.INPUT and (
            other.lengths((*reading.stacked, *reading.fan_in))
            == leaf.lengths((*first.stacked, *first.fan_out))
        )

    result = []
    for first in readings:
        result.append(first)
        others = (other for other in layer if other is not leaf and len(other.own_axes) == 2)
        if first.role is Role.OUTPUT and any(
            is_second_half(other, reading, first)
            for other in others
            for reading in split(other, stacks_known)
        ):
            result[-1] = dataclasses.replace(first, words=_OUTPUT)
            result.append(dataclasses.replace(first, role=Role.HIDDEN, words=_LOW_RANK))
    return result


def _bias_reading(bias: Shapes, kernel: Reading) -> Reading:
    """The bias of a kernel, stacked as that is."""
    stacked = tuple(place for place, axis in enumerate(kernel.bias_axes()) if axis in kernel.stacked)
    own = tuple(axis for axis in range(len(bias.shapes[0])) if axis not in stacked)
    return make_reading((), own, stacked, bias.infinite, _BIAS)


def _attention_readings(leaf: Shapes, leaves: Mapping[str, Shapes], readings: list[Reading]) -> list[Reading]:
    """The readings as an attention kernel whose counterpart is there; none if that does not decide."""
    if len(leaf.own_axes) != 3:
        return []
    kernels = [other.lengths(other.own_axes) for other in leaves.values() if len(other.own_axes) == 3]
    first, second, third = leaf.lengths(leaf.own_axes)
    # (features, heads, head_dim) has the counterpart (any heads, head_dim, features): with grouped
    # queries there are fewer heads here than there.
    is_query = any(kernel[1:] == (third, first) for kernel in kernels)
    # (heads, head_dim, features) has the counterpart (features, heads, head_dim).
    is_output = (third, first, second) in kernels
    if is_query == is_output:
        return []
    return [
        reading
        for reading in readings
        if reading.stacked == leaf.stacked and len(reading.fan_in) == (1 if is_query else 2)
    ]


def _with_bottleneck(reading: Reading) -> list[Reading]:
    """With what else a kernel may be that maps what grows onto several axes that do not.

    One such axis is taken for the network's output. Several (few heads for keys and values) are hardly
    that; inside of the network the model may or may not apply the output multiplier.
    """
    if reading.role is not Role.OUTPUT or len(reading.fan_out) == 1:
        return [reading]
    return [
        dataclasses.replace(reading, words=_OUTPUT),
        dataclasses.replace(reading, words="the same without that multiplier", role=Role.HIDDEN),
    ]


def _out_in(leaf: Shapes, stacks_known: bool) -> list[Reading]:
    """Readings with the fan-out axis before all others, the kernel axes of a convolution last."""
    axes, readings = leaf.own_axes, []
    if not set(axes[2:]) & set(leaf.infinite):
        words = "a kernel whose first axis is the output"
        readings.append(make_reading(axes[1:], axes[:1], leaf.stacked, leaf.infinite, words))
    if len(axes) == 2 and set(leaf.infinite) == {axes[1]}:
        words = "an embedding, one row for each token"
        readings.append(make_reading(axes[:1], axes[1:], leaf.stacked, leaf.infinite, words))
    if not stacks_known and len(axes) > 2 and axes[0] not in leaf.infinite:
        stacked = tuple(sorted((*leaf.stacked, axes[0])))
        readings.append(make_reading(axes[2:], axes[1:2], stacked, leaf.infinite, _STACK))
    return readings
