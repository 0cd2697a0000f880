"""How a lost slot is made again, to the bit: a snapshot of it, and all thetas since."""

from collections.abc import Sequence
from typing import NamedTuple

from meta_train.config import MetaTrainConfig
from meta_train.executors.messages import History, Start
from meta_train.schedules import first_steps
from meta_train.slot import SlotState
from mulo.optimizers.base import Theta


class _Snapshot(NamedTuple):
    meta_step: int  # the state is that before this meta-step
    state: SlotState | None  # None: the slot begins its first inner run there


class Recovery:
    """Snapshots of the slots, each with its own age, and the thetas of the meta-steps since the oldest.

    All of it is in this process. It outlives any worker; what outlives this process are the checkpoints.
    """

    def __init__(self, config: MetaTrainConfig):
        """At the beginning of a run."""
        self._config = config
        self._snapshots = [_Snapshot(0, None)] * len(config.slots())
        self._thetas: dict[int, Theta] = {}

    def restore(
        self, slot_states: Sequence[SlotState | None], meta_step: int, history: History | None = None
    ) -> None:
        """Goes on from a checkpoint before `meta_step`."""
        self._thetas = {}
        if history is None:
            self._snapshots = [_Snapshot(meta_step, state) for state in slot_states]
            return
        pairs = zip(history.meta_steps, slot_states, strict=True)
        self._snapshots = [_Snapshot(first, state) for first, state in pairs]
        self._thetas = dict(enumerate(history.thetas, min(history.meta_steps)))

    def known_states(self, meta_step: int) -> tuple[list[SlotState | None], History]:
        """What `restore` needs to go on before `meta_step`, without asking any worker."""
        meta_steps = tuple(snapshot.meta_step for snapshot in self._snapshots)
        thetas = tuple(self._thetas[step] for step in range(min(meta_steps), meta_step))
        return [snapshot.state for snapshot in self._snapshots], History(meta_steps, thetas)

    def keep_theta(self, meta_step: int, theta: Theta) -> None:
        """Keeps the theta of a meta-step, and forgets those that no slot needs any more."""
        oldest = min(snapshot.meta_step for snapshot in self._snapshots)
        self._thetas = {step: kept for step, kept in self._thetas.items() if step >= oldest}
        self._thetas[meta_step] = theta

    def keep_state(self, slot_index: int, meta_step: int, state: SlotState) -> None:
        """Keeps the state of a slot before `meta_step` in place of an older one."""
        self._snapshots[slot_index] = _Snapshot(meta_step, state)

    def is_current(self, slot_index: int, meta_step: int) -> bool:
        """Whether another worker could have the slot before `meta_step` without doing anything again."""
        return self._snapshots[slot_index].meta_step == meta_step

    def start(self, slot_index: int, meta_step: int, *, to_advance: bool) -> Start:
        """What a worker needs to have the slot before `meta_step`.

        Args:
          slot_index: the slot.
          meta_step: the first that has not been made.
          to_advance: the slot is advanced at once; otherwise its state is asked for, and has to be that in
            which the meta-step before left it.
        """
        snapshot = self._snapshots[slot_index]
        begun = first_steps(self._config, slot_index)
        # An inner run that began after the snapshot needs no state: its beginning is a function of theta.
        last_begun = int(begun[meta_step if to_advance else meta_step - 1])
        if last_begun > snapshot.meta_step:
            snapshot = _Snapshot(last_begun, None)
        thetas = tuple(self._thetas[step] for step in range(snapshot.meta_step, meta_step))
        return Start(snapshot.state, snapshot.meta_step, thetas)
