"""Whether a kernel onto few outputs is the network's output, or a narrow place inside of it.

Shapes do not say whether the forward pass applies the output multiplier. A layer of the network's end is
taken for an output without a question; what looks like a place inside is asked for:

- its outputs are as many as an axis of a weight has that does not grow (only part of the network grows);
- they are as many as a stack near it has layers (it chooses among experts);
- there is one in each of several blocks, which hold hidden weights and no input of their own;
- another weight takes as many inputs as it has outputs (a low-rank pair, a bottleneck, the two projections
  of a feed-forward block), and the two are not the embedding and the head of the network.
"""

import itertools
from collections.abc import Mapping

from mulo.mup.evidence import OUTPUT, Decision
from mulo.mup.networks import Network, Shapes
from mulo.mup.readings import with_words
from mulo.mup.roles import Reading, Role

_Place = tuple[str, ...]


def ask_outputs(network: Network, decisions: Mapping[str, Decision], layout: str) -> dict[str, Decision]:
    """The decisions, with a second reading of each output that may be inside of the network."""
    view = _View(network, decisions, layout)
    result = dict(decisions)
    for leaf in view.outputs:
        reason = view.reason(leaf) if leaf.said.role is None and view.num_outputs(leaf) > 1 else None
        if reason is not None:
            first = decisions[leaf.path].readings[0]
            result[leaf.path] = Decision(
                [with_words(first, OUTPUT), with_words(first, reason, role=Role.HIDDEN)], "outputs"
            )
    return result


class _View:
    """The weights by role, each as it is most usually read."""

    def __init__(self, network: Network, decisions: Mapping[str, Decision], layout: str):
        self.layout = layout
        self.leaves = network.leaves
        self.readings = {path: d.readings[0] for path, d in decisions.items() if d.readings}
        weights = [leaf for leaf in network.leaves.values() if self._fan_in(leaf)]
        self.finite = [leaf for leaf in weights if not leaf.infinite]
        self.inputs = self._with_role(weights, Role.INPUT)
        self.hidden = self._with_role(weights, Role.HIDDEN)
        self.outputs = self._with_role(weights, Role.OUTPUT)
        self.root = _common([leaf.place for leaf in network.leaves.values()])
        self.pairs = {leaf.path: self._partner(leaf) for leaf in self.outputs}

    def reason(self, leaf: Shapes) -> str | None:
        """Why a leaf may be inside of the network, in words for the error; `None` if it is an output."""
        size = self.num_outputs(leaf)
        for other in self.finite:
            if size in (other.shapes[0][axis] for axis in other.long_axes):
                return (
                    f"a kernel inside the network, without that multiplier ({other.path} does not grow and "
                    f"has an axis of {size} too)"
                )
        experts = next((other for other in self.hidden if self._are_experts(other, leaf, size)), None)
        if experts is not None:
            return f"a kernel that chooses in the stack {experts.path}, without that multiplier"
        twin = next((other for other in self.outputs if self._in_another_block(leaf, other)), None)
        if twin is not None:
            return f"a kernel inside of a block, without that multiplier ({twin.path} is another)"
        partner = self.pairs[leaf.path]
        if partner is not None and self._is_inside(leaf, partner):
            return f"the first of a low-rank pair, without that multiplier (the other is {partner.path})"
        return None

    def num_outputs(self, leaf: Shapes) -> int:
        """The outputs of a kernel, at the width to be trained."""
        return leaf.size(self.readings[leaf.path].fan_out)

    def _fan_in(self, leaf: Shapes) -> tuple[int, ...]:
        reading: Reading | None = self.readings.get(leaf.path)
        return () if reading is None or len(leaf.long_axes) < 2 else reading.fan_in

    def _with_role(self, weights: list[Shapes], role: Role) -> list[Shapes]:
        growing = (leaf for leaf in weights if leaf.infinite)
        return [leaf for leaf in growing if (leaf.said.role or self.readings[leaf.path].role) is role]

    def _takes(self, leaf: Shapes) -> set[int]:
        """How many inputs a weight has; a convolution may count each place, or not."""
        fan_in = self._fan_in(leaf)
        channel = fan_in[-1:] if self.layout == "in_out" else fan_in[:1]
        return {leaf.size(fan_in), leaf.size(channel)}

    def _partner(self, leaf: Shapes) -> Shapes | None:
        """The nearest weight that takes as many inputs as this one gives outputs."""
        takers = [other for other in self.inputs if self.num_outputs(leaf) in self._takes(other)]
        return max(takers, key=lambda other: len(_common([leaf.place, other.place])), default=None)

    def _are_experts(self, other: Shapes, leaf: Shapes, size: int) -> bool:
        """Whether there are as many in the other's stack, which stands near, as the leaf has outputs."""
        is_near = len(_common([leaf.place, other.place])) > len(self.root)
        return is_near and size in (other.shapes[0][axis] for axis in self.readings[other.path].stacked)

    def _in_another_block(self, leaf: Shapes, other: Shapes) -> bool:
        """Whether the other has the same shape, in another block, and the block holds hidden weights."""
        if other is leaf or other.shapes != leaf.shapes:
            return False
        depth = len(_common([leaf.place, other.place])) + 1
        block = leaf.place[:depth]
        return len(leaf.place) > depth and (
            any(_is_in(hidden, block) for hidden in self.hidden)
            and not any(_is_in(first, block) for first in self.inputs)
        )

    def _is_inside(self, leaf: Shapes, partner: Shapes) -> bool:
        """Whether the two are a pair inside of the network, not its input and its output."""
        around = _common([leaf.place, partner.place])
        if any(not _is_in(other, around) for other in self.inputs):
            others = [other for other in self.outputs if not _is_in(other, around)]
            layer = around if any(_is_in(other, around) for other in self.hidden) else around[:-1]
            beside = len(layer) > len(self.root) and any(_is_in(other, layer) for other in self.hidden)
            return bool(others) or beside
        # One pair may be the ends of the network: the widest.
        sizes = [self.num_outputs(other) for other in self.outputs if self.pairs[other.path] is not None]
        return len(sizes) > 1 and (sizes.count(max(sizes)) > 1 or self.num_outputs(leaf) < max(sizes))


def _common(places: list[_Place]) -> _Place:
    """The place in the tree below which all of these are."""
    steps = zip(*places, strict=False)
    return tuple(step[0] for step in itertools.takewhile(lambda step: len(set(step)) == 1, steps))


def _is_in(leaf: Shapes, place: _Place) -> bool:
    return leaf.place[: len(place)] == place
