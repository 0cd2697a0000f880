"""Carries out a suite: tunes where tuning is due, runs what has not been run, and gathers the results."""

import dataclasses
import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eval_tasks.contenders import Contender
from eval_tasks.data.source import Source
from eval_tasks.runs import Record, ResultStore, Run
from eval_tasks.suites import Suite
from eval_tasks.task import Task, make_task
from eval_tasks.training import Outcome, make_program
from eval_tasks.tuning import GRID, Choice, choose

RUNS_PER_CALL = 3  # fixed, because the number of runs in one call changes their last bits
MAX_POINTS = 200  # of a stored loss curve
_PURPOSES = {"tune": 0, "evaluate": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """The result of one optimizer at one width."""

    learning_rate: float | None
    tuned_at: str  # as in `Contender`
    at_edge: bool  # the learning rate is at an edge of the grid
    records: Sequence[Record]  # one for each seed


Results = Mapping[str, Mapping[int, Cell]]  # by label, then by width
Progress = Callable[[int, str], None]  # runs that have just been finished or found; what is being done


def count_runs(suite: Suite, contenders: Sequence[Contender]) -> int:
    """How many runs an evaluation of these has."""
    num_tunings = {"": 0, "base width": 1, "each width": len(suite.widths)}
    points = [len(suite.widths) + num_tunings[c.tuned_at] * len(GRID) for c in contenders]
    return sum(points) * suite.num_seeds


class Evaluation:
    """One suite on one data set; keeps tasks and compiled programs while it lasts.

    Args:
      suite: what to run.
      source: its data.
      store: of finished runs, read and added to.
      progress: told of every call.
    """

    def __init__(self, suite: Suite, source: Source, store: ResultStore, progress: Progress):
        self.suite, self.source, self.store, self.progress = suite, source, store, progress
        self._reported: set[str] = set()
        self._tasks: dict[tuple[int, str], Task] = {}
        self._programs: dict[tuple[int, str, str], Callable[..., Outcome]] = {}

    def cell(self, contender: Contender, width: int) -> Cell:
        """Runs one optimizer at one width; tunes it first where that is due."""
        choice = Choice(contender.learning_rate, at_edge=False)
        if contender.tuned_at:
            choice = self._tune(
                contender, self.suite.base_width if contender.tuned_at == "base width" else width
            )
        records = self._records(contender, width, [choice.learning_rate], "evaluate")
        return Cell(
            learning_rate=choice.learning_rate,
            tuned_at=contender.tuned_at,
            at_edge=choice.at_edge,
            records=records,
        )

    def _tune(self, contender: Contender, width: int) -> Choice:
        return choose(self.sweep(contender, width, GRID))

    def sweep(
        self, contender: Contender, width: int, rates: Sequence[float]
    ) -> dict[float, list[float | None]]:
        """The final training loss of each tuning seed at each learning rate; `None` where it diverged."""
        losses: dict[float, list[float | None]] = {rate: [] for rate in rates}
        for record in self._records(contender, width, rates, "tune"):
            losses[record["learning_rate"]].append(record["final_loss"])
        return losses

    def _records(
        self, contender: Contender, width: int, rates: Sequence[float | None], purpose: str
    ) -> list[Record]:
        """The records of all seeds at each learning rate; those not in the store are run."""
        runs = [
            self._run(contender, width, rate, purpose, seed) for rate in rates for seed in self.suite.seeds
        ]
        missing = [run for run in runs if self.store.get(run.key) is None]
        what = f"{contender.label}, width {width}" + (", tuning" if purpose == "tune" else "")
        self._report([run for run in runs if self.store.get(run.key) is not None], what)
        for start in range(0, len(missing), RUNS_PER_CALL):
            group = missing[start : start + RUNS_PER_CALL]
            for record in self._execute(contender, group):
                self.store.append(record)
            self._report(group, what)
        return [self.store.get(run.key) for run in runs]

    def _report(self, runs: Sequence[Run], what: str) -> None:
        # Contenders share runs: what was tuned at the base width is asked for at every width.
        keys = {run.key for run in runs} - self._reported
        self._reported |= keys
        self.progress(len(keys), what)

    def _execute(self, contender: Contender, runs: Sequence[Run]) -> list[Record]:
        """Runs at most `RUNS_PER_CALL` runs of one width in one call."""
        # Filled up with copies of the last one, so that every call has the same compiled program.
        padded = [*runs, *[runs[-1]] * (RUNS_PER_CALL - len(runs))]
        keys = [jax.random.fold_in(jax.random.key(run.seed), _PURPOSES[run.purpose]) for run in padded]
        setting = contender.make_setting([run.learning_rate for run in padded])
        began = time.monotonic()
        outcome = self._program(contender, runs[0].width)(self.source, setting, jnp.stack(keys))
        outcome = jax.tree.map(np.asarray, outcome)
        wall_seconds = (time.monotonic() - began) / len(runs)
        return [
            _make_record(run, jax.tree.map(lambda x, i=index: x[i], outcome), wall_seconds, self.source)
            for index, run in enumerate(runs)
        ]

    def _program(self, contender: Contender, width: int) -> Callable[..., Outcome]:
        key = (width, contender.parametrization, contender.program)
        if key not in self._programs:
            self._programs[key] = make_program(
                (task := self._task(width, contender.parametrization)),
                contender.make(task),
                num_steps=self.suite.num_steps,
                batch_size=self.suite.batch_size,
                map_settings=contender.map_settings,
            )
        return self._programs[key]

    def _task(self, width: int, parametrization: str) -> Task:
        if (width, parametrization) not in self._tasks:
            name = self.suite.task_name(width)
            self._tasks[width, parametrization] = make_task(
                name, parametrization, self.source, self.suite.base_width
            )
        return self._tasks[width, parametrization]

    def _run(self, contender: Contender, width: int, rate: float | None, purpose: str, seed: int) -> Run:
        config = dict(contender.config)
        if contender.parametrization == "mup" and contender.map_settings:
            config["base_width"] = self.suite.base_width  # Adam's multipliers are relative to it
        return Run(
            suite=self.suite.name,
            optimizer=contender.label,
            optimizer_config=config,
            task=str(self.suite.task_name(width)),
            width=width,
            parametrization=contender.parametrization,
            learning_rate=rate,
            purpose=purpose,
            seed=seed,
            num_steps=self.suite.num_steps,
            batch_size=self.suite.batch_size,
            data_digest=self.source.digest,
            jax_version=jax.__version__,
        )


def _make_record(run: Run, outcome: Outcome, wall_seconds: float, source: Source) -> Record:
    """The line of one run; numbers that are not finite become null."""
    diverged = not (np.all(np.isfinite(outcome.losses)) and np.isfinite(outcome.validation_loss))
    last = outcome.losses[-math.ceil(run.num_steps / 10) :]
    steps = np.unique(np.linspace(0, run.num_steps - 1, min(MAX_POINTS, run.num_steps)).round().astype(int))
    return {
        "key": run.key,
        **dataclasses.asdict(run),
        "data": source.provenance(),
        "final_loss": None if diverged else _number(np.mean(last, dtype=np.float64)),
        "validation_loss": None if diverged else _number(outcome.validation_loss),
        "validation_accuracy": None if diverged else _number(outcome.validation_accuracy),
        "diverged": diverged,
        "losses": {
            "steps": steps.tolist(),  # updates made before the loss was computed
            "values": [_number(loss) for loss in outcome.losses[steps]],
        },
        "wall_seconds": round(wall_seconds, 4),  # the call's, shared out; the first of a width compiles
        "versions": _versions(),
    }


def _number(value: Any) -> float | None:
    # Through the shortest decimal that gives the same float32: half the size of the file.
    return float(str(np.float32(value))) if np.isfinite(value) else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "device": jax.devices()[0].device_kind}
    for package in ("mulo", "jax", "jaxlib", "optax", "dm-haiku", "flax", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
            continue
    return found
