"""What an executor is, which advances all slots by one truncation, and what a pool of workers is.

Imports no JAX: Ray is to be started before it (see `meta_train.executors.clusters`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from meta_train.executors.messages import Answer, Facts, History, Request, SlotResult

if TYPE_CHECKING:
    from types import TracebackType

    from meta_train.slot import SlotState
    from mulo.optimizers.base import Theta


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


class Started(NamedTuple):
    """The process of a worker runs; it reads its data and compiles."""

    worker_id: int


class Ready(NamedTuple):
    """A worker can be asked."""

    worker_id: int
    facts: Facts


class Answered(NamedTuple):
    """A worker has answered."""

    worker_id: int
    answer: Answer


class Died(NamedTuple):
    """A worker is no more, or has failed; it answers nothing from now on."""

    worker_id: int
    reason: str  # one line
    hopeless: bool = False  # another worker would fail in the same way


Event = Started | Ready | Answered | Died


class WorkerPool(Protocol):
    """Processes that can be started, asked and ended; they may die at any time. Only `poll` waits."""

    def start(self, worker_id: int, place: int) -> None:
        """Begins to start a worker. There may be no room for it now: then it starts when there is.

        Args:
          worker_id: never used before.
          place: from 0 on, below the number of workers wanted; no living worker has the same.
        """
        ...

    def submit(self, worker_id: int, request: Request) -> None:
        """Sends a request to a worker that is ready, and has answered all before."""
        ...

    def poll(self, timeout: float) -> list[Event]:
        """What has happened; waits at most `timeout` seconds for something to happen.

        Raises:
          ExecutorError: all workers are lost and no others can be started.
        """
        ...

    def end(self, worker_id: int) -> None:
        """Ends a worker, in whatever state it is; no event tells of it."""
        ...

    def close(self) -> None:
        """Ends all."""
        ...
