"""What the workers did in a meta-step, as entries of the metrics."""

from collections.abc import Mapping
from typing import Any

from meta_train.config import MetaTrainConfig
from meta_train.executors.messages import SlotAnswer


class Tally:
    """Counts; those of restarts, replays, moves and dropped answers since the process began."""

    def __init__(self, config: MetaTrainConfig):
        """Nothing has happened yet."""
        self._inner_steps = config.pairs_per_slot * config.truncation_length  # of one copy
        self.replays = self.moves = self.dropped = 0
        self._busy: dict[int, float] = {}  # by place
        self._steps: dict[int, int] = {}
        self._report: dict[str, Any] = {}

    def begin(self) -> None:
        """A meta-step begins."""
        self._busy, self._steps = {}, {}

    def observe(self, place: int, answers: Mapping[int, SlotAnswer]) -> None:
        """A worker has answered."""
        self._busy[place] = self._busy.get(place, 0.0) + sum(a.seconds for a in answers.values())
        steps = sum(
            a.num_truncations * self._inner_steps * (a.result.num_copies if a.result else 1)
            for a in answers.values()
        )
        self._steps[place] = self._steps.get(place, 0) + steps

    def end(
        self,
        seconds: float,
        wait_seconds: float,
        places: Mapping[int, int],
        owner: Mapping[int, int],
        restarts: int,
    ) -> None:
        """A meta-step is through.

        Args:
          seconds: that it took, here.
          wait_seconds: of these, spent waiting for workers.
          places: worker -> place, of those that can be asked.
          owner: slot -> worker.
          restarts: workers that have been replaced.
        """
        slots = dict.fromkeys((str(place) for place in sorted(places.values())), 0)
        for worker_id in owner.values():
            if worker_id in places:
                slots[str(places[worker_id])] += 1
        busy = {str(place): seconds for place, seconds in sorted(self._busy.items())}
        self._report = {
            "num_workers": len(places),
            "worker_slots": slots,
            "worker_inner_steps_per_second": {
                str(place): self._steps[place] / max(self._busy[place], 1e-9) for place in sorted(self._busy)
            },
            "worker_busy_fraction": {
                name: min(1.0, busy_seconds / max(seconds, 1e-9)) for name, busy_seconds in busy.items()
            },
            "executor_seconds": seconds,
            "driver_seconds": seconds - wait_seconds,  # the driver's own work in the executor
            "restarts": restarts,
            "replays": self.replays,
            "moves": self.moves,
            "dropped_answers": self.dropped,
        }

    def report(self) -> dict[str, Any]:
        """The entries of the last meta-step."""
        return self._report
