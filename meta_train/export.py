"""The final theta of a run, as a checkpoint file that `mulo.load` reads."""

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

import jax

from meta_train.config import MetaTrainConfig
from meta_train.metrics import number_of, read_lines
from meta_train.programs import build_optimizer
from mulo.checkpoint_file import Checkpoint, save
from mulo.optimizers.base import Theta


def export_theta(
    path: str | os.PathLike[str],
    config: MetaTrainConfig,
    theta: Theta,
    meta_step: int,
    *,
    metrics_path: str | os.PathLike[str],
    more_provenance: Mapping[str, Any],
) -> None:
    """Writes theta after `meta_step` meta-steps, with where it came from: `make_checkpoint`'s and more."""
    checkpoint = make_checkpoint(config, theta, meta_step, metrics_path)
    checkpoint.provenance.update(more_provenance)
    save(path, checkpoint, overwrite=True)


def make_checkpoint(
    config: MetaTrainConfig, theta: Theta, meta_step: int, metrics_path: str | os.PathLike[str]
) -> Checkpoint:
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


def _final_meta_loss(metrics_path: str | os.PathLike[str], meta_step: int) -> float | None:
    """Mean meta-loss over the last tenth of the first `meta_step` meta-steps, of those that are known."""
    losses = []
    with contextlib.suppress(OSError):  # what was trained is not lost with what was noted
        records = [record for _, record in read_lines(metrics_path) if record is not None]
        losses = [number_of(record, "meta_loss") for record in records if record["meta_step"] < meta_step]
    last = [loss for loss in losses[-max(1, len(losses) // 10) :] if loss is not None]
    return sum(last) / len(last) if last else None
