"""What a worker does, wherever it runs: it owns slots and advances them."""

import importlib.metadata
import os
import platform
import time
from typing import Any

import jax
import jaxlib
import numpy as np

from meta_train.config import MetaTrainConfig
from meta_train.executors.base import SlotResult
from meta_train.executors.messages import Answer, Facts, Order, Request, SlotAnswer
from meta_train.programs import CompiledProgram, addressed_key, build_optimizer
from meta_train.schedules import first_steps
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

    def __init__(self, config: MetaTrainConfig, programs: dict[str, CompiledProgram]):
        """Owns nothing yet, and computes nothing."""
        self._config = config
        self._programs = programs
        self._tasks = config.slots()
        self._states: dict[int, SlotState] = {}
        self._ready_for: dict[int, int] = {}  # the meta-step that each state is before
        self._first_steps: dict[int, np.ndarray] = {}

    def place(self, slot_index: int, state: SlotState | None, meta_step: int) -> None:
        """Takes a slot, in a state before `meta_step`; `None` = a new inner run begins there."""
        self._ready_for[slot_index] = meta_step
        self._states.pop(slot_index, None)
        if state is not None:
            # A copy: the program reuses the memory of the state that it is given.
            self._states[slot_index] = jax.tree.map(jax.numpy.array, state)

    def advance(self, slot_index: int, theta: Theta, meta_step: int) -> SlotResult:
        """Advances a slot by one truncation. The answer's arrays may still be under computation.

        Raises:
          RuntimeError: the slot is not here, or is at another meta-step.
        """
        if self._ready_for.get(slot_index) != meta_step:
            at = self._ready_for.get(slot_index, "none: it is not here")
            raise RuntimeError(
                f"Slot {slot_index} is asked for meta-step {meta_step}, and is ready for {at}."
            )
        compiled, seed = self._programs[self._tasks[slot_index]], self._config.seed
        state = self._states.get(slot_index)
        begins = int(self._schedule(slot_index)[meta_step]) == meta_step
        if begins or state is None or bool(state.lost):
            reset_key = addressed_key(seed, "reset", slot_index, meta_step)
            state = compiled.reset(theta, reset_key, meta_step)
        drawn_at = meta_step if compiled.program.estimator.redraw else int(state.first_step)
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

    def _schedule(self, slot_index: int) -> np.ndarray:
        if slot_index not in self._first_steps:
            self._first_steps[slot_index] = first_steps(self._config, slot_index)
        return self._first_steps[slot_index]

    def prepare(self) -> Facts:
        """Compiles what the slots run, by running it once."""
        began = time.monotonic()
        theta = build_optimizer(self._config).init_theta(addressed_key(self._config.seed, "theta"))
        theta = jax.tree.map(np.asarray, theta)
        key = addressed_key(self._config.seed, "reset")
        for compiled in self._programs.values():
            state = compiled.reset(theta, key, 0)
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
        for slot_index in set(self._ready_for) - request.owned:
            del self._ready_for[slot_index]
            self._states.pop(slot_index, None)
        # All are begun before the first is waited for: the device always has something to do.
        results = [self._begin(order, request) for order in request.orders]
        slots, before = {}, time.monotonic()
        for order, (result, num_truncations) in zip(request.orders, results, strict=True):
            result, state = self._finish(order, result)
            now = time.monotonic()
            slots[order.slot_index] = SlotAnswer(result, state, now - before, num_truncations)
            before = now
        return Answer(request.call_id, request.meta_step, slots)

    def _begin(self, order: Order, request: Request) -> tuple[SlotResult | None, int]:
        """Brings a slot to the meta-step of the request, and advances it if there is a theta."""
        num_truncations = 0
        if order.start is not None:
            self.place(order.slot_index, order.start.state, order.start.meta_step)
            for meta_step, theta in enumerate(order.start.thetas, order.start.meta_step):
                self.advance(order.slot_index, theta, meta_step)
                num_truncations += 1
        if request.theta is None:
            return None, num_truncations
        return self.advance(order.slot_index, request.theta, request.meta_step), num_truncations + 1

    def _finish(self, order: Order, result: SlotResult | None) -> tuple[Any, SlotState | None]:
        result = None if result is None else jax.tree.map(np.asarray, result)
        if result is not None:
            result = result._replace(num_copies=int(result.num_copies))
        return result, self.state(order.slot_index) if order.return_state else None
