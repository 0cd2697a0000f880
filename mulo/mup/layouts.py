"""Whether weights are stored as `layout` says: their biases know, and the types of Equinox's layers."""

import math
from collections.abc import Sequence

from mulo.errors import InputError
from mulo.mup.networks import Network, Shapes

_OTHER = {"in_out": "out_in", "out_in": "in_out"}
_WORDS = {"in_out": "outputs last (in, out)", "out_in": "outputs first (out, in)"}


def check_layout(network: Network) -> None:
    """Refuses a layout that the network contradicts.

    A layer contradicts it where its biases have the sizes of its kernels' output axes in the other layout,
    and not in this one.

    Raises:
      InputError: the first layer that does, with the layout to pass; or, where other layers agree with the
        layout, with the override for this leaf.
    """
    other = _OTHER[network.layout]
    typed = [leaf for leaf in network.leaves.values() if leaf.kind == "outputs first" and _is_kernel(leaf)]
    if network.layout == "in_out" and any(leaf.said.fan_in_axes is None for leaf in typed):
        leaf = next(leaf for leaf in typed if leaf.said.fan_in_axes is None)
        raise InputError(
            f"{leaf.path}, shape {leaf.shapes[0]}, is of an Equinox layer, whose weights are stored "
            f"{_WORDS[other]}: pass layout='{other}'."
        )
    agree, contradict = [], []
    for layer in network.layers.values():
        kernels, sizes = _kernels_and_biases(layer)
        if not kernels or len(kernels) != len(sizes) or any(k.said.fan_in_axes is not None for k in kernels):
            continue
        here, there = (_output_sizes(kernels, layout) for layout in (network.layout, other))
        if here != there and here == sizes:
            agree.append(kernels)
        elif here != there and there == sizes:
            contradict.append(kernels)
    if contradict:
        raise InputError(_message(contradict[0], bool(agree), other))


def _message(kernels: Sequence[Shapes], others_agree: bool, other: str) -> str:
    leaf = next((k for k in kernels if len({*k.lengths(k.own_axes)}) > 1), kernels[0])
    fan_in = tuple(axis for axis in leaf.own_axes if axis != _output_axis(leaf, other))
    said = f"overrides={{{leaf.path!r}: mulo.mup.Leaf(fan_in_axes={fan_in})}}"
    here = tuple(axis for axis in leaf.own_axes if axis != _output_axis(leaf, _OTHER[other]))
    fact = (
        f"{leaf.path}, shape {leaf.shapes[0]}, seems to be stored {_WORDS[other]}: its bias has the length "
        f"of axis {_output_axis(leaf, other)}."
    )
    if others_agree:
        return f"{fact} Other layers are stored {_WORDS[_OTHER[other]]}: say of this one {said}."
    return (
        f"{fact} Pass layout='{other}'; if it is stored {_WORDS[_OTHER[other]]} all the same, "
        f"overrides={{{leaf.path!r}: mulo.mup.Leaf(fan_in_axes={here})}}."
    )


def _kernels_and_biases(layer: Sequence[Shapes]) -> tuple[list[Shapes], list[tuple[int, ...]]]:
    """The kernels of a layer, and the sizes of its biases at every width, sorted; nothing if in doubt."""
    kernels = [leaf for leaf in layer if _is_kernel(leaf) and (len(leaf.long_axes) > 1 or len(layer) == 2)]
    if len(kernels) == 2 == len(layer):  # a kernel (n, 1) and its bias (1, 1), or two kernels
        kernels = [leaf for leaf in kernels if len(leaf.own_axes) > min(len(k.own_axes) for k in kernels)]
    vectors = [leaf for leaf in layer if leaf not in kernels]
    if any(len(leaf.long_axes) > 1 or not leaf.own_axes for leaf in vectors):
        return [], []
    return kernels, sorted(_sizes(leaf, leaf.own_axes) for leaf in vectors)


def _output_sizes(kernels: Sequence[Shapes], layout: str) -> list[tuple[int, ...]]:
    return sorted(_sizes(leaf, (_output_axis(leaf, layout),)) for leaf in kernels)


def _output_axis(leaf: Shapes, layout: str) -> int:
    return leaf.own_axes[-1] if layout == "in_out" else leaf.own_axes[0]


def _is_kernel(leaf: Shapes) -> bool:
    return len(leaf.own_axes) > 1


def _sizes(leaf: Shapes, axes: Sequence[int]) -> tuple[int, ...]:
    """The number of entries of these axes in every network."""
    return tuple(math.prod(shape[axis] for axis in axes) for shape in leaf.shapes)
