"""What is logged of one meta-step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.config import MetaTrainConfig
from meta_train.executors.base import SlotResult
from meta_train.meta_optimizer import learning_rate_schedule
from mulo.optimizers.base import Theta
from mulo.optimizers.small_fc import effective_decays


class UpdateStatistics(NamedTuple):
    """What the update of theta reports."""

    gradient_norm: jax.Array  # [], float32: before clipping
    skipped: jax.Array  # [], bool: the gradient was not finite, nothing was updated
    theta_norms: dict[str, jax.Array]  # by leaf, such as "mlp/w0"
    decays: dict[str, jax.Array]  # learned decays, such as "momentum/0"; empty if the optimizer has none


def theta_norms(theta: Theta) -> dict[str, jax.Array]:
    """Euclidean norm of each leaf, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(theta)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.linalg.norm(jnp.ravel(leaf))
        for path, leaf in leaves
    }


def learned_decays(theta: Theta) -> dict[str, jax.Array]:
    """Each running mean's decay, as theta has it now."""
    if "decays" not in theta:
        return {}
    return {
        f"{field}/{index}": decay
        for field, decays in effective_decays(theta["decays"])._asdict().items()
        for index, decay in enumerate(decays)
    }


def make_record(
    config: MetaTrainConfig,
    meta_step: int,
    results: list[SlotResult],
    update: UpdateStatistics,
    seconds: float,
) -> dict[str, Any]:
    """Numbers, and dicts of numbers by name, of meta-step `meta_step`, counted from 0."""
    statistics = jax.tree.map(lambda *slots: np.asarray(slots), *[result.statistics for result in results])
    slots = np.asarray(config.slots())
    copies = results[0].num_copies
    inner_steps = len(slots) * copies * config.pairs_per_slot * config.truncation_length
    update = jax.device_get(update)

    def by_task(values: np.ndarray) -> dict[str, float]:
        return {task: float(np.mean(values[slots == task])) for task in config.tasks}

    return {
        "meta_step": meta_step,
        "meta_loss": float(np.mean(statistics.meta_loss)),
        "task_losses": by_task(statistics.meta_loss),
        "clipped_fraction": float(np.mean(statistics.clipped_fraction)),
        "clipped_fractions": by_task(statistics.clipped_fraction),
        "gradient_norm": float(update.gradient_norm),
        "skipped": bool(update.skipped),
        "learning_rate": float(learning_rate_schedule(config)(jnp.asarray(meta_step))),
        "theta_norms": {name: float(norm) for name, norm in update.theta_norms.items()},
        "decays": {name: float(decay) for name, decay in update.decays.items()},
        "inner_steps": (meta_step + 1) * inner_steps,
        "inner_steps_per_second": inner_steps / seconds,
        "wall_seconds": seconds,
    }
