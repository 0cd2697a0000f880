"""Makes inner runs: the compiled program of each kind of run, and what is kept of its outcome."""

import dataclasses
import functools
import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from eval_tasks.contenders import Contender
from eval_tasks.data.source import Source
from eval_tasks.models import MODELS
from eval_tasks.objectives import OBJECTIVES
from eval_tasks.runs import Run
from eval_tasks.suites import Point
from eval_tasks.task import Task, make_task
from eval_tasks.training import InnerOptimizer, Outcome, make_program

RUNS_PER_CALL = 3  # fixed, because the number of runs in one call changes their last bits
MAX_POINTS = 200  # of a stored loss curve
FINAL_SHARE = 0.01  # of the steps, the last ones: what the final loss is the mean of
TAIL_SHARE = 0.1  # the same of the loss that learning rates are chosen by
_PURPOSES = {"tune": 0, "evaluate": 1}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """At most `RUNS_PER_CALL` runs of one optimizer on one task, done in one call."""

    contender: Contender
    point: Point
    base_width: int
    source: Source
    runs: tuple[Run, ...]


Outcomes = list[dict[str, Any]]  # JSON values of each run: what is measured


class Executor(Protocol):
    """Does works, in any order."""

    def run(self, works: Sequence[Work]) -> Iterator[tuple[int, Outcomes]]:
        """Yields the index of each work with the outcomes of its runs, as they are finished."""


class LocalExecutor:
    """Does one after the other in this process, and keeps what it has compiled."""

    def __init__(self):
        self._tasks: dict[tuple[str, str, int], Task] = {}
        self._programs: dict[tuple[Any, ...], _Program] = {}

    def run(self, works: Sequence[Work]) -> Iterator[tuple[int, Outcomes]]:
        """Yields the outcomes in order."""
        for index, work in enumerate(works):
            yield index, self._execute(work)

    def _execute(self, work: Work) -> Outcomes:
        # Filled up with copies of the last one, so that every call has the same compiled program.
        padded = [*work.runs, *[work.runs[-1]] * (RUNS_PER_CALL - len(work.runs))]
        keys = jnp.stack([
            jax.random.fold_in(jax.random.key(run.seed), _PURPOSES[run.purpose]) for run in padded
        ])  # fmt: skip
        setting = work.contender.make_setting([run.learning_rate for run in padded])
        program = self._program(work, setting, keys)
        began = time.monotonic()
        outcome = jax.tree.map(np.asarray, program.call(work.source, setting, keys))
        seconds = time.monotonic() - began
        facts = {
            **program.facts,
            "step_seconds": seconds / RUNS_PER_CALL / work.point.num_steps,
            "wall_seconds": round(seconds / len(work.runs), 4),
            "data": work.source.provenance(),
            "versions": {
                "python": platform.python_version(),
                "device": jax.devices()[0].device_kind,
                **software_versions(),
            },
        }
        return [
            {**_measure(jax.tree.map(lambda x, i=index: x[i], outcome), work.point.num_steps), **facts}
            for index in range(len(work.runs))
        ]

    def _program(self, work: Work, setting: Any, keys: jax.Array) -> "_Program":
        contender, point = work.contender, work.point
        name = (point, work.base_width, contender.parametrization, contender.program)
        if name not in self._programs:
            task = self._task(work)
            optimizer = contender.make(task, point.num_steps)
            program = make_program(
                task,
                optimizer,
                num_steps=point.num_steps,
                batch_size=point.batch_size,
                map_settings=contender.map_settings,
            )
            one = jax.tree.map(lambda x: x[0], setting) if contender.map_settings else setting
            self._programs[name] = _Program(
                call=program.lower(work.source, setting, keys).compile(),
                facts=_facts(task, optimizer, one, point.num_steps),
            )
        return self._programs[name]

    def _task(self, work: Work) -> Task:
        name = (str(work.point.task), work.contender.parametrization, work.base_width)
        if name not in self._tasks:
            self._tasks[name] = make_task(work.point.task, name[1], work.source, work.base_width)
        return self._tasks[name]


@dataclasses.dataclass(frozen=True)
class _Program:
    call: Callable[..., Outcome]
    facts: Mapping[str, Any]


def _facts(task: Task, optimizer: InnerOptimizer, setting: Any, num_steps: int) -> dict[str, Any]:
    params = jax.eval_shape(task.init, jax.random.key(0))
    state = jax.eval_shape(lambda s, p: optimizer.init(s, p, num_steps), setting, params)
    model = task.name.partition("-w")[0]
    return {
        "unit": OBJECTIVES[MODELS[model].objective].unit,
        "guessing_loss": task.guessing_loss,
        "params_bytes": _num_bytes(params),
        "state_bytes": _num_bytes(state),
    }


def _num_bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _measure(outcome: Outcome, num_steps: int) -> dict[str, Any]:
    """What is kept of one run; numbers that are not finite become null."""
    diverged = not (np.all(np.isfinite(outcome.losses)) and np.isfinite(outcome.validation_loss))
    steps = np.unique(np.linspace(0, num_steps - 1, min(MAX_POINTS, num_steps)).round().astype(int))

    def mean_of_last(share: float) -> float | None:
        return _number(np.mean(outcome.losses[-math.ceil(share * num_steps) :], dtype=np.float64))

    return {
        "diverged": diverged,
        "final_loss": None if diverged else mean_of_last(FINAL_SHARE),
        "tail_loss": None if diverged else mean_of_last(TAIL_SHARE),
        "mean_loss": None if diverged else mean_of_last(1.0),
        "validation_loss": None if diverged else _number(outcome.validation_loss),
        "validation_accuracy": None if diverged else _number(outcome.validation_accuracy),
        "losses": {
            "steps": steps.tolist(),  # updates made before the loss was computed
            "values": [_number(loss) for loss in outcome.losses[steps]],
        },
    }


def _number(value: Any) -> float | None:
    # Through the shortest decimal that gives the same float32: half the size of the file.
    return float(str(np.float32(value))) if np.isfinite(value) else None


@functools.cache
def software_versions() -> Mapping[str, str]:
    """Versions of what computes a run: other versions may give other numbers."""
    found = {}
    for package in ("mulo", "jax", "jaxlib", "optax", "dm-haiku", "flax", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
            continue
    return found
