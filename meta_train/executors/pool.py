"""What a pool of workers is: processes that can be started, asked and ended; they may die at any time."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from meta_train.executors.messages import Answer, Facts, Request


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
    """The contract. No method waits, except `poll`; calls of one worker are answered in order."""

    def start(self, worker_id: int, place: int) -> None:
        """Begins to start a worker. There may be no room for it now: then it starts when there is.

        Args:
          worker_id: never used before.
          place: from 0 on, below the number of workers wanted; no living worker has the same.
        """
        ...

    def submit(self, worker_id: int, request: Request) -> None:
        """Sends a request to a worker that is ready."""
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

    def publish(self, report: Mapping[str, Any]) -> None:
        """Shows the entries of a meta-step to whoever watches the cluster, where somebody can."""
        ...

    def close(self) -> None:
        """Ends all."""
        ...
