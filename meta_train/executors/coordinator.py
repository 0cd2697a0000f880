"""The executor whose slots are on workers that may die, hang, be slow, or answer what cannot be right."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import jax
import numpy as np

from meta_train.config import MetaTrainConfig
from meta_train.errors import ExecutorError
from meta_train.executors.assignment import Costs, choose, plan_moves
from meta_train.executors.base import SlotResult
from meta_train.executors.checks import is_finite, problem_of, same_numbers
from meta_train.executors.crew import Crew, Member
from meta_train.executors.messages import Answer, Order, Request, SlotAnswer
from meta_train.executors.options import WorkerOptions
from meta_train.executors.pool import WorkerPool
from meta_train.executors.tally import Tally
from meta_train.recovery import History, Recovery
from meta_train.slot import SlotState
from mulo.optimizers.base import PyTree, Theta

_ROUND_BYTES = 64 * 2**20
"""Of states that one worker sends at once, where all are asked for."""

_MAX_OPINIONS = 3


@dataclasses.dataclass
class _Round:
    """What all slots, or some, are asked once."""

    meta_step: int
    theta: Theta | None  # None: only for their states
    slots: tuple[int, ...]
    return_states: frozenset[int]
    answers: dict[int, SlotAnswer] = dataclasses.field(default_factory=dict)
    in_flight: dict[int, int] = dataclasses.field(default_factory=dict)  # slot -> worker
    suspects: dict[int, list[tuple[int, SlotAnswer]]] = dataclasses.field(default_factory=dict)

    def open_slots(self) -> list[int]:
        """Those that nobody is working on."""
        return [slot for slot in self.slots if slot not in self.answers and slot not in self.in_flight]


class DistributedExecutor:
    """Workers own slots; whatever happens to them, the answers are those of the local executor, bit for bit.

    A slot whose worker is lost is made again by another one, from a snapshot and the thetas since. Answers
    that are late, double or misshapen are dropped; gradients that are not finite are believed when a
    second worker finds the same.
    """

    def __init__(
        self,
        config: MetaTrainConfig,
        pool: WorkerPool,
        options: WorkerOptions,
        *,
        say: Callable[[str], None],
        state_shapes: dict[str, PyTree],
        stop: Callable[[], bool] = lambda: False,
        versions: dict[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Begins to start the workers; waits for none.

        Args:
          config: decides the slots.
          pool: runs the workers; is closed with the executor.
          options: how many, and how patient.
          say: is told, in one line, of all that goes wrong.
          state_shapes: of each task's slots: trees of arrays or `jax.ShapeDtypeStruct`.
          stop: whether the run has been asked to stop.
          versions: see `Crew`.
          clock: seconds, monotonic.
        """
        self._tasks = config.slots()
        self._state_shapes = state_shapes
        self._options, self._say, self._clock = options, say, clock
        self._recovery = Recovery(config)
        self._costs = Costs(self._tasks)
        self._owner: dict[int, int] = {}  # slot -> worker
        self._position: dict[int, int] = {}  # slot -> the meta-step that its worker has it ready for
        self._moves: dict[int, int] = {}  # slot -> worker that is to have it
        self._round: _Round | None = None
        self._next_meta_step, self._next_call = 0, 0
        self._gathered = False
        self._tally = Tally(config)
        self._crew = Crew(
            pool, options, say=say, stop=stop, on_lost=self._lose_slots, versions=versions, clock=clock
        )

    def advance(self, theta: Theta, meta_step: int) -> list[SlotResult]:
        """See `meta_train.executors.base.Executor`."""
        began, waited = self._clock(), self._crew.wait_seconds
        if not self._gathered:
            self._crew.gather()
            self._gathered = True
        theta = jax.tree.map(np.asarray, theta)
        self._tally.begin()
        self._recovery.keep_theta(meta_step, theta)
        self._make_moves(meta_step)
        slots = tuple(range(len(self._tasks)))
        round_ = _Round(meta_step, theta, slots, self._due(meta_step) | frozenset(self._moves))
        answers = self._complete(round_)
        self._next_meta_step = meta_step + 1
        self._crew.progress()
        self._moves = self._moves or self._plan_moves()
        seconds, waited = self._clock() - began, self._crew.wait_seconds - waited
        self._tally.end(seconds, waited, self._places(), self._owner, self._crew.restarts)
        self._crew.publish(self._tally.report())
        return [answers[slot].result for slot in slots]

    def snapshot(self) -> list[SlotState]:
        """See `meta_train.executors.base.Executor`."""
        states = {}
        for part in self._parts():
            answers = self._complete(_Round(self._next_meta_step, None, part, frozenset(part)))
            states |= {slot: answers[slot].state for slot in part}
        return [states[slot] for slot in range(len(self._tasks))]

    def known_states(self, meta_step: int) -> tuple[list[SlotState | None], History]:
        """See `meta_train.executors.base.Executor`."""
        return self._recovery.known_states(meta_step)

    def restore(
        self, slot_states: list[SlotState | None], meta_step: int, history: History | None = None
    ) -> None:
        """See `meta_train.executors.base.Executor`."""
        self._recovery.restore(slot_states, meta_step, history)
        self._next_meta_step = meta_step
        self._owner, self._position, self._moves = {}, {}, {}

    def report(self) -> dict[str, Any]:
        """See `meta_train.executors.base.Executor`."""
        return self._tally.report() | {"snapshot_bytes": self._recovery.num_bytes()}

    def __enter__(self) -> "DistributedExecutor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self._crew.close()

    def _due(self, meta_step: int) -> frozenset[int]:
        """Slots of which a snapshot is taken now: each every S meta-steps, in turn."""
        interval = self._options.snapshot_interval
        return frozenset(slot for slot in range(len(self._tasks)) if (meta_step + slot) % interval == 0)

    def _parts(self) -> Iterable[tuple[int, ...]]:
        """All slots, in parts whose states are sent together."""
        parts: list[list[int]] = [[]]
        size = 0
        for slot, task in enumerate(self._tasks):
            size += _num_bytes(self._state_shapes[task])
            if parts[-1] and size > _ROUND_BYTES * max(1, len(self._crew.ready())):
                parts.append([])
                size = _num_bytes(self._state_shapes[task])
            parts[-1].append(slot)
        return [tuple(part) for part in parts]

    def _places(self) -> dict[int, int]:
        return {worker_id: member.place for worker_id, member in self._crew.ready().items()}

    def _complete(self, round_: _Round) -> dict[int, SlotAnswer]:
        """Asks until every slot of the round has an answer."""
        self._round = round_
        while len(round_.answers) < len(round_.slots):
            self._hand_out(round_)
            for member, request, answer in self._crew.poll():
                self._take(round_, member, request, answer)
        self._round = None
        after = round_.meta_step + (round_.theta is not None)
        for slot, answer in round_.answers.items():
            # Not before the round is through: until then every slot is to be had as it was before it.
            if answer.state is not None:
                self._recovery.keep_state(slot, after, answer.state)
        return round_.answers

    def _hand_out(self, round_: _Round) -> None:
        """Gives every open slot to a worker: to the one that has it, or to the least busy."""
        ready = self._crew.ready()
        by_worker: dict[int, list[int]] = {}
        for slot in sorted(round_.open_slots(), key=lambda s: -self._costs.slot(s)):
            if self._owner.get(slot) not in ready:
                worker_id = self._find_worker(round_, slot, ready)
                if worker_id is None:
                    continue
                self._owner[slot] = worker_id
                self._position.pop(slot, None)
            by_worker.setdefault(self._owner[slot], []).append(slot)
        owned: dict[int, set[int]] = {worker_id: set() for worker_id in by_worker}
        for slot, worker_id in self._owner.items():
            if worker_id in owned:
                owned[worker_id].add(slot)
        for worker_id, slots in by_worker.items():
            if self._crew.has(worker_id):
                self._send(round_, ready[worker_id], sorted(slots), frozenset(owned[worker_id]))

    def _find_worker(self, round_: _Round, slot: int, ready: dict[int, Member]) -> int | None:
        """The least busy worker that has not given an opinion on this slot."""
        asked = {worker_id for worker_id, _ in round_.suspects.get(slot, [])}
        others = ready.keys() - asked
        if others:
            return choose(self._costs, self._owner, others, slot)
        for worker_id in filter(self._crew.has, asked & ready.keys()):
            reason = f"the gradient of slot {slot} is not finite, and only a new process can look at it again"
            self._crew.dismiss(ready[worker_id], reason, failed=False)
        return None

    def _send(self, round_: _Round, member: Member, slots: list[int], owned: frozenset[int]) -> None:
        orders = []
        for slot in slots:
            start = None
            if self._position.get(slot) != round_.meta_step:
                start = self._recovery.start(slot, round_.meta_step, to_advance=round_.theta is not None)
                self._tally.replays += len(start.thetas)
            orders.append(Order(slot, start, slot in round_.return_states))
            round_.in_flight[slot] = member.worker_id
        request = Request(self._next_call, round_.meta_step, round_.theta, tuple(orders), owned)
        self._next_call += 1
        self._crew.submit(member, request, self._expected_seconds(member, request))

    def _expected_seconds(self, member: Member, request: Request) -> float | None:
        total = 0.0
        for order in request.orders:
            truncations = (len(order.start.thetas) if order.start else 0) + (request.theta is not None)
            seconds = self._costs.expected_seconds(member.worker_id, order.slot_index)
            if truncations and seconds is None:
                return None
            total += truncations * (seconds or 0.0)
        return total

    def _take(self, round_: _Round, member: Member, request: Request | None, answer: Answer) -> None:
        """Takes what is right in an answer."""
        if request is None or request.meta_step != round_.meta_step or not self._crew.has(member.worker_id):
            self._tally.dropped += 1
            return
        theta = request.theta if request.theta is not None else {}
        problem = problem_of(answer, request, theta, lambda slot: self._state_shapes[self._tasks[slot]])
        if problem is not None:
            self._crew.quarantine(member.worker_id, problem)
            return
        self._observe(member, answer)
        for slot, slot_answer in answer.slots.items():
            if slot in round_.answers or round_.in_flight.get(slot) != member.worker_id:
                self._tally.dropped += 1
                continue
            del round_.in_flight[slot]
            if request.theta is None or is_finite(slot_answer.result):
                self._accept(round_, slot, member.worker_id, slot_answer)
                self._blame(round_, slot, but=None)
            else:
                self._doubt(round_, slot, member, slot_answer)

    def _observe(self, member: Member, answer: Answer) -> None:
        counted = {slot: a for slot, a in answer.slots.items() if a.num_truncations}
        if not counted:
            return
        self._costs.observe(member.worker_id, {s: a.seconds / a.num_truncations for s, a in counted.items()})
        self._tally.observe(member.place, counted)

    def _accept(self, round_: _Round, slot: int, worker_id: int, answer: SlotAnswer) -> None:
        # A copy: the arrays may lie in the memory that workers share, which is small; the state is kept.
        round_.answers[slot] = answer._replace(state=jax.tree.map(np.array, answer.state))
        after = round_.meta_step + (round_.theta is not None)
        self._owner[slot], self._position[slot] = worker_id, after

    def _doubt(self, round_: _Round, slot: int, member: Member, answer: SlotAnswer) -> None:
        """A gradient that is not finite counts when another worker has found the same."""
        suspects = round_.suspects.setdefault(slot, [])
        for _, other in suspects:
            if same_numbers(other.result, answer.result):
                self._accept(round_, slot, member.worker_id, answer)
                self._blame(round_, slot, but=other)
                return
        suspects.append((member.worker_id, answer))
        if len(suspects) >= _MAX_OPINIONS:
            raise ExecutorError(
                f"Slot {slot}, meta-step {round_.meta_step}: {len(suspects)} workers have computed gradients "
                "that are not finite, and all different: the same program gives different bits here."
            )
        self._say(
            f"{member.name}: the gradient of slot {slot} at meta-step {round_.meta_step} is not finite; "
            "it is computed again elsewhere"
        )
        self._owner.pop(slot, None)
        self._position.pop(slot, None)

    def _blame(self, round_: _Round, slot: int, *, but: SlotAnswer | None) -> None:
        """Quarantines those whose opinion on a slot has turned out to be wrong."""
        for worker_id, answer in round_.suspects.pop(slot, []):
            right = but is not None and same_numbers(answer.result, but.result)
            if self._crew.has(worker_id) and not right:
                reason = f"the gradient of slot {slot} at meta-step {round_.meta_step} was not finite, "
                self._crew.quarantine(worker_id, reason + "and elsewhere it is")

    def _lose_slots(self, worker_id: int) -> None:
        """A worker is no more."""
        for slot in [slot for slot, owner in self._owner.items() if owner == worker_id]:
            del self._owner[slot]
            self._position.pop(slot, None)
        self._moves = {slot: to for slot, to in self._moves.items() if to != worker_id}
        if self._round is not None:
            flying = self._round.in_flight
            self._round.in_flight = {slot: w for slot, w in flying.items() if w != worker_id}

    def _plan_moves(self) -> dict[int, int]:
        """Where slots should go: their states are asked for in the next meta-step, then they move."""
        ready = self._crew.ready()
        owner = {slot: worker_id for slot, worker_id in self._owner.items() if worker_id in ready}
        self._costs.fade(ready.keys() - set(owner.values()))
        return plan_moves(self._costs, owner, ready.keys()) if ready else {}

    def _make_moves(self, meta_step: int) -> None:
        """Moves the slots whose states came with the last meta-step; the others have to wait for theirs."""
        ready = self._crew.ready()
        for slot, worker_id in list(self._moves.items()):
            if worker_id in ready and self._recovery.is_current(slot, meta_step):
                self._owner[slot] = worker_id
                self._position.pop(slot, None)
                self._tally.moves += 1
                del self._moves[slot]


def _num_bytes(tree: PyTree) -> int:
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
