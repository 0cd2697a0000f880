"""All that crosses a process boundary: NumPy arrays and numbers in NamedTuples. Imports no JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from meta_train.slot import SlotState, SlotStatistics
    from mulo.optimizers.base import Theta


class SlotResult(NamedTuple):
    """What one slot answers."""

    gradient: Theta
    statistics: SlotStatistics
    num_copies: int  # inner runs that each pair was: 2, or 1 without perturbations


class Start(NamedTuple):
    """How a worker comes to have a slot that it does not have: a state, and what to do again from there."""

    state: SlotState | None  # before meta-step `meta_step`; None = a new inner run begins there
    meta_step: int
    thetas: tuple[Theta, ...]  # of the meta-steps from `meta_step` on, up to the one before the request's


class Order(NamedTuple):
    """What to do with one slot."""

    slot_index: int
    start: Start | None  # None: the worker has the slot, ready for the meta-step of the request
    return_state: bool  # answer the state that the slot is left in


class Request(NamedTuple):
    """One call of a worker."""

    call_id: int
    meta_step: int
    theta: Theta | None  # to advance the slots with; None: only bring them to `meta_step`
    orders: tuple[Order, ...]
    owned: frozenset[int]  # the slots that are the worker's; it forgets all others


class SlotAnswer(NamedTuple):
    """What has become of one slot."""

    result: SlotResult | None
    state: SlotState | None
    seconds: float  # wall-clock, for all its truncations
    num_truncations: int


class Answer(NamedTuple):
    """What a worker answers to one request."""

    call_id: int
    meta_step: int
    slots: dict[int, SlotAnswer]


class Facts(NamedTuple):
    """What a worker says of itself when it is ready. Those that can decide bits must be alike everywhere."""

    pid: int
    node: str
    device_kind: str
    versions: dict[str, str]
    seconds: float  # that reading data and compiling took


class History(NamedTuple):
    """How slots come from states of different ages to one meta-step: by doing again what was done since."""

    meta_steps: tuple[int, ...]  # each slot's state is that before this meta-step; none = a run begins there
    thetas: tuple[Theta, ...]  # of all meta-steps from the oldest of these on

    def since(self, slot_index: int) -> tuple[Theta, ...]:
        """The thetas that the state of a slot has not seen, the oldest first."""
        return self.thetas[self.meta_steps[slot_index] - min(self.meta_steps) :]
