"""Makes inner runs: the compiled program of each kind of run, and what is kept of its outcome."""

import contextlib
import dataclasses
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
from eval_tasks.foreign_code import one_line_errors
from eval_tasks.models import MODELS
from eval_tasks.objectives import OBJECTIVES
from eval_tasks.runs import Run
from eval_tasks.software import software_versions
from eval_tasks.suites import Point
from eval_tasks.task import Task, make_task
from eval_tasks.training import InnerOptimizer, Outcome, Trained, make_programs
from mulo.errors import InputError
from mulo.printing import printable

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

    platform: str  # that runs are computed on: "cpu", "gpu" or "tpu"

    def run(self, works: Sequence[Work]) -> Iterator[tuple[int, Outcomes]]:
        """Yields the index of each work with the outcomes of its runs, as they are finished."""


class LocalExecutor:
    """Does one after the other in this process, and keeps what it has compiled.

    Args:
      notify: told, in a line, what is being compiled: that takes from seconds to minutes.
    """

    def __init__(self, notify: Callable[[str], None] = lambda _: None):
        self.platform, self._notify = jax.default_backend(), notify
        self._tasks: dict[tuple[str, str, int], Task] = {}
        self._programs: dict[tuple[Any, ...], _Program] = {}

    def run(self, works: Sequence[Work]) -> Iterator[tuple[int, Outcomes]]:
        """Yields the outcomes in order.

        Raises:
          InputError: the device's memory is too small, or an optimizer of others cannot be run.
        """
        for index, work in enumerate(works):
            with errors_of_others(work.contender, work.point), _memory_errors(work):
                outcomes = self._execute(work)
            yield index, outcomes

    def _execute(self, work: Work) -> Outcomes:
        # Filled up with copies of the last one, so that every call has the same compiled program.
        padded = [*work.runs, *[work.runs[-1]] * (RUNS_PER_CALL - len(work.runs))]
        keys = jnp.stack([
            jax.random.fold_in(jax.random.key(run.seed), _PURPOSES[run.purpose]) for run in padded
        ])  # fmt: skip
        setting = work.contender.make_setting([run.learning_rate for run in padded])
        program = self._program(work, setting, keys)
        began = time.monotonic()
        trained = jax.block_until_ready(program.train(work.source, setting, keys))
        trained_at = time.monotonic()
        outcome = jax.tree.map(np.asarray, program.judge(work.source, trained, keys))
        facts = {
            **program.facts,
            "step_seconds": (trained_at - began) / RUNS_PER_CALL / work.point.num_steps,
            "wall_seconds": round((time.monotonic() - began) / RUNS_PER_CALL, 4),
            "data": work.source.provenance(),
            "device": (device := jax.devices()[0].device_kind),
            "versions": {
                "python": platform.python_version(),
                "device": device,
                **software_versions(work.contender.module),
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
            self._notify(f"compiling {printable(contender.label, 120)}, {point.task}")
            task = self._task(work)
            optimizer = contender.make(task, point.num_steps)
            train, judge = make_programs(
                task,
                optimizer,
                num_steps=point.num_steps,
                batch_size=point.batch_size,
                map_settings=contender.map_settings,
            )
            one = jax.tree.map(lambda x: x[0], setting) if contender.map_settings else setting
            lowered = train.lower(work.source, setting, keys)
            self._programs[name] = _Program(
                train=lowered.compile(),
                judge=judge.lower(work.source, lowered.out_info, keys).compile(),
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
    train: Callable[..., Trained]
    judge: Callable[..., Outcome]
    facts: Mapping[str, Any]


def errors_of_others(contender: Contender, point: Point) -> contextlib.AbstractContextManager[None]:
    """Says in one line what goes wrong in the code of others. Errors in ours keep their traceback."""
    if not contender.is_external:
        return contextlib.nullcontext()
    return one_line_errors(f"{contender.label} fails on {point.task}")


@contextlib.contextmanager
def _memory_errors(work: Work) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(
            f"{work.contender.label} on {work.point.task}: out of device memory with {RUNS_PER_CALL} runs at "
            "once. Take a smaller --batch-size or a smaller size of the suite."
        ) from error


def check_step(contender: Contender, task: Task, num_steps: int) -> None:
    """Traces one update of an optimizer, without computing it; raises what it raises.

    Raises:
      ValueError: the updates are not like the parameters, or the state changes its form.
    """
    optimizer = contender.make(task, num_steps)
    setting = jax.tree.map(lambda x: x[0], contender.make_setting([0.1]))

    def step(key: jax.Array) -> Any:
        params = task.init(key)
        state = optimizer.init(setting, params, num_steps)
        updates, after = optimizer.update(setting, state, params, params, jnp.float32(0.0))
        return params, updates, state, after

    params, updates, before, after = jax.eval_shape(step, jax.random.key(0))
    for what, one, other in (("updates", updates, params), ("state", after, before)):
        if jax.tree.map(jnp.shape, one) != jax.tree.map(jnp.shape, other):
            wanted = "of the shapes of the parameters" if what == "updates" else "as it was before the update"
            raise ValueError(f"its {what} after an update are not {wanted}")


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
    bins = np.array_split(np.arange(num_steps), min(MAX_POINTS, num_steps))

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
            # Means over as many stretches; the updates made before the loss in the middle of each.
            "steps": [int(steps[len(steps) // 2]) for steps in bins],
            "values": [_number(np.mean(outcome.losses[steps], dtype=np.float64)) for steps in bins],
        },
    }


def _number(value: Any) -> float | None:
    # Through the shortest decimal that gives the same float32: half the size of the file.
    return float(str(np.float32(value))) if np.isfinite(value) else None
