"""What an evaluation costs: runs, inner steps, arithmetic, and a rough time on two cores."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from eval_tasks.data import find_data_set
from eval_tasks.data.catalog import IMAGE_FORMS
from eval_tasks.data.source import Source, make_source
from eval_tasks.data.text import make_text_source
from eval_tasks.suites import Point, Series, Suite
from eval_tasks.task import make_task

FLOPS_PER_SECOND = 4e10
"""Of two cores in dense networks, about: measured between 3e10 (narrow) and 1.5e11 (wide)."""

SLOWER = {"convnet": 2.4e9, "resnet": 2.4e9}
"""The same of convolutions, which XLA's CPU backend does slowly inside a scan."""

SECONDS_PER_PARAMETER = {"baseline": 2e-9, "learned": 2e-8}
"""Of one optimizer step on two cores, about: AdamW's, and that of `SmallFC` with 8 hidden units."""


class Cost(NamedTuple):
    """Of some runs."""

    runs: int
    inner_steps: int
    flops: float  # of losses and gradients, without the optimizer's
    cpu_seconds: float  # on two cores, about


def stand_in(data_set: str) -> Source:
    """A source of the shapes of a data set, without its data."""
    reader = find_data_set(data_set)
    if reader.kind == "text":
        length = reader.options.get("context_length", 64)
        return make_text_source(data_set, bytes(20 * (length + 1)), context_length=length)
    if data_set == "digits":
        shape, classes = (8, 8, 1), 10
    else:
        (channels, _, _), classes = IMAGE_FORMS[reader.options["file_set"]]
        shape = (reader.options["size"], reader.options["size"], channels)
    images = np.zeros((20, *shape), np.uint8)
    return make_source(
        data_set, images, np.arange(20) % classes, num_classes=classes, train_fraction=0.5, placement="device"
    )


@functools.cache
def cost_of_step(point: Point) -> tuple[float, int]:
    """Floating-point operations of one loss with its gradient, as XLA counts them, and the parameters."""
    source = stand_in(point.task.data_set)
    task = make_task(point.task, "sp", source)
    params = jax.eval_shape(task.init, jax.random.key(0))
    batch = jax.eval_shape(lambda: task.draw_batch(source, "train", jax.random.key(0), point.batch_size))

    def loss(params, batch):
        return task.loss_and_state(params, task.init_state(), jax.random.key(0), batch)[0]

    analysis = jax.jit(jax.value_and_grad(loss)).lower(params, batch).cost_analysis()
    return float(analysis["flops"]), sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def estimate_cost(suite: Suite, protocols: Sequence[tuple[str, str]]) -> Cost:
    """The cost of a suite for some optimizers.

    Args:
      suite: what is run.
      protocols: of each optimizer: "learned" or "baseline", and where it is tuned, as in `Contender`.
    """
    total = Cost(0, 0, 0.0, 0.0)
    for series in suite.series:
        places = {value: cost_of_step(series.point(value)) for value in _values(series)}
        for kind, tuned_at in protocols:
            for value, (flops, _) in places.items():
                point = series.point(value)
                runs = suite.num_seeds * (value in series.values)
                is_tuned = tuned_at == "each value" and value in series.values
                is_tuned |= tuned_at == "base value" and value == series.base_value
                runs += is_tuned * suite.num_trials * suite.num_tuning_seeds
                total = Cost(
                    total.runs + runs,
                    total.inner_steps + runs * point.num_steps,
                    total.flops + runs * point.num_steps * flops,
                    total.cpu_seconds + runs * seconds_of_run(point, kind),
                )
    return total


def seconds_of_run(point: Point, kind: str) -> float:
    """About how long one run takes on two cores; `kind` as in `estimate_cost`."""
    flops, num_params = cost_of_step(point)
    return point.num_steps * (
        flops / SLOWER.get(point.task.model, FLOPS_PER_SECOND) + num_params * SECONDS_PER_PARAMETER[kind]
    )


def _values(series: Series) -> list[int]:
    return sorted({series.base_value, *series.values})
