"""Coordinate checks of the tasks here: `mulo.mup.coordinate_check` on one task at several widths."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

import mulo
from eval_tasks.data import load_data
from eval_tasks.names import TaskName
from eval_tasks.task import make_task
from mulo.mup import CoordinateCheck, MuP, WidthModel, coordinate_check, scale_by_mup

PLAIN_RATES: Mapping[str, Mapping[str, float]] = {
    "adam": {"mup": 3e-2, "sp": 1e-3},
    "sgd": {"mup": 1e-1, "sp": 1e-2},
}
"""Optimizers that are not learned, and the learning rates that they are checked at by default."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """What is checked."""

    task: TaskName  # its width does not count
    parametrization: str  # "mup" or "sp"
    widths: tuple[int, ...]  # ascending
    num_steps: int
    num_seeds: int
    batch_size: int
    seed: int

    def title(self, optimizer: str) -> str:
        """One line: what is checked, with which optimizer."""
        rules = {"mup": "muP", "sp": "SP"}[self.parametrization]
        depth = f"depth {self.task.depth}" + (f", {self.task.heads} heads" if self.task.heads else "")
        return f"{self.task.model}, {depth}, {self.task.data_set}, {rules}, {optimizer}"


def choose_optimizer(
    source: str, learning_rate: float | None, parametrization: str | None
) -> tuple[Callable[[MuP], optax.GradientTransformation], str]:
    """An optimizer for each width, and the parametrization to check it under.

    Args:
      source: a key of `PLAIN_RATES`, or the name or path of a checkpoint.
      learning_rate: at the smallest width; by default as in `PLAIN_RATES`, and 1 for learned optimizers.
      parametrization: by default "mup", or what a learned optimizer was meta-trained under.

    Raises:
      CheckpointError: neither an optimizer's name nor a checkpoint that can be read.
    """
    if source not in PLAIN_RATES:
        checkpoint = mulo.load(source)
        factor = 1.0 if learning_rate is None else learning_rate
        parametrization = parametrization or checkpoint.parametrization
        return (lambda mup: mulo.optimizer(checkpoint, factor, mup=mup)), parametrization
    parametrization = parametrization or "mup"
    rate = PLAIN_RATES[source][parametrization] if learning_rate is None else learning_rate
    scale = optax.scale_by_adam if source == "adam" else optax.identity
    return (lambda mup: optax.chain(scale(), scale_by_mup(mup, source), optax.scale(-rate))), parametrization


def check_task(
    settings: CheckSettings, optimizer: Callable[[MuP], optax.GradientTransformation]
) -> CoordinateCheck:
    """Trains the task's network at each width for a few steps, each on a batch of its own.

    Raises:
      InputError: data that cannot be read, or widths that cannot be compared.
    """
    source = load_data(settings.task.data_set)

    def make(width: int) -> WidthModel:
        name = dataclasses.replace(settings.task, width=width)
        task = make_task(name, settings.parametrization, source, base_width=settings.widths[0])
        return WidthModel(
            init=task.init,
            loss=lambda params, batch: task.loss(params, jax.random.key(0), batch),
            activations=task.activations,
            mup=task.mup,
        )

    def draw_batch(key: jax.Array) -> Any:
        return source.draw("train", key, settings.batch_size)

    key, batch_key = jax.random.split(jax.random.key(settings.seed))
    return coordinate_check(
        make,
        optimizer,
        draw_batch(batch_key),
        widths=settings.widths,
        num_steps=settings.num_steps,
        num_seeds=settings.num_seeds,
        key=key,
        draw_batch=draw_batch,
    )
