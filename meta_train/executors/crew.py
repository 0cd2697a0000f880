"""The workers of a run: started, watched, ended and replaced. Knows nothing of slots, only of calls."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from meta_train.errors import ExecutorError, InterruptedMetaStepError
from meta_train.executors.messages import Answer, Facts, Request
from meta_train.executors.options import WorkerOptions
from meta_train.executors.pool import Answered, Died, Event, Ready, Started, WorkerPool

_POLL_SECONDS = 0.5
"""How often deadlines are looked at while nothing happens."""

_PATIENCE = 10.0
"""A call may take so many times what it is expected to take; never less than --worker-timeout."""

_GATHER_SECONDS = 30.0
"""At the beginning, workers that are still compiling are waited for, so long after the first is ready."""

_STOP_SECONDS = 20.0
"""After a signal, the meta-step under way has so long to come to its end."""

_MAX_BACKOFF_SECONDS = 30.0


class Call(NamedTuple):
    """A request that has not been answered."""

    request: Request
    expected_seconds: float | None  # None = not known


@dataclasses.dataclass
class Member:
    """A worker, from its start to its end."""

    worker_id: int
    place: int  # from 0 on; a replacement has the place of the worker that it replaces
    since: float  # clock: when its start, or its oldest call that is not answered, began
    facts: Facts | None = None  # None = not ready yet
    calls: deque[Call] = dataclasses.field(default_factory=deque)
    running: bool = False  # its process is there
    idle: bool = False  # quarantined for good: keeps its device, is asked nothing

    @property
    def name(self) -> str:
        """For people."""
        where = f", process {self.facts.pid} on {self.facts.node}" if self.facts else ""
        return f"worker {self.place} (no. {self.worker_id}{where})"


@dataclasses.dataclass
class _Place:
    failures: int = 0  # since the last meta-step that came to its end
    not_before: float = 0.0  # clock
    offences: int = 0  # answers that could not be right


class Crew:
    """Keeps as many workers going as are wanted, and says which can be asked."""

    def __init__(
        self,
        pool: WorkerPool,
        options: WorkerOptions,
        *,
        say: Callable[[str], None],
        stop: Callable[[], bool],
        on_lost: Callable[[int], None],
        versions: dict[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Begins to start the workers.

        Args:
          pool: where they run.
          options: how many, and how long they may take.
          say: is told, in one line, of everything that happens to a worker.
          stop: whether the run has been asked to stop.
          on_lost: is told the id of each worker that is no more.
          versions: of what can decide bits, here; workers with others are refused.
          clock: seconds, monotonic.
        """
        self._pool, self._options, self._say = pool, options, say
        self._stop, self._on_lost, self._versions, self._clock = stop, on_lost, versions, clock
        self._members: dict[int, Member] = {}
        self._places = [_Place() for _ in range(options.num_workers)]
        self._next_id = 0
        self._stop_seen: float | None = None
        self._short_since: float | None = None
        self._least = options.min_workers or 1
        self._was_ready = False  # some worker was
        self.restarts = 0
        self.wait_seconds = 0.0  # in `poll`, in all
        self._keep_up()

    def ready(self) -> dict[int, Member]:
        """Those that can be asked, by id; none while there are fewer than --min-workers."""
        ready = {i: m for i, m in self._members.items() if m.facts is not None and not m.idle}
        return ready if len(ready) >= self._least else {}

    def has(self, worker_id: int) -> bool:
        """Whether a worker is there and can be trusted."""
        return worker_id in self._members and not self._members[worker_id].idle

    def gather(self) -> None:
        """Waits until all that are starting are ready, though not for long, and not for what has no room."""
        first_ready: float | None = None
        settled = self._clock() + 2 * _POLL_SECONDS
        while True:
            starting = [m for m in self._members.values() if m.facts is None and m.running]
            if self.ready() and first_ready is None:
                first_ready = self._clock()
            if first_ready is not None:
                over = self._clock() - first_ready > _GATHER_SECONDS
                unsettled = len(self.ready()) < len(self._places) and self._clock() < settled
                if over or not (starting or unsettled):
                    return
            self.poll()

    def submit(self, member: Member, request: Request, expected_seconds: float | None) -> None:
        """Sends a request."""
        if not member.calls:
            member.since = self._clock()
        member.calls.append(Call(request, expected_seconds))
        self._pool.submit(member.worker_id, request)

    def poll(self) -> list[tuple[Member, Request | None, Answer]]:
        """Waits a little for answers: who, the request (`None` if nothing like it is open), the answer.

        Raises:
          ExecutorError: too many workers are lost.
          InterruptedMetaStepError: a signal came, and the meta-step takes too long.
        """
        self._check_stop()
        began = self._clock()
        events = self._pool.poll(_POLL_SECONDS)
        self.wait_seconds += self._clock() - began
        answers = [answer for event in events if (answer := self._handle(event)) is not None]
        self._end_overdue()
        self._keep_up()
        self._check_strength()
        return answers

    def progress(self) -> None:
        """A meta-step has come to its end: failures until now are forgiven."""
        for place in self._places:
            place.failures = 0

    def dismiss(self, member: Member, reason: str, *, failed: bool = True) -> None:
        """Ends a worker; another takes its place."""
        self._pool.end(member.worker_id)
        self._lose(member, reason, failed=failed)

    def quarantine(self, worker_id: int, reason: str) -> None:
        """Ends a worker whose answers cannot be right; at the second offence its place stays empty.

        Then its process is left alone, so that it keeps the device that may be the cause.
        """
        member = self._members[worker_id]
        place = self._places[member.place]
        place.offences += 1
        if place.offences == 1:
            self.dismiss(member, f"quarantined: {reason}", failed=False)
            return
        self._say(f"{member.name} is quarantined for good, with its device: {reason}")
        self._retire(member, reason)

    def publish(self, report: dict[str, Any]) -> None:
        """Shows what a meta-step was like to whoever watches the cluster."""
        self._pool.publish(report)

    def close(self) -> None:
        """Ends all."""
        self._pool.close()

    def _refuse(self, member: Member, reason: str) -> None:
        """A worker cannot take part, nor could any other in its place. The first one ends the run."""
        if not self._was_ready:
            raise ExecutorError(reason)
        self._say(f"{member.name} is refused, and its device with it: {reason}")
        self._retire(member, reason)

    def _retire(self, member: Member, reason: str) -> None:
        """Asks nothing more of a worker, and leaves its process alone: no other is begun on its device."""
        self._places[member.place].offences = 2
        member.idle = True
        self._on_lost(member.worker_id)
        self._least = min(self._least, max(1, sum(p.offences < 2 for p in self._places)))
        if all(p.offences >= 2 for p in self._places):
            raise ExecutorError(f"No worker is left that can be trusted. The last: {reason}")

    def _handle(self, event: Event) -> tuple[Member, Request | None, Answer] | None:
        member = self._members.get(event.worker_id)
        if member is None or member.idle:
            return None  # the last words of one that is ended
        match event:
            case Started():
                member.running, member.since = True, self._clock()
            case Ready(facts=facts):
                self._welcome(member, facts)
            case Died(reason=reason, hopeless=hopeless):
                if hopeless:
                    self._refuse(member, f"{member.name} failed, and any other would: {reason}")
                    return None
                self._pool.end(member.worker_id)
                self._lose(member, reason)
            case Answered(answer=answer):
                return member, self._settle(member, answer), answer
        return None

    def _welcome(self, member: Member, facts: Facts) -> None:
        member.facts, member.running = facts, True
        if self._versions is not None and facts.versions != self._versions:
            self._refuse(
                member,
                f"{member.name} has {facts.versions}, and the driver {self._versions}: theta would depend on "
                "who computes what. Install the same versions everywhere.",
            )
            return
        self._was_ready = True
        kinds = {m.facts.device_kind for m in self._members.values() if m.facts}
        self._say(f"{member.name} is ready: {facts.device_kind}, {facts.seconds:.1f} s to read and compile")
        if len(kinds) > 1:
            self._say(f"The workers have different devices ({', '.join(sorted(kinds))}): bits may differ")

    def _settle(self, member: Member, answer: Answer) -> Request | None:
        """Takes the request that is answered off the list; it is normally the oldest."""
        for call in member.calls:
            # What is no answer at all is taken for one to the oldest, so that it is looked at.
            if not isinstance(answer, Answer) or call.request.call_id == answer.call_id:
                member.calls.remove(call)
                member.since = self._clock()
                return call.request
        return None

    def _lose(self, member: Member, reason: str, *, failed: bool = True) -> None:
        del self._members[member.worker_id]
        place = self._places[member.place]
        if failed:
            place.failures += 1
            failures = sum(p.failures for p in self._places)
            if failures >= max(5, 3 * len(self._places)):
                raise ExecutorError(
                    f"{failures} workers were lost one after the other, without a meta-step in between. The "
                    f"last, {member.name}: {reason}"
                )
            delay = 0.0 if place.failures < 2 else min(_MAX_BACKOFF_SECONDS, 2.0 ** (place.failures - 2))
            place.not_before = self._clock() + delay
        self._say(f"{member.name} is lost: {reason}")
        self.restarts += 1
        self._on_lost(member.worker_id)

    def _end_overdue(self) -> None:
        now = self._clock()
        for member in list(self._members.values()):
            limit = self._limit(member)
            if limit is not None and now - member.since > limit:
                what = "ready" if member.facts is None else "an answer"
                self.dismiss(member, f"it hangs: not {what} after {now - member.since:.1f} s")

    def _limit(self, member: Member) -> float | None:
        """Seconds until a worker is taken to hang; `None` while nothing is asked of it."""
        if member.idle or not member.running:
            return None
        if member.facts is None:
            return self._options.start_timeout
        if not member.calls:
            return None
        expected = member.calls[0].expected_seconds
        if expected is None:
            return self._options.start_timeout
        return max(self._options.worker_timeout, _PATIENCE * expected)

    def _keep_up(self) -> None:
        """Starts whoever is missing; after a signal nobody."""
        if self._stop():
            return
        taken = {member.place for member in self._members.values()}
        for index, place in enumerate(self._places):
            if index in taken or place.offences >= 2 or self._clock() < place.not_before:
                continue
            worker_id, self._next_id = self._next_id, self._next_id + 1
            self._members[worker_id] = Member(worker_id, index, self._clock())
            self._pool.start(worker_id, index)

    def _check_strength(self) -> None:
        """Gives up when there have been too few workers for too long."""
        if self.ready():
            self._short_since = None
            return
        self._short_since = self._clock() if self._short_since is None else self._short_since
        if self._clock() - self._short_since > self._options.start_timeout:
            num_ready = sum(m.facts is not None and not m.idle for m in self._members.values())
            raise ExecutorError(
                f"{num_ready} of at least {self._least} workers are there after "
                f"{self._options.start_timeout:.0f} s of waiting."
            )

    def _check_stop(self) -> None:
        if not self._stop():
            return
        self._stop_seen = self._clock() if self._stop_seen is None else self._stop_seen
        if self._clock() - self._stop_seen > _STOP_SECONDS:
            raise InterruptedMetaStepError(
                f"The meta-step under way was not at its end {_STOP_SECONDS:.0f} s later."
            )
