"""The executor that advances every slot in this process."""

import jax
import numpy as np

from meta_train.config import MetaTrainConfig
from meta_train.executors.base import SlotResult
from meta_train.programs import CompiledProgram, addressed_key
from meta_train.schedules import first_steps
from meta_train.slot import SlotKeys, SlotState
from mulo.optimizers.base import Theta


class LocalExecutor:
    """Advances slots one after the other; JAX overlaps them where the machine has cores to spare."""

    def __init__(self, config: MetaTrainConfig, programs: dict[str, CompiledProgram]):
        """Prepares; nothing is computed before the first meta-step."""
        self._seed = config.seed
        self._programs = [programs[task] for task in config.slots()]
        self._first_steps = [first_steps(config, slot_index) for slot_index in range(len(self._programs))]
        self._states: list[SlotState] = []  # none before the first meta-step
        self._began = [0] * len(self._programs)  # the meta-step at which each slot's inner run began

    def advance(self, theta: Theta, meta_step: int) -> list[SlotResult]:
        """See `meta_train.executors.base.Executor`."""
        # All slots are asked at once, before any is started: between them nothing waits for the device.
        lost = jax.device_get([state.lost for state in self._states]) or [True] * len(self._programs)
        states, results = [], []
        for slot_index, compiled in enumerate(self._programs):
            if lost[slot_index] or self._first_steps[slot_index][meta_step] == meta_step:
                reset_key = addressed_key(self._seed, "reset", slot_index, meta_step)
                state = compiled.reset(theta, reset_key, meta_step)
                self._began[slot_index] = meta_step
            else:
                state = self._states[slot_index]
            drawn_at = meta_step if compiled.program.estimator.redraw else self._began[slot_index]
            keys = SlotKeys(
                perturbation=addressed_key(self._seed, "perturbation", slot_index, drawn_at),
                unroll=addressed_key(self._seed, "unroll", slot_index, meta_step),
            )
            gradient, state, statistics = compiled.advance(theta, state, keys, compiled.source)
            states.append(state)
            results.append(SlotResult(gradient, statistics, compiled.program.estimator.num_copies))
        self._states = states
        return results

    def snapshot(self) -> list[SlotState]:
        """See `meta_train.executors.base.Executor`."""
        return jax.tree.map(np.asarray, self._states)

    def restore(self, slot_states: list[SlotState]) -> None:
        """See `meta_train.executors.base.Executor`."""
        self._states = jax.tree.map(jax.numpy.asarray, slot_states)
        self._began = [int(state.first_step) for state in slot_states]
