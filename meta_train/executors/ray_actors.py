"""Workers of meta-training as Ray actors, one for each place. Imports no JAX."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from eval_tasks.workers.errors import ClusterLostError
from eval_tasks.workers.private_folders import compilation_cache
from eval_tasks.workers.ray_clusters import RayCluster, actor_options, one_line
from meta_train.config import MetaTrainConfig
from meta_train.errors import ExecutorError
from meta_train.executors.interface import Answered, Died, Event, Ready, Started
from meta_train.executors.messages import Answer, Facts, Request
from mulo.errors import InputError
from mulo.safe_files import make_folder, open_file

_log = logging.getLogger(__name__)


class WorkerActor:
    """One worker, in a process of its own."""

    def __init__(self, log_path: str | None):
        """Only takes over the log; reading and compiling is a call of its own."""
        self._worker: Any = None
        if log_path is not None:
            with contextlib.suppress(OSError):
                log = open_file(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                    os.dup2(log, stream.fileno())
        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, force=True)

    def hello(self) -> int:
        """Says that the process is there."""
        return os.getpid()

    def prepare(self, config: MetaTrainConfig, need_gpu: bool) -> Facts:
        """Reads the data and compiles."""
        import jax

        from meta_train.executors.worker import SlotWorker
        from meta_train.programs import build_programs

        if need_gpu and jax.default_backend() == "cpu":
            raise InputError(
                "A worker was given a GPU, and JAX sees none. Install JAX for it: pip install 'jax[cuda13]'."
            )
        cache = compilation_cache()
        if cache is not None:
            jax.config.update("jax_compilation_cache_dir", str(cache))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        self._worker = SlotWorker(config, build_programs(config))
        facts = self._worker.prepare()
        _log.info("ready: %s; programs are kept in %s", facts, cache or "no file")
        return facts

    def carry_out(self, request: Request) -> Answer:
        """See `SlotWorker`."""
        try:
            return self._worker.carry_out(request)
        except Exception:
            _log.exception(
                "meta-step %d, slots %s", request.meta_step, [o.slot_index for o in request.orders]
            )
            raise


class WorkerCluster(RayCluster):
    """See `meta_train.executors.clusters.Cluster`."""

    def make_pool(self, config: MetaTrainConfig, log_folder: os.PathLike[str] | None) -> "RayPool":
        """See `meta_train.executors.clusters.Cluster`."""
        return RayPool(self, config, log_folder)


class RayPool:
    """See `meta_train.executors.interface.WorkerPool`."""

    actor_class = WorkerActor

    def __init__(self, cluster: RayCluster, config: MetaTrainConfig, log_folder: os.PathLike[str] | None):
        """Starts no worker yet.

        Args:
          cluster: connected.
          config: of the run.
          log_folder: the workers write their logs there, where they can.
        """
        self._cluster, self._config, self._log_folder = cluster, config, log_folder
        self._actors: dict[int, Any] = {}
        self._refs: dict[Any, tuple[int, Callable[[int, Any], Event]]] = {}
        if log_folder is not None:
            make_folder(log_folder).close()

    def start(self, worker_id: int, place: int) -> None:
        """See `meta_train.executors.interface.WorkerPool`."""
        if not self._cluster.is_there():
            return
        log = None
        if self._log_folder is not None:
            log = str(Path(self._log_folder).absolute() / f"worker-{place}-{worker_id}.log")
        actor = ray.remote(self.actor_class).options(**actor_options(self._cluster.options)).remote(log)
        self._actors[worker_id] = actor
        self._expect(actor.hello.remote(), worker_id, lambda worker_id, _: Started(worker_id))
        need_gpu = bool(self._cluster.options.gpus)
        self._expect(actor.prepare.remote(self._config, need_gpu), worker_id, Ready)

    def submit(self, worker_id: int, request: Request) -> None:
        """See `meta_train.executors.interface.WorkerPool`."""
        self._expect(self._actors[worker_id].carry_out.remote(request), worker_id, Answered)

    def poll(self, timeout: float) -> list[Event]:
        """See `meta_train.executors.interface.WorkerPool`."""
        try:
            self._cluster.check()
        except ClusterLostError as error:
            raise ExecutorError(str(error)) from error
        if not self._refs:
            time.sleep(timeout)
            return []
        done, _ = ray.wait(list(self._refs), num_returns=1, timeout=timeout)
        if done and len(self._refs) > 1:
            done, _ = ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0)
        return [event for ref in done if (event := self._event(ref)) is not None]

    def end(self, worker_id: int) -> None:
        """See `meta_train.executors.interface.WorkerPool`."""
        actor = self._actors.pop(worker_id, None)
        self._refs = {ref: entry for ref, entry in self._refs.items() if entry[0] != worker_id}
        if actor is not None and self._cluster.is_there():
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """See `meta_train.executors.interface.WorkerPool`."""
        if not self._cluster.lost:
            for worker_id in list(self._actors):
                self.end(worker_id)

    def _expect(self, ref: Any, worker_id: int, make_event: Callable[[int, Any], Event]) -> None:
        self._refs[ref] = worker_id, make_event

    def _event(self, ref: Any) -> Event | None:
        entry = self._refs.pop(ref, None)
        if entry is None:  # of a worker that another answer of this batch has ended
            return None
        worker_id, make_event = entry
        try:
            return make_event(worker_id, ray.get(ref))
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            text = f"{type(cause).__name__}: {one_line(cause)}"
            if "RESOURCE_EXHAUSTED" in text:
                text += (
                    " (out of device memory: less --workers-per-gpu, or a new run with less --pairs-per-slot)"
                )
            return Died(worker_id, text, hopeless=isinstance(cause, InputError) or "EXHAUSTED" in text)
        except ray.exceptions.RayError as error:
            return Died(worker_id, f"{type(error).__name__}: {one_line(error)}")
