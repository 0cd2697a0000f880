"""The executor whose slots are on workers that may die, hang, come late, or answer what cannot be right."""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import jax
import numpy as np

from meta_train.config import MetaTrainConfig
from meta_train.executors.crew import Crew, Member
from meta_train.executors.interface import WorkerPool
from meta_train.executors.messages import Answer, History, Order, Request, SlotAnswer, SlotResult
from meta_train.executors.options import WorkerOptions
from meta_train.executors.recovery import Recovery
from meta_train.slot import SlotState
from mulo.optimizers.base import PyTree, Theta

_PATIENCE = 10.0
"""A call may take so many times what it would at the pace of the slowest slot of the meta-step before."""


@dataclasses.dataclass
class _Round:
    """What all slots, or some, are asked once."""

    meta_step: int
    theta: Theta | None  # None: only for their states
    slots: range
    return_states: frozenset[int]
    answers: dict[int, SlotAnswer] = dataclasses.field(default_factory=dict)


class DistributedExecutor:
    """Workers own slots; whatever happens to them, the answers are those of the local executor, bit for bit.

    A slot whose worker is lost is made again by another one, from a snapshot and the thetas since. A worker
    has at most one call at a time; an answer to any other is dropped.
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
        self._config, self._options, self._clock = config, options, clock
        self._state_shapes = [state_shapes[task] for task in config.slots()]
        self._slots = range(len(self._state_shapes))
        self._recovery = Recovery(config)
        self._owner: dict[int, int] = {}  # slot -> worker, which may be lost by now
        self._position: dict[int, int] = {}  # slot -> the meta-step that its owner has it ready for
        self._next_meta_step = self._num_calls = self._replays = 0
        self._slowest: float | None = None  # seconds of a truncation, in the last meta-step
        self._gathered = False
        self._report: dict[str, Any] = {}
        self._crew = Crew(pool, options, say=say, stop=stop, versions=versions, clock=clock)

    def advance(self, theta: Theta, meta_step: int) -> list[SlotResult]:
        """See `meta_train.executors.interface.Executor`."""
        began, waited = self._clock(), self._crew.wait_seconds
        if not self._gathered:
            self._crew.gather()
            self._gathered = True
        theta = jax.tree.map(np.asarray, theta)
        self._recovery.keep_theta(meta_step, theta)
        self._release_surplus(meta_step)
        answers = self._complete(_Round(meta_step, theta, self._slots, self._due(meta_step)))
        self._next_meta_step = meta_step + 1
        self._slowest = max(answer.seconds / answer.num_truncations for answer in answers.values())
        self._crew.end_meta_step()
        seconds, waited = self._clock() - began, self._crew.wait_seconds - waited
        self._report = self._describe(answers, seconds, waited)
        return [answers[slot].result for slot in self._slots]

    def snapshot(self) -> list[SlotState]:
        """See `meta_train.executors.interface.Executor`."""
        states, num_at_once = [], max(1, len(self._crew.ready()))  # about one a worker: states may be large
        for first in range(0, len(self._slots), num_at_once):
            part = self._slots[first : first + num_at_once]
            answers = self._complete(_Round(self._next_meta_step, None, part, frozenset(part)))
            states += [answers[slot].state for slot in part]
        return states

    def known_states(self, meta_step: int) -> tuple[list[SlotState | None], History]:
        """See `meta_train.executors.interface.Executor`."""
        return self._recovery.known_states(meta_step)

    def restore(
        self, slot_states: list[SlotState | None], meta_step: int, history: History | None = None
    ) -> None:
        """See `meta_train.executors.interface.Executor`."""
        self._recovery.restore(slot_states, meta_step, history)
        self._next_meta_step, self._owner, self._position = meta_step, {}, {}

    def report(self) -> dict[str, Any]:
        """See `meta_train.executors.interface.Executor`."""
        return self._report

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
        return frozenset(slot for slot in self._slots if (meta_step + slot) % interval == 0)

    def _release_surplus(self, meta_step: int) -> None:
        """Takes from workers what is more than their share, for those that joined.

        Only slots with a snapshot of this very meta-step: then nothing is done again for it. So a new worker
        has its share after one snapshot of every slot.
        """
        share = math.ceil(len(self._slots) / max(1, len(self._crew.ready())))
        load = Counter(self._owner.values())
        for slot, worker_id in list(self._owner.items()):
            if load[worker_id] > share and self._recovery.is_current(slot, meta_step):
                load[worker_id] -= 1
                del self._owner[slot]

    def _complete(self, round_: _Round) -> dict[int, SlotAnswer]:
        """Asks until every slot of the round has an answer."""
        while len(round_.answers) < len(round_.slots):
            self._hand_out(round_)
            for member, request, answer in self._crew.poll():
                self._take(round_, member, request, answer)
        after = round_.meta_step + (round_.theta is not None)
        for slot, answer in round_.answers.items():
            # Not before the round is through: until then every slot is to be had as it was before it.
            if answer.state is not None:
                self._recovery.keep_state(slot, after, answer.state)
        return round_.answers

    def _hand_out(self, round_: _Round) -> None:
        """Gives slots without a worker to those with the fewest, and asks all that have nothing to do."""
        ready = self._crew.ready()
        if not ready:
            return
        owned: dict[int, list[int]] = {worker_id: [] for worker_id in ready}
        free: list[int] = []
        for slot in self._slots:
            owned.get(self._owner.get(slot, -1), free).append(slot)
        for slot in free:
            worker_id = min(owned, key=lambda w: (len(owned[w]), w))
            owned[worker_id].append(slot)
            self._owner[slot] = worker_id
            self._position.pop(slot, None)
        for worker_id, slots in owned.items():
            open_slots = [slot for slot in slots if slot in round_.slots and slot not in round_.answers]
            if open_slots and ready[worker_id].request is None:
                self._send(round_, ready[worker_id], open_slots, frozenset(slots))

    def _send(self, round_: _Round, member: Member, slots: Iterable[int], owned: frozenset[int]) -> None:
        orders, num_truncations = [], 0
        for slot in slots:
            start = None
            if self._position.get(slot) != round_.meta_step:
                start = self._recovery.start(slot, round_.meta_step, to_advance=round_.theta is not None)
                self._replays += len(start.thetas)
            orders.append(Order(slot, start, slot in round_.return_states))
            num_truncations += (len(start.thetas) if start else 0) + (round_.theta is not None)
        request = Request(self._num_calls, round_.meta_step, round_.theta, tuple(orders), owned)
        self._num_calls += 1
        patience = None
        if self._slowest is not None:
            patience = max(self._options.worker_timeout, _PATIENCE * num_truncations * self._slowest)
        self._crew.submit(member, request, patience)

    def _take(self, round_: _Round, member: Member, request: Request, answer: Answer) -> None:
        """Takes an answer, or ends the worker that gave it."""
        problem = _problem_of(answer, request, self._state_shapes)
        if problem is not None:
            self._crew.lose(member, f"its answer cannot be right: {problem}")
            return
        for slot, slot_answer in answer.slots.items():
            # A copy: the arrays may lie in the memory that workers share, which is small; the state is kept.
            round_.answers[slot] = slot_answer._replace(state=jax.tree.map(np.array, slot_answer.state))
            self._position[slot] = round_.meta_step + (round_.theta is not None)

    def _describe(self, answers: dict[int, SlotAnswer], seconds: float, waited: float) -> dict[str, Any]:
        """The entries of the metrics: what the workers did in a meta-step."""
        ready = self._crew.ready()
        slots = {str(place): 0 for place in sorted(member.place for member in ready.values())}
        busy, steps = dict.fromkeys(slots, 0.0), dict.fromkeys(slots, 0)
        for slot, answer in answers.items():
            if self._owner[slot] in ready:
                place = str(ready[self._owner[slot]].place)
                slots[place] += 1
                busy[place] += answer.seconds
                steps[place] += answer.num_truncations * answer.result.num_copies
        steps_of_one = self._config.pairs_per_slot * self._config.truncation_length
        worked = [place for place in slots if slots[place]]
        return {
            "num_workers": len(ready),
            "worker_slots": slots,
            "worker_inner_steps_per_second": {
                place: steps[place] * steps_of_one / max(busy[place], 1e-9) for place in worked
            },
            "worker_busy_fraction": {place: min(1.0, busy[place] / max(seconds, 1e-9)) for place in worked},
            "executor_seconds": seconds,
            "driver_seconds": seconds - waited,  # the driver's own work in the executor
            "restarts": self._crew.restarts,  # these three since the process began
            "replays": self._replays,
            "dropped_answers": self._crew.dropped_answers,
        }


def _problem_of(answer: Any, request: Request, state_shapes: list[PyTree]) -> str | None:
    """What is wrong with an answer, whatever its values are; `None` = nothing."""
    asked = {order.slot_index for order in request.orders}
    if not (isinstance(answer, Answer) and isinstance(answer.slots, dict)):
        return "it is none"
    if answer.meta_step != request.meta_step or set(answer.slots) != asked:
        return f"meta-step {answer.meta_step}, slots {list(answer.slots)} were not asked for"
    for order in request.orders:
        found, advanced = answer.slots[order.slot_index], request.theta is not None
        if not isinstance(found, SlotAnswer) or isinstance(found.result, SlotResult) != advanced:
            return f"slot {order.slot_index} has no result"
        wanted_state = state_shapes[order.slot_index] if order.return_state else None
        pairs = [("state", found.state, wanted_state)]
        if advanced:
            pairs.append(("gradient", found.result.gradient, request.theta))
            if any(np.shape(value) != () for value in jax.tree.leaves(found.result.statistics)):
                return f"the statistics of slot {order.slot_index} are not scalars"
        for name, tree, wanted in pairs:
            if (difference := _difference(tree, wanted)) is not None:
                return f"the {name} of slot {order.slot_index} {difference}"
    return None


def _difference(tree: Any, wanted: PyTree) -> str | None:
    """What tells a tree of arrays from one that has the shapes and dtypes wanted; `None` = nothing."""
    if jax.tree.structure(tree) != jax.tree.structure(wanted):
        return "is another tree than expected"
    for leaf, like in zip(jax.tree.leaves(tree), jax.tree.leaves(wanted), strict=True):
        if np.shape(leaf) != like.shape or np.asarray(leaf).dtype != like.dtype:
            got = f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}"
            return f"has a leaf {got}; wanted {like.dtype}{list(like.shape)}"
    return None
