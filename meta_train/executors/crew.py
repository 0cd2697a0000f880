"""The workers of a run: started, watched, ended and replaced. Knows nothing of slots, only of calls."""

import dataclasses
import math
import time
from collections.abc import Callable

from meta_train.errors import ExecutorError, InterruptedMetaStepError
from meta_train.executors.interface import Answered, Died, Event, Ready, Started, WorkerPool
from meta_train.executors.messages import Answer, Facts, Request
from meta_train.executors.options import WorkerOptions

_POLL_SECONDS = 0.5
"""How often deadlines are looked at while nothing happens."""

_GATHER_SECONDS = 30.0
"""At the beginning, workers that are still compiling are waited for, so long after there are enough."""

_STOP_SECONDS = 20.0
"""After a signal, the meta-step under way has so long to come to its end."""

_MAX_PAUSE_SECONDS = 30.0
"""Before a worker is started in a place where others were lost."""


@dataclasses.dataclass
class Member:
    """A worker, from its start to its end."""

    worker_id: int
    place: int  # from 0 on; a replacement has the place of the worker that it replaces
    facts: Facts | None = None  # None = not ready yet
    refused: bool = False  # keeps its place and its device, and is asked nothing
    request: Request | None = None  # that it has not answered
    since: float = 0.0  # clock: when it began what it is waited for
    patience: float = math.inf  # seconds after which it is taken to hang; infinite while nothing is awaited

    @property
    def name(self) -> str:
        """For people."""
        where = f", process {self.facts.pid} on {self.facts.node}" if self.facts else ""
        return f"worker {self.place} (no. {self.worker_id}{where})"


class Crew:
    """Keeps as many workers going as are wanted, and says which can be asked."""

    def __init__(
        self,
        pool: WorkerPool,
        options: WorkerOptions,
        *,
        say: Callable[[str], None],
        stop: Callable[[], bool],
        versions: dict[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Begins to start the workers.

        Args:
          pool: where they run.
          options: how many, and how long they may take.
          say: is told, in one line, of everything that happens to a worker.
          stop: whether the run has been asked to stop.
          versions: of what can decide bits, here; workers with others are refused.
          clock: seconds, monotonic.
        """
        self._pool, self._options, self._say = pool, options, say
        self._stop, self._versions, self._clock = stop, versions, clock
        self._members: dict[int, Member] = {}
        self._failures = [0] * options.num_workers  # by place, since a meta-step ended with a worker in it
        self._not_before = [0.0] * options.num_workers  # by place; clock
        self._lost_in_a_row = 0  # workers, since the last meta-step that came to its end
        self._least = options.min_workers or 1
        self._next_id = 0
        self._stop_seen: float | None = None
        self._short_since: float | None = None
        self._was_ready = False  # some worker was
        self.restarts = self.dropped_answers = 0
        self.wait_seconds = 0.0  # in `poll`, in all
        self._keep_up()

    def ready(self) -> dict[int, Member]:
        """Those that can be asked, by id; none while there are fewer than --min-workers."""
        ready = self._present()
        return ready if len(ready) >= self._least else {}

    def _present(self) -> dict[int, Member]:
        return {i: m for i, m in self._members.items() if m.facts is not None and not m.refused}

    def gather(self) -> None:
        """Waits until all workers that have room are ready; when there are enough to begin, not for long."""
        enough_since: float | None = None
        while True:
            if self.ready():
                enough_since = self._clock() if enough_since is None else enough_since
                starting = any(m.facts is None and m.patience < math.inf for m in self._members.values())
                if not starting or self._clock() - enough_since > _GATHER_SECONDS:
                    return
            self.poll()

    def submit(self, member: Member, request: Request, patience: float | None) -> None:
        """Sends a request to a worker that has answered all before.

        Args:
          member: one of those that are ready.
          request: what it is to do.
          patience: seconds until it is taken to hang; `None` where it is not known how long it may take.
        """
        member.request, member.since = request, self._clock()
        member.patience = self._options.start_timeout if patience is None else patience
        self._pool.submit(member.worker_id, request)

    def poll(self) -> list[tuple[Member, Request, Answer]]:
        """Waits a little for answers: who, to what, what. Late and double ones are dropped.

        Raises:
          ExecutorError: too many workers are lost.
          InterruptedMetaStepError: a signal came, and the meta-step takes too long.
        """
        self._check_stop()
        began = self._clock()
        events = self._pool.poll(_POLL_SECONDS)
        self.wait_seconds += self._clock() - began
        answers = [answer for event in events if (answer := self._handle(event)) is not None]
        now = self._clock()
        for member in list(self._members.values()):
            if now - member.since > member.patience:
                what = "ready" if member.facts is None else "an answer"
                self.lose(member, f"it hangs: not {what} after {now - member.since:.1f} s")
        self._keep_up()
        self._check_strength()
        return answers

    def end_meta_step(self) -> None:
        """A meta-step has come to its end: what its workers failed in before is forgiven."""
        self._lost_in_a_row = 0
        for member in self._present().values():
            self._failures[member.place] = 0

    def lose(self, member: Member, reason: str) -> None:
        """Ends a worker; another takes its place, at once or, where one was lost before, after a pause.

        Raises:
          ExecutorError: too many are lost.
        """
        if self._members.pop(member.worker_id, None) is None:
            return
        self._pool.end(member.worker_id)
        self._say(f"{member.name} is lost: {reason}")
        self.restarts += 1
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= max(5, 3 * len(self._failures)):
            raise ExecutorError(
                f"{self._lost_in_a_row} workers were lost one after the other, without a meta-step in "
                f"between. The last, {member.name}: {reason}"
            )
        failures = self._failures[member.place] = self._failures[member.place] + 1
        pause = 0.0 if failures < 2 else min(_MAX_PAUSE_SECONDS, 2.0 ** (failures - 2))
        self._not_before[member.place] = self._clock() + pause

    def close(self) -> None:
        """Ends all."""
        self._pool.close()

    def _handle(self, event: Event) -> tuple[Member, Request, Answer] | None:
        member = self._members.get(event.worker_id)
        if member is None or member.refused:
            return None  # the last words of one that is ended
        match event:
            case Started():
                member.since, member.patience = self._clock(), self._options.start_timeout
            case Ready(facts=facts):
                self._welcome(member, facts)
            case Died(reason=reason, hopeless=True):
                self._refuse(member, f"{member.name} failed, and any other would: {reason}")
            case Died(reason=reason):
                self.lose(member, reason)
            case Answered(answer=answer):
                return self._settle(member, answer)
        return None

    def _welcome(self, member: Member, facts: Facts) -> None:
        member.facts, member.patience = facts, math.inf
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

    def _refuse(self, member: Member, reason: str) -> None:
        """A worker cannot take part, nor could another: no other is begun on its device.

        Raises:
          ExecutorError: it is the first that would have been ready, or all places have refused ones.
        """
        member.refused, member.patience = True, math.inf
        if not self._was_ready or sum(m.refused for m in self._members.values()) == len(self._failures):
            raise ExecutorError(reason)
        self._say(f"{member.name} is refused, and its device with it: {reason}")

    def _settle(self, member: Member, answer: Answer) -> tuple[Member, Request, Answer] | None:
        """The request that is answered. What is no answer at all is taken for one, and looked at."""
        request = member.request
        if request is None or (isinstance(answer, Answer) and answer.call_id != request.call_id):
            self.dropped_answers += 1
            return None
        member.request, member.patience = None, math.inf
        return member, request, answer

    def _keep_up(self) -> None:
        """Starts whoever is missing; after a signal nobody."""
        if self._stop():
            return
        taken = {member.place for member in self._members.values()}
        for place, not_before in enumerate(self._not_before):
            if place not in taken and self._clock() >= not_before:
                worker_id, self._next_id = self._next_id, self._next_id + 1
                self._members[worker_id] = Member(worker_id, place)
                self._pool.start(worker_id, place)

    def _check_strength(self) -> None:
        """Gives up when there have been too few workers for too long."""
        if self.ready():
            self._short_since = None
            return
        self._short_since = self._clock() if self._short_since is None else self._short_since
        if self._clock() - self._short_since > self._options.start_timeout:
            raise ExecutorError(
                f"{len(self._present())} of at least {self._least} workers are there after "
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
