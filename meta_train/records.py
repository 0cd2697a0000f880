"""What is logged of one meta-step."""

from typing import Any

import jax
import numpy as np

from meta_train.config import MetaTrainConfig
from meta_train.executors.messages import SlotResult
from meta_train.meta_update import UpdateStatistics


def make_record(
    config: MetaTrainConfig,
    meta_step: int,
    results: list[SlotResult],
    update: UpdateStatistics,
    seconds: float,
) -> dict[str, Any]:
    """Numbers, and dicts of numbers by name, of meta-step `meta_step`, counted from 0."""
    # All in one transfer from the device.
    reports, update = jax.device_get(([result.statistics for result in results], update))
    statistics = jax.tree.map(lambda *slots: np.stack(slots), *reports)
    slots = np.asarray(config.slots())
    inner_steps = len(slots) * results[0].num_copies * config.pairs_per_slot * config.truncation_length

    def by_task(values: np.ndarray) -> dict[str, float]:
        return {task: float(np.mean(values[slots == task])) for task in config.tasks}

    final = config.meta_objective == "final_loss"
    meta_losses = statistics.last_loss if final else statistics.meta_loss  # over the steps that count
    return {
        "meta_step": meta_step,
        "meta_loss": float(np.mean(meta_losses)),
        "task_losses": by_task(meta_losses),
        "clipped_fraction": float(np.mean(statistics.clipped_fraction)),
        "clipped_fractions": by_task(statistics.clipped_fraction),
        "nonfinite_fraction": float(np.mean(statistics.nonfinite_fraction)),
        "lost_slots": int(np.sum(statistics.lost)),
        "gradient_norm": float(update.gradient_norm),
        "skipped": bool(update.skipped),
        "learning_rate": float(update.learning_rate),
        "theta_norms": {name: float(norm) for name, norm in update.theta_norms.items()},
        "decays": {name: float(decay) for name, decay in update.decays.items()},
        "inner_steps": (meta_step + 1) * inner_steps,
        "inner_steps_per_second": inner_steps / seconds,
        "wall_seconds": seconds,
    }
