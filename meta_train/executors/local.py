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
        self._states: list[SlotState | None] = [None] * len(self._programs)

    def advance(self, theta: Theta, meta_step: int) -> list[SlotResult]:
        """See `meta_train.executors.base.Executor`."""
        results = []
        for slot_index, compiled in enumerate(self._programs):
            begins = int(self._first_steps[slot_index][meta_step]) == meta_step
            state = self._states[slot_index]
            if begins or state is None or bool(state.lost):
                reset_key = addressed_key(self._seed, "reset", slot_index, meta_step)
                state = compiled.reset(theta, reset_key, meta_step)
            drawn_at = meta_step if compiled.program.estimator.redraw else int(state.first_step)
            keys = SlotKeys(
                perturbation=addressed_key(self._seed, "perturbation", slot_index, drawn_at),
                unroll=addressed_key(self._seed, "unroll", slot_index, meta_step),
            )
            gradient, self._states[slot_index], statistics = compiled.advance(
                theta, state, keys, compiled.source
            )
            results.append(SlotResult(gradient, statistics, compiled.program.estimator.num_copies))
        return results

    def snapshot(self) -> list[SlotState]:
        """See `meta_train.executors.base.Executor`."""
        return jax.tree.map(np.asarray, self._states)

    def restore(self, slot_states: list[SlotState]) -> None:
        """See `meta_train.executors.base.Executor`."""
        self._states = jax.tree.map(jax.numpy.asarray, slot_states)
