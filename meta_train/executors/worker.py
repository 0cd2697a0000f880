"""What a worker does, wherever it runs: it owns slots and advances them."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence

import jax
import jaxlib
import numpy as np

from meta_train.config import MetaTrainConfig
from meta_train.executors.messages import Answer, Facts, Order, Request, SlotAnswer, SlotResult
from meta_train.programs import CompiledProgram, addressed_key, build_optimizer
from meta_train.schedules import first_steps, steps_left
from meta_train.slot import SlotKeys, SlotState
from mulo.optimizers.base import Theta


def versions() -> dict[str, str]:
    """Of what can decide bits, in this process."""
    return {
        "mulo": importlib.metadata.version("mulo"),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }


class SlotWorker:
    """Some slots of a configuration, on the default device of this process.

    What a slot answers is a function of configuration, slot, meta-step and the thetas so far.
    """

    def __init__(
        self,
        config: MetaTrainConfig,
        programs: dict[str, CompiledProgram],
        on_compile: Callable[[str], None] = lambda _: None,
    ):
        """Owns nothing yet, and computes nothing.

        Args:
          config: decides the slots.
          programs: what they run, by task.
          on_compile: is told of each task just before its program is compiled.
        """
        self._on_compile = on_compile
        self._compiled: set[str] = set()
        self._config = config
        self._programs = programs
        self._tasks = config.slots()
        self._states: dict[int, SlotState] = {}
        self._ready_for: dict[int, int] = {}  # the meta-step that each state is before
        self._began: dict[int, int] = {}  # the meta-step at which each slot's inner run began
        self._schedules: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def place(self, slot_index: int, state: SlotState | None, meta_step: int) -> None:
        """Takes a slot, in a state before `meta_step`; `None` = a new inner run begins there."""
        self._ready_for[slot_index] = meta_step
        self._states.pop(slot_index, None)
        if state is not None:
            # A copy: the program reuses the memory of the state that it is given.
            self._states[slot_index] = jax.tree.map(jax.numpy.array, state)
            self._began[slot_index] = int(state.first_step)

    def advance(self, slots: Sequence[int], theta: Theta, meta_step: int) -> list[SlotResult]:
        """Advances slots by one truncation. The answers' arrays may still be under computation.

        Raises:
          RuntimeError: a slot is not here, or is at another meta-step.
        """
        for slot_index in slots:
            at = self._ready_for.get(slot_index, "none: it is not here")
            if at != meta_step:
                raise RuntimeError(
                    f"Slot {slot_index} is asked for meta-step {meta_step}, and is ready for {at}."
                )
        # All slots are asked at once, before any is started: between them nothing waits for the device.
        lost = jax.device_get({slot: self._states[slot].lost for slot in slots if slot in self._states})
        return [self._advance(slot, theta, meta_step, bool(lost.get(slot, True))) for slot in slots]

    def _advance(self, slot_index: int, theta: Theta, meta_step: int, lost: bool) -> SlotResult:
        task, seed = self._tasks[slot_index], self._config.seed
        compiled = self._programs[task]
        if task not in self._compiled:
            self._compiled.add(task)
            self._on_compile(task)
        begun, left = self._schedule(slot_index)
        if lost or begun[meta_step] == meta_step:
            reset_key = addressed_key(seed, "reset", slot_index, meta_step)
            state = compiled.reset(theta, reset_key, meta_step, int(left[meta_step]))
            self._began[slot_index] = meta_step
        else:
            state = self._states[slot_index]
        drawn_at = meta_step if compiled.program.estimator.redraw else self._began[slot_index]
        keys = SlotKeys(
            perturbation=addressed_key(seed, "perturbation", slot_index, drawn_at),
            unroll=addressed_key(seed, "unroll", slot_index, meta_step),
        )
        gradient, self._states[slot_index], statistics = compiled.advance(theta, state, keys, compiled.source)
        self._ready_for[slot_index] = meta_step + 1
        return SlotResult(gradient, statistics, compiled.program.estimator.num_copies)

    def state(self, slot_index: int) -> SlotState:
        """The state of a slot, as NumPy arrays."""
        return jax.tree.map(np.asarray, self._states[slot_index])

    def _schedule(self, slot_index: int) -> tuple[np.ndarray, np.ndarray]:
        """`first_steps` and `steps_left` of a slot."""
        if slot_index not in self._schedules:
            parts = first_steps(self._config, slot_index), steps_left(self._config, slot_index)
            self._schedules[slot_index] = parts
        return self._schedules[slot_index]

    def prepare(self) -> Facts:
        """Compiles what the slots run, by running it once."""
        began = time.monotonic()
        theta = build_optimizer(self._config).init_theta(addressed_key(self._config.seed, "theta"))
        theta = jax.tree.map(np.asarray, theta)
        key = addressed_key(self._config.seed, "reset")
        for compiled in self._programs.values():
            state = compiled.reset(theta, key, 0, self._config.max_horizon)
            answer = compiled.advance(theta, state, SlotKeys(key, key), compiled.source)
            jax.block_until_ready(answer)
        return Facts(
            pid=os.getpid(),
            node=platform.node(),
            device_kind=jax.devices()[0].device_kind,
            versions=versions(),
            seconds=time.monotonic() - began,
        )

    def carry_out(self, request: Request) -> Answer:
        """Does what a request says; the answer is NumPy arrays."""
        began = time.monotonic()
        for slot_index in set(self._ready_for) - request.owned:
            del self._ready_for[slot_index]
            self._states.pop(slot_index, None)
        replays = [self._replay(order) for order in request.orders]
        before = began + sum(seconds for _, seconds in replays)
        results: list[SlotResult | None] = [None] * len(request.orders)
        if request.theta is not None:
            slots = [order.slot_index for order in request.orders]
            results = list(self.advance(slots, request.theta, request.meta_step))
        answers = {}
        for order, (num_replayed, seconds), result in zip(request.orders, replays, results, strict=True):
            result = None if result is None else jax.device_get(result)
            state = self.state(order.slot_index) if order.return_state else None
            now = time.monotonic()
            num_truncations = num_replayed + (request.theta is not None)
            answers[order.slot_index] = SlotAnswer(result, state, seconds + now - before, num_truncations)
            before = now
        return Answer(request.call_id, request.meta_step, answers)

    def _replay(self, order: Order) -> tuple[int, float]:
        """Brings a slot that is not here to the meta-step of the request.

        Returns:
          The truncations made, and the seconds that it took.
        """
        if order.start is None:
            return 0, 0.0
        began = time.monotonic()
        slot_index, (state, first, thetas) = order.slot_index, order.start
        self.place(slot_index, state, first)
        for meta_step, theta in enumerate(thetas, first):
            self.advance([slot_index], theta, meta_step)
        jax.block_until_ready(self._states.get(slot_index))
        return len(thetas), time.monotonic() - began
