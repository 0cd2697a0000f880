"""Which worker has which slots: by the measured time of each task and the measured speed of each worker."""

from collections.abc import Collection, Mapping, Sequence

_SMOOTHING = 0.3
"""Weight of the newest measurement."""

_WORTHWHILE = 0.85
"""A slot moves if its worker then needs at most this much of its time."""

_LEAST_GAIN_SECONDS = 0.01
"""Nothing moves for less: what is quicker than that is mostly noise."""

_MAX_TARGETS = 8
"""Slots move to one of so many workers, those that are through first."""

_OUTLIER = 4.0
"""One measurement counts as at most so many times the mean so far, and at least as that part of it."""

_FORGIVENESS = 0.95
"""A worker without slots is measured no more: what was found of it fades with every meta-step."""


class Costs:
    """Running means: seconds of one truncation of each task, times how slow each worker is."""

    def __init__(self, tasks: Sequence[str]):
        """Knows nothing yet. `tasks`: of each slot."""
        self._tasks = tasks
        self._seconds: dict[str, float] = {}
        self._slowness: dict[int, float] = {}

    def observe(self, worker_id: int, slot_seconds: Mapping[int, float]) -> None:
        """What one call took: seconds of one truncation of each slot."""
        known = [slot for slot in slot_seconds if self._tasks[slot] in self._seconds]
        if known:
            expected = sum(self._seconds[self._tasks[slot]] for slot in known)
            ratio = sum(slot_seconds[slot] for slot in known) / max(expected, 1e-9)
            self._slowness[worker_id] = _mix(self.slowness(worker_id), ratio)
        slowness = self._slowness.setdefault(worker_id, 1.0)
        for slot, seconds in slot_seconds.items():
            task = self._tasks[slot]
            self._seconds[task] = _mix(self._seconds.get(task), seconds / max(slowness, 1e-9))

    def slot(self, slot_index: int) -> float:
        """Seconds of one truncation on a worker of slowness 1; where not known, the mean of the others."""
        known = self._seconds.values()
        return self._seconds.get(self._tasks[slot_index], sum(known) / len(known) if known else 1.0)

    def slowness(self, worker_id: int) -> float:
        """1 for a worker of which nothing is known."""
        return self._slowness.get(worker_id, 1.0)

    def fade(self, worker_ids: Collection[int]) -> None:
        """A meta-step has passed in which these workers had nothing to do."""
        for worker_id in worker_ids:
            self._slowness[worker_id] = 1 + _FORGIVENESS * (self.slowness(worker_id) - 1)

    def expected_seconds(self, worker_id: int, slot_index: int) -> float | None:
        """Of one truncation; `None` before the task has been measured."""
        seconds = self._seconds.get(self._tasks[slot_index])
        return None if seconds is None else seconds * self.slowness(worker_id)


def _mix(mean: float | None, new: float) -> float:
    if mean is None:
        return new
    bounded = min(max(new, mean / _OUTLIER), mean * _OUTLIER)
    return (1 - _SMOOTHING) * mean + _SMOOTHING * bounded


def loads(costs: Costs, owner: Mapping[int, int], workers: Collection[int]) -> dict[int, float]:
    """Seconds that each worker needs for one truncation of all its slots."""
    seconds = dict.fromkeys(workers, 0.0)
    for slot, worker_id in owner.items():
        if worker_id in seconds:
            seconds[worker_id] += costs.slot(slot) * costs.slowness(worker_id)
    return seconds


def choose(costs: Costs, owner: Mapping[int, int], workers: Collection[int], slot_index: int) -> int:
    """The worker that would be through with its slots first if it had this one too."""
    seconds = loads(costs, {slot: w for slot, w in owner.items() if slot != slot_index}, workers)
    return min(workers, key=lambda w: (seconds[w] + costs.slot(slot_index) * costs.slowness(w), w))


def plan_moves(costs: Costs, owner: Mapping[int, int], workers: Collection[int]) -> dict[int, int]:
    """Slots that should move, and where to: from workers that need long to those that are through early.

    A slot moves if the worker that has it needs clearly less time without it, and the one that gets it does
    not need longer than that. Equal speeds and slots move nothing back and forth.
    """
    owner, moves = dict(owner), {}
    for _ in range(len(owner)):
        seconds = loads(costs, owner, workers)
        move = _best_move(costs, owner, seconds)
        if move is None:
            break
        slot, worker_id = move
        owner[slot] = moves[slot] = worker_id
    return moves


def _best_move(
    costs: Costs, owner: Mapping[int, int], seconds: Mapping[int, float]
) -> tuple[int, int] | None:
    """The best move of the worker that needs longest and has one that is worth it; `None` if nobody has."""
    slots: dict[int, list[int]] = {}
    for slot, worker_id in owner.items():
        slots.setdefault(worker_id, []).append(slot)
    by_load = sorted(seconds, key=lambda w: (seconds[w], w))
    targets = by_load[:_MAX_TARGETS]
    for source in reversed(by_load):
        best, best_seconds = None, min(_WORTHWHILE * seconds[source], seconds[source] - _LEAST_GAIN_SECONDS)
        if best_seconds <= seconds[targets[0]]:
            return None  # nor for any that needs less time
        for slot in slots.get(source, ()):
            left = seconds[source] - costs.slot(slot) * costs.slowness(source)
            for worker_id in targets:
                after = max(left, seconds[worker_id] + costs.slot(slot) * costs.slowness(worker_id))
                if worker_id != source and after < best_seconds:
                    best, best_seconds = (slot, worker_id), after
        if best is not None:
            return best
    return None
