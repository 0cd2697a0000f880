"""The final theta of a run, as a checkpoint file that `mulo.load` reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from meta_train.config import MetaTrainConfig
from meta_train.programs import build_optimizer
from mulo.checkpoint_file import Checkpoint, save
from mulo.optimizers.base import Theta


def export_theta(
    path: Path,
    config: MetaTrainConfig,
    theta: Theta,
    meta_step: int,
    *,
    metrics_path: Path,
    more_provenance: Mapping[str, Any],
) -> None:
    """Writes theta after `meta_step` meta-steps, with where it came from: `make_checkpoint`'s and more."""
    checkpoint = make_checkpoint(config, theta, meta_step, metrics_path)
    checkpoint.provenance.update(more_provenance)
    save(path, checkpoint, overwrite=True)


def make_checkpoint(config: MetaTrainConfig, theta: Theta, meta_step: int, metrics_path: Path) -> Checkpoint:
    """Theta, its optimizer, and provenance: tasks, meta-steps, seed, versions, meta-loss."""
    provenance: dict[str, Any] = {
        "tasks": list(config.tasks),
        "meta_steps": meta_step,
        "seed": config.seed,
        "config": json.loads(config.to_json()),
        "meta_loss": _final_meta_loss(metrics_path, meta_step),
        "versions": {"jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
    }
    return Checkpoint(
        optimizer=build_optimizer(config),
        theta=theta,
        parametrization=config.parametrization,
        provenance=provenance,
    )


def _final_meta_loss(metrics_path: Path, meta_step: int) -> float:
    """Mean meta-loss over the last tenth of the first `meta_step` meta-steps."""
    losses = [json.loads(line)["meta_loss"] for line in metrics_path.read_text().splitlines()[:meta_step]]
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)
