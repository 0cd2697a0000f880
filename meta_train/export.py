"""The final theta of a run, as a checkpoint file that `mulo.load` reads."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from meta_train.config import MetaTrainConfig
from meta_train.programs import build_optimizer
from mulo.checkpoint_file import Checkpoint, save
from mulo.optimizers.base import Theta


def export_theta(path: Path, config: MetaTrainConfig, theta: Theta, metrics_path: Path) -> None:
    """Writes theta with where it came from: configuration, versions, meta-loss."""
    save(path, make_checkpoint(config, theta, metrics_path), overwrite=True)


def make_checkpoint(config: MetaTrainConfig, theta: Theta, metrics_path: Path) -> Checkpoint:
    """Theta, its optimizer, and provenance: tasks, meta-steps, seed, versions, meta-loss."""
    provenance: dict[str, Any] = {
        "tasks": list(config.tasks),
        "meta_steps": config.meta_steps,
        "seed": config.seed,
        "config": json.loads(json.dumps(dataclasses.asdict(config))),
        "meta_loss": _final_meta_loss(metrics_path),
        "versions": {"jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
    }
    return Checkpoint(
        optimizer=build_optimizer(config),
        theta=theta,
        parametrization=config.parametrization,
        provenance=provenance,
    )


def _final_meta_loss(metrics_path: Path) -> float:
    """Mean meta-loss over the last tenth of the meta-steps."""
    losses = [json.loads(line)["meta_loss"] for line in metrics_path.read_text().splitlines()]
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)
