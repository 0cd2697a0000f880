"""What an executor is: it owns the slots and advances all of them by one truncation when asked.

Imports no JAX: Ray is to be started before it (see `meta_train.executors.clusters`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from types import TracebackType

    from meta_train.recovery import History
    from meta_train.slot import SlotState, SlotStatistics
    from mulo.optimizers.base import Theta


class SlotResult(NamedTuple):
    """What one slot answers."""

    gradient: Theta
    statistics: SlotStatistics
    num_copies: int  # inner runs that each pair was: 2, or 1 without perturbations


class Executor(Protocol):
    """The contract. The answers depend on configuration, theta and meta-step, never on who computes them."""

    def advance(self, theta: Theta, meta_step: int) -> list[SlotResult]:
        """Advances every slot by one truncation; answers in slot order.

        Raises:
          ExecutorError: it cannot go on, whatever was tried.
        """
        ...

    def snapshot(self) -> list[SlotState]:
        """The state of every slot, as NumPy arrays, in slot order."""
        ...

    def known_states(self, meta_step: int) -> tuple[list[SlotState | None], History]:
        """What `restore` needs to go on before `meta_step`, the one under way, though no worker answers."""
        ...

    def restore(
        self, slot_states: list[SlotState | None], meta_step: int, history: History | None = None
    ) -> None:
        """Goes on before meta-step `meta_step`.

        Args:
          slot_states: in slot order.
          meta_step: the first that has not been made.
          history: how old the states are; `None` = they are a snapshot, taken before `meta_step`.
        """
        ...

    def report(self) -> dict[str, Any]:
        """What it has to say of the last meta-step: entries of the metrics, numbers and dicts of numbers."""
        ...

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
