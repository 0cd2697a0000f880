"""Carries out a suite: tunes where tuning is due, and runs what has not been run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from eval_tasks.contenders import Contender
from eval_tasks.costs import Cost, estimate_cost, seconds_of_run
from eval_tasks.data import load_data
from eval_tasks.data.source import Source
from eval_tasks.execution import (
    RUNS_PER_CALL,
    Executor,
    LocalExecutor,
    Work,
    check_step,
    errors_of_others,
)
from eval_tasks.result_lines import SCHEMA, Record
from eval_tasks.runs import Place, ResultStore, Run
from eval_tasks.software import software_versions
from eval_tasks.suites import Point, Series, Suite
from eval_tasks.task import make_task
from eval_tasks.tuning import choose, make_grid


class Advance(NamedTuple):
    """Runs that have just been made, or found."""

    runs: int
    seconds: float  # that they take about, as `eval_tasks.costs` estimates it
    found: bool  # in the store, or made for another optimizer
    words: str  # whose they are


Progress = Callable[[Advance], None]


def total_cost(suite: Suite, contenders: Sequence[Contender]) -> Cost:
    """What an evaluation of these costs where nothing is found."""
    return estimate_cost(suite, [(_kind(contender), contender.tuned_at) for contender in contenders])


def _kind(contender: Contender) -> str:
    return "baseline" if contender.provenance is None else "learned"


class Evaluation:
    """One suite; keeps data and what the executor keeps while it lasts.

    Args:
      suite: what to run.
      store: of finished runs, read and added to.
      progress: told of every call.
      executor: runs what has not been run; by default in this process.
      load: data of a name, with the splits that are trained on and validated on.
    """

    def __init__(
        self,
        suite: Suite,
        store: ResultStore,
        progress: Progress,
        executor: Executor | None = None,
        load: Callable[[str], Source] = load_data,
    ):
        self.suite, self.store, self.progress, self.load = suite, store, progress, load
        self.executor = LocalExecutor() if executor is None else executor
        self._sources: dict[str, Source] = {}

    def source(self, series: Series) -> Source:
        """The data of a series, read once.

        Raises:
          InputError: they cannot be read.
        """
        name = series.base.data_set
        if name not in self._sources:
            self._sources[name] = self.load(name)
        return self._sources[name]

    def evaluate(self, contenders: Sequence[Contender]) -> None:
        """Every optimizer at every value of every series; the results are in the store.

        First all tuning, then all runs with what it chose: what can be done at the same time is given to
        the executor at once.
        """
        for contender in contenders:
            if contender.is_external:
                self._check(contender)
        cells = [(c, s, value) for c in contenders for s in self.suite.series for value in s.values]
        tunings = {}
        for contender, series, value in cells:
            if contender.tuned_at:
                at = series.base_value if contender.tuned_at == "base value" else value
                tunings.setdefault((contender.label, series, at), contender)
        batches = [
            self._plan(contender, series, at, make_grid(contender.centre, self.suite.num_trials), "tune")
            for (_, series, at), contender in tunings.items()
        ]
        tuned = {
            tuning: choose(_losses_by_rate(records))
            for tuning, records in zip(tunings, self._carry_out(batches), strict=True)
        }
        batches = []
        for contender, series, value in cells:
            at = series.base_value if contender.tuned_at == "base value" else value
            rate = tuned.get((contender.label, series, at), contender.learning_rate)
            batches.append(self._plan(contender, series, value, [rate], "evaluate"))
        self._carry_out(batches)

    def _check(self, contender: Contender) -> None:
        """Refuses an optimizer of others that cannot make a step, before anything is run."""
        for series in self.suite.series:
            point = series.point(series.values[0])
            task = make_task(point.task, contender.parametrization, self.source(series), series.base.width)
            with errors_of_others(contender, point):
                check_step(contender, task, point.num_steps)

    def sweep(
        self, contender: Contender, series: Series, value: int, rates: Sequence[float]
    ) -> dict[float, list[float | None]]:
        """The training loss towards the end of each tuning seed at each learning rate; `None`: diverged."""
        (records,) = self._carry_out([self._plan(contender, series, value, rates, "tune")])
        return _losses_by_rate(records)

    def _plan(
        self,
        contender: Contender,
        series: Series,
        value: int,
        rates: Sequence[float | None],
        purpose: str,
    ) -> "_Batch":
        point = series.point(value)
        place = Place(
            suite=self.suite.name,
            size=self.suite.size,
            series=series.name,
            axis=series.axis,
            value=value,
            base_value=series.base_value,
            num_seeds=len(self.suite.seeds(purpose)),
            optimizer=contender.label,
            tuned_at=contender.tuned_at,
            provenance=contender.provenance,
            suite_changes=self.suite.changes,
        )
        runs = [
            self._run(contender, series, point, rate, purpose, seed)
            for rate in rates
            for seed in self.suite.seeds(purpose)
        ]
        return _Batch(contender=contender, series=series, point=point, place=place, runs=runs)

    def _run(
        self, contender: Contender, series: Series, point: Point, rate: float | None, purpose: str, seed: int
    ) -> Run:
        config = dict(contender.config)
        if contender.parametrization == "mup" and contender.provenance is None:
            config["base_width"] = series.base.width  # Adam's multipliers are relative to it
        return Run(
            optimizer_config=config,
            task=str(point.task),
            width=point.task.width,
            depth=point.task.depth,
            parametrization=contender.parametrization,
            learning_rate=rate,
            purpose=purpose,
            seed=seed,
            num_steps=point.num_steps,
            batch_size=point.batch_size,
            data_digest=self.source(series).digest,
            jax_version=jax.__version__,
            software=software_versions(contender.module),
            platform=self.executor.platform,
            runs_per_call=RUNS_PER_CALL,
        )

    def _carry_out(self, batches: Sequence["_Batch"]) -> list[list[Record]]:
        """The records of every batch; what is not in the store is run, each run once."""
        asked: set[str] = set()
        works = []
        for batch in batches:
            missing = [run for run in batch.runs if self.store.get(run.key) is None and run.key not in asked]
            asked |= {run.key for run in missing}
            found = len(batch.runs) - len(missing)
            if found:
                self.progress(batch.advance(found, found=True))
            for start in range(0, len(missing), RUNS_PER_CALL):
                runs = missing[start : start + RUNS_PER_CALL]
                works.append((batch, self._work(batch, runs)))
        for index, outcomes in self.executor.run([work for _, work in works]):
            batch, work = works[index]
            for run, outcome in zip(work.runs, outcomes, strict=True):
                self._append(batch, run, outcome)
            self.progress(batch.advance(len(work.runs), found=False))
        return [[self._at_its_place(batch, run) for run in batch.runs] for batch in batches]

    def _work(self, batch: "_Batch", runs: Sequence[Run]) -> Work:
        return Work(
            contender=batch.contender,
            point=batch.point,
            base_width=batch.series.base.width,
            source=self.source(batch.series),
            runs=tuple(runs),
        )

    def _append(self, batch: "_Batch", run: Run, outcome: Mapping[str, Any]) -> None:
        self.store.append({
            "key": run.key, "schema": SCHEMA, **dataclasses.asdict(batch.place), **dataclasses.asdict(run),
            **outcome,
        })  # fmt: skip

    def _at_its_place(self, batch: "_Batch", run: Run) -> Record:
        """The record of a run that is there; a line of its own where it was run for another comparison."""
        record = {**self.store.get(run.key), **dataclasses.asdict(batch.place)}
        if not self.store.has(record):
            self.store.append(record)
        return record


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Batch:
    """The runs of one optimizer at one value."""

    contender: Contender
    series: Series
    point: Point
    place: Place
    runs: Sequence[Run]

    def advance(self, runs: int, *, found: bool) -> Advance:
        tuning = ", tuning" if self.runs[0].purpose == "tune" else ""
        return Advance(
            runs=runs,
            seconds=runs * seconds_of_run(self.point, _kind(self.contender)),
            found=found,
            words=f"{self.contender.label}, {self.point.task}, {self.point.num_steps} steps{tuning}",
        )


def _losses_by_rate(records: Sequence[Record]) -> dict[float, list[float | None]]:
    losses: dict[float, list[float | None]] = {}
    for record in records:
        loss = record.get("tail_loss", record["final_loss"])  # others may write the latter alone
        losses.setdefault(record["learning_rate"], []).append(loss)
    return losses
