"""Inner runs by workers on Ray. Imports no JAX."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.exceptions

from eval_tasks.workers.errors import ClusterLostError
from eval_tasks.workers.private_folders import compilation_cache
from eval_tasks.workers.ray_clusters import RayCluster, actor_options, one_line
from mulo.errors import InputError
from mulo.printing import printable

if TYPE_CHECKING:
    from eval_tasks.execution import Outcomes, Work

_MAX_TRIES = 3
"""Of a work whose worker dies in it."""

_WAIT_SECONDS = 2.0
_START_SECONDS = 600.0
"""Without any worker, before it is given up: they may wait for machines, and import JAX."""


class RunActor:
    """One worker, in a process of its own."""

    def __init__(self, sources: Sequence[str], folder: str):
        """Makes the optimizers anew: `sources` as on the command line, given in `folder`."""
        os.chdir(folder)
        import jax

        from eval_tasks.contenders import make_contenders
        from eval_tasks.execution import LocalExecutor

        cache = compilation_cache()
        if cache is not None:
            jax.config.update("jax_compilation_cache_dir", str(cache))
        self._contenders = {contender.label: contender for contender in make_contenders(sources)}
        self._executor = LocalExecutor()
        self._data: dict[str, Any] = {}

    def hello(self) -> int:
        """Says that the process is there."""
        return os.getpid()

    def carry_out(
        self, label: str, config: Any, data_set: str, digest: str, fields: dict[str, Any]
    ) -> "Outcomes":
        """See `eval_tasks.execution.Work`."""
        from eval_tasks.data import load_data
        from eval_tasks.execution import Work
        from eval_tasks.software import software_versions

        here, wanted = (
            dict(software_versions(self._contenders[label].module)),
            dict(fields["runs"][0].software),
        )
        if here != wanted:
            raise InputError(
                f"A worker at {ray.util.get_node_ip_address()} has other software ({here}) than the process "
                f"that it works for ({wanted}). Install the same everywhere."
            )
        if data_set not in self._data:
            self._data[data_set] = load_data(data_set)
        source, contender = self._data[data_set], self._contenders[label]
        if source.digest != digest or dict(contender.config) != config:
            raise InputError(
                f"A worker at {ray.util.get_node_ip_address()} finds other data or another {label} than the "
                "process that it works for. Put the same files at the same places on every machine."
            )
        ((_, outcomes),) = self._executor.run([Work(contender=contender, source=source, **fields)])
        return outcomes


class RayExecutor:
    """Does works on workers, each where its program is compiled, if it is anywhere.

    Args:
      cluster: connected.
      sources: the optimizers, as on the command line.
      notify: told, in a line, of workers that are lost.
      compiling: told, in a line, what a worker is going to compile.
    """

    def __init__(
        self,
        cluster: RayCluster,
        sources: Sequence[str],
        notify: Callable[[str], None],
        compiling: Callable[[str], None] = lambda _: None,
    ):
        self._compiling = compiling
        self.platform = "gpu" if cluster.options.gpus else "cpu"
        self._cluster, self._sources, self._notify = cluster, list(sources), notify
        self._actors: dict[int, Any] = {}
        self._ready: set[int] = set()
        self._starting: dict[Any, int] = {}  # first answer: worker
        self._compiled: dict[int, set[Any]] = {}

    def run(self, works: Sequence["Work"]) -> Iterator[tuple[int, "Outcomes"]]:
        """Yields outcomes as they come.

        Raises:
          InputError: a work cannot be done, no worker is left, or Ray is lost.
        """
        waiting = dict(enumerate(works))
        tries = dict.fromkeys(waiting, 0)
        under_way: dict[Any, tuple[int, int]] = {}  # answer: work, worker
        while len(self._actors) < min(self._cluster.options.num_workers, len(works)):
            self._start(len(self._actors))
        last_heard = time.monotonic()
        while waiting or under_way:
            busy = {worker for _, worker in under_way.values()}
            for worker in sorted(self._ready - busy):
                if waiting:
                    index = self._choose(worker, waiting)
                    under_way[self._submit(worker, waiting.pop(index))] = index, worker
            self._check(last_heard if not under_way else None)
            done, _ = ray.wait([*under_way, *self._starting], num_returns=1, timeout=_WAIT_SECONDS)
            for answer in done:
                last_heard = time.monotonic()
                if answer in self._starting:
                    self._take_over(answer)
                    continue
                index, worker = under_way.pop(answer)
                outcomes = self._outcomes(answer, worker, works[index], tries, index)
                if outcomes is None:
                    waiting[index] = works[index]
                else:
                    yield index, outcomes

    def _check(self, waiting_since: float | None) -> None:
        """Refuses to wait for Ray, or for workers, that do not come."""
        try:
            self._cluster.check()
        except ClusterLostError as error:
            raise InputError(str(error)) from error
        if waiting_since is not None and time.monotonic() - waiting_since > _START_SECONDS:
            raise InputError(f"No worker has been there for {_START_SECONDS:.0f} seconds.")

    def _take_over(self, answer: Any) -> None:
        """A worker has said that it is there, or could not be started."""
        worker = self._starting.pop(answer)
        try:
            ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            raise InputError(f"A worker cannot begin: {one_line(cause)}") from error
        except ray.exceptions.RayError as error:
            self._notify(f"Worker {worker} could not be started and is tried again ({one_line(error)}).")
            self._start(worker)
            return
        self._ready.add(worker)

    def _outcomes(
        self, answer: Any, worker: int, work: "Work", tries: dict[int, int], index: int
    ) -> "Outcomes | None":
        """What a worker answers; `None` where it died, and another is in its place."""
        try:
            return ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            words = "" if isinstance(cause, InputError) else f"{_words(work)}: "
            raise InputError(f"{words}{one_line(cause)}") from error
        except ray.exceptions.RayError as error:
            tries[index] += 1
            if tries[index] == _MAX_TRIES:
                raise InputError(
                    f"{_words(work)}: {_MAX_TRIES} workers died in it, the last with: {one_line(error)}"
                ) from error
            self._notify(f"Worker {worker} was lost and is replaced ({one_line(error)}).")
            self._start(worker)
            return None

    def _start(self, worker: int) -> None:
        self._compiled[worker] = set()
        self._ready.discard(worker)
        options = actor_options(self._cluster.options)
        variables = options["runtime_env"]["env_vars"]
        for name in ("MULO_DATA_DIR", "XDG_CACHE_HOME"):
            if name in os.environ:
                variables[name] = os.environ[name]
        actor = ray.remote(RunActor).options(**options).remote(self._sources, str(Path.cwd()))
        self._actors[worker] = actor
        self._starting[actor.hello.remote()] = worker

    def _submit(self, worker: int, work: "Work") -> Any:
        if _program_of(work) not in self._compiled[worker]:
            self._compiling(f"worker {worker} is compiling {printable(_words(work), 200)}")
        self._compiled[worker].add(_program_of(work))
        fields = {"point": work.point, "base_width": work.base_width, "runs": work.runs}
        contender = work.contender
        return self._actors[worker].carry_out.remote(
            contender.label, dict(contender.config), work.source.name, work.source.digest, fields
        )

    def _choose(self, worker: int, waiting: dict[int, "Work"]) -> int:
        """Rather what this worker has compiled than what none has, and that rather than another's."""
        anywhere = set().union(*self._compiled.values())

        def rank(index: int) -> tuple[int, int]:
            program = _program_of(waiting[index])
            return (0 if program in self._compiled[worker] else 1 if program not in anywhere else 2), index

        return min(waiting, key=rank)

    def close(self) -> None:
        """Ends the workers."""
        for actor in self._actors.values():
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor, no_restart=True)


def _program_of(work: "Work") -> tuple[Any, ...]:
    return work.point, work.base_width, work.contender.parametrization, work.contender.program


def _words(work: "Work") -> str:
    return f"{work.contender.label} on {work.point.task}"
