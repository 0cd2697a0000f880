"""Workers that are functions of this process, on a clock that stands still unless somebody waits."""

import dataclasses
import heapq
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax

from meta_train.executors.interface import Answered, Died, Event, Ready, Started
from meta_train.executors.messages import Answer, Facts, Request
from meta_train.executors.worker import SlotWorker

SECONDS_PER_TRUNCATION = 1.0


class Clock:
    """Seconds that pass only in `FakePool.poll`."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@dataclasses.dataclass
class FakeWorker:
    """What the pool and the faults know of one."""

    worker_id: int
    place: int
    slots: SlotWorker
    num_calls: int = 0
    free_at: float = 0.0
    alive: bool = True
    slowness: float = 1.0
    seen: list[Request] = dataclasses.field(default_factory=list)


class Call(NamedTuple):
    """A request that has been carried out, before its answer is sent."""

    pool: "FakePool"
    worker: FakeWorker
    request: Request
    answer: Answer

    def die(self, reason="killed"):
        """The worker dies instead of answering."""
        self.pool.die(self.worker, reason)


Fault = Callable[[Call], Answer | None]
"""What is sent for the answer; `None` = nothing, ever."""


class FakePool:
    """Real slots, real messages; the processes, the network and the time are not."""

    def __init__(self, config, programs, *, fault: Fault | None = None, start_seconds: float = 1.0):
        self.clock = Clock()
        self.workers: dict[int, FakeWorker] = {}
        self.closed = False
        self.no_room: set[int] = set()  # places
        self._config, self._programs, self._start_seconds = config, programs, start_seconds
        self.fault = fault
        self.versions: dict[str, str] = {}
        self._events: list[tuple[float, int, Event]] = []
        self._count = itertools.count()

    def start(self, worker_id, place):
        assert worker_id not in self.workers
        assert all(w.place != place or not w.alive for w in self.workers.values())
        worker = FakeWorker(worker_id, place, SlotWorker(self._config, self._programs))
        self.workers[worker_id] = worker
        if place not in self.no_room:
            self.make_room(worker)

    def make_room(self, worker):
        """What a worker waits for whose place is in `no_room`."""
        facts = Facts(1000 + worker.worker_id, "here", "cpu", self.versions, self._start_seconds)
        self.later(0.1, Started(worker.worker_id))
        self.later(self._start_seconds, Ready(worker.worker_id, facts))

    def submit(self, worker_id, request):
        worker = self.workers[worker_id]
        worker.num_calls += 1
        worker.seen.append(request)
        if not worker.alive:
            return
        answer = worker.slots.carry_out(request)
        slots = {
            slot: a._replace(seconds=a.num_truncations * SECONDS_PER_TRUNCATION * worker.slowness)
            for slot, a in answer.slots.items()
        }
        answer = answer._replace(slots=slots)
        if self.fault is not None:
            answer = self.fault(Call(self, worker, request, answer))
        if answer is not None:
            worker.free_at = max(worker.free_at, self.clock.now) + sum(a.seconds for a in slots.values())
            self.later(worker.free_at - self.clock.now, Answered(worker_id, answer))

    def poll(self, timeout):
        if not self._events or self._events[0][0] > self.clock.now + timeout:
            self.clock.now += timeout
            return []
        self.clock.now = max(self.clock.now, self._events[0][0])
        events = []
        while self._events and self._events[0][0] <= self.clock.now:
            events.append(heapq.heappop(self._events)[2])
        return events

    def end(self, worker_id):
        self.workers[worker_id].alive = False

    def close(self):
        self.closed = True

    def later(self, seconds, event):
        heapq.heappush(self._events, (self.clock.now + seconds, next(self._count), event))

    def die(self, worker, reason="killed", seconds=0.5):
        """The process of a worker dies, soon."""
        worker.alive = False
        self.later(seconds, Died(worker.worker_id, reason))


def change_gradients(answer, change):
    """The same answer with other gradients."""
    slots = {
        slot: a._replace(result=a.result._replace(gradient=jax.tree.map(change, a.result.gradient)))
        for slot, a in answer.slots.items()
    }
    return answer._replace(slots=slots)
