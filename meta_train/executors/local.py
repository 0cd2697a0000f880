"""The executor that advances every slot in this process."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

from meta_train.config import MetaTrainConfig
from meta_train.executors.messages import History, SlotResult
from meta_train.executors.worker import SlotWorker
from meta_train.programs import CompiledProgram
from meta_train.slot import SlotState
from mulo.optimizers.base import Theta


class LocalExecutor:
    """Advances slots one after the other; JAX overlaps them where the machine has cores to spare."""

    def __init__(
        self,
        config: MetaTrainConfig,
        programs: dict[str, CompiledProgram],
        say: Callable[[str], None] = lambda _: None,
    ):
        """Prepares; nothing is computed before the first meta-step. `say` is told what is compiled then."""
        numbers = {task: f"{number} of {len(programs)}" for number, task in enumerate(programs, 1)}
        self._worker = SlotWorker(
            config,
            programs,
            lambda task: say(f"Compiling the program of {task} ({numbers[task]}); this may take minutes."),
        )
        self._slots = range(len(config.slots()))
        for slot_index in self._slots:
            self._worker.place(slot_index, None, 0)

    def advance(self, theta: Theta, meta_step: int) -> list[SlotResult]:
        """See `meta_train.executors.interface.Executor`."""
        return self._worker.advance(self._slots, theta, meta_step)

    def snapshot(self) -> list[SlotState]:
        """See `meta_train.executors.interface.Executor`."""
        return [self._worker.state(slot_index) for slot_index in self._slots]

    def known_states(self, meta_step: int) -> tuple[list[SlotState | None], History]:
        """See `meta_train.executors.interface.Executor`. Between meta-steps only."""
        return list(self.snapshot()), History((meta_step,) * len(self._slots), ())

    def restore(
        self, slot_states: list[SlotState | None], meta_step: int, history: History | None = None
    ) -> None:
        """See `meta_train.executors.interface.Executor`."""
        history = history or History((meta_step,) * len(self._slots), ())
        for slot_index, state in zip(self._slots, slot_states, strict=True):
            first = history.meta_steps[slot_index]
            self._worker.place(slot_index, state, first)
            for step, theta in enumerate(history.since(slot_index), first):
                self._worker.advance([slot_index], theta, step)

    def report(self) -> dict[str, Any]:
        """See `meta_train.executors.interface.Executor`."""
        return {}

    def __enter__(self) -> "LocalExecutor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
