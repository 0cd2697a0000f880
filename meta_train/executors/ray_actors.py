"""Workers as Ray actors, one for each place. The only file that imports Ray. Imports no JAX."""

import contextlib
import logging
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray._private import services
from ray.util.metrics import Gauge

from meta_train.config import MetaTrainConfig
from meta_train.errors import ExecutorError
from meta_train.executors.messages import Answer, Facts, Request
from meta_train.executors.options import WorkerOptions
from meta_train.executors.pool import Answered, Died, Event, Ready, Started
from meta_train.executors.ports import answers, host_and_port, public_addresses
from meta_train.executors.private_folders import compilation_cache, make_temporary_folder
from mulo.errors import InputError

_log = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 256 * 2**20
_HEALTH_SECONDS = 2.0
"""How often Ray itself is looked at."""

_LOST_SECONDS = 6.0
"""Ray on this machine is lost when it has not answered for so long."""

_FAR_LOST_SECONDS = 30.0
"""The same of a cluster elsewhere: networks pause. Ray's own library ends this process after 60 s."""

_SHUTDOWN_SECONDS = 10.0

_KNOCK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
_KNOCK_SECONDS = 5.0
"""A cluster lets in whom it lets in within a second."""

_PUBLISHED = (
    *("num_workers", "worker_inner_steps_per_second", "worker_busy_fraction", "executor_seconds"),
    *("driver_seconds", "restarts", "replays"),
)


class WorkerActor:
    """One worker, in a process of its own."""

    def __init__(self, log_path: str | None):
        """Only takes over the log; reading and compiling is a call of its own."""
        self._worker: Any = None
        if log_path is not None:
            with contextlib.suppress(OSError):
                log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
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


def count_gpus_here() -> int:
    """GPUs of this machine, without starting anything."""
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager as Nvidia

    visible = Nvidia.get_current_process_visible_accelerator_ids()
    return Nvidia.get_current_node_num_accelerators() if visible is None else len(visible)


@contextlib.contextmanager
def open_cluster(options: WorkerOptions) -> Iterator["RayCluster"]:
    """A Ray cluster for one run: that of `options.address`, or one of this machine alone.

    Raises:
      InputError: there are fewer GPUs or CPUs than asked for, the cluster does not answer, or it is open.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled" and not options.insecure:
        raise InputError(
            "RAY_AUTH_MODE=disabled: whoever reaches Ray's ports could run code here. Unset it, or give "
            "--insecure."
        )
    if options.address is None and options.gpus:
        _check_found(options, count_gpus_here())
    with contextlib.ExitStack() as stack:
        folder = None
        if options.address is None:
            folder, owner = make_temporary_folder()
            stack.enter_context(owner)
        cluster = RayCluster(options, folder)
        stack.callback(cluster.close)
        cluster.connect()
        yield cluster


def _check_found(options: WorkerOptions, found: float) -> None:
    """Refuses to wait for what is not there."""
    workers = int(found * options.workers_per_gpu)
    if workers >= (options.min_workers or options.num_workers):
        return
    what, where = ("GPU" if options.gpus else "CPU"), (options.address or "this machine")
    least = f", with at least {options.min_workers} workers" if options.min_workers else ""
    raise InputError(
        f"--{what.lower()}s {options.gpus}".replace("--cpus 0", f"--workers {options.workers}")
        + f"{least}: found {int(found)} free {what}{'s' * (int(found) != 1)} at {where}. Ask for as many, or "
        "give --min-workers to begin with less."
    )


class RayCluster:
    """A connection to Ray, and what was started for it."""

    def __init__(self, options: WorkerOptions, folder: Path | None):
        """Starts nothing. `folder`: private, for Ray's files; `None` = the cluster is somebody else's."""
        self.options, self.folder = options, folder
        self._watched: list[tuple[str, int]] = []
        self._answered = time.monotonic()
        self._looked = 0.0
        self.lost = False

    def connect(self) -> None:
        """Starts Ray, or joins it."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"
        logging.getLogger("ray").setLevel(logging.CRITICAL)  # what matters is said by us, in one line
        common = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.CRITICAL}
        if self.folder is None:
            self._join(common)
        else:
            self._start(self.folder, common)
        node = next(n for n in ray.nodes() if n["NodeID"] == ray.get_runtime_context().get_node_id())
        self._watched = [
            host_and_port(ray.get_runtime_context().gcs_address),
            (node["NodeManagerAddress"], node["NodeManagerPort"]),
        ]
        if self.folder is not None and not self.options.insecure:
            self._check_loopback()

    def _check_loopback(self) -> None:
        """Refuses a Ray whose ports other machines reach: another version may not listen where it is told."""
        for host in public_addresses():
            for _, port in self._watched:
                if answers(host, port):
                    raise InputError(
                        f"Ray {ray.__version__} listens on {host}:{port}, where other machines reach it; "
                        "wanted 127.0.0.1 alone. Install ray==2.60.0, or give --insecure."
                    )

    def _start(self, folder: Path, common: dict[str, Any]) -> None:
        inner = (
            folder / "r"
        )  # Ray opens its own folder to everybody (mode 0777); the one around it stays closed
        mask = os.umask(0o077)
        try:
            if not self.options.insecure:
                token = folder / "token"  # of this cluster alone; with it, `ray.init` asks everybody for it
                token.write_text(secrets.token_hex(32))
                os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
                ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
            with _on_loopback():
                ray.init(
                    address="local",  # whatever RAY_ADDRESS says
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=str(inner),
                    _node_ip_address="127.0.0.1",
                    **common,
                )
        finally:
            os.umask(mask)

    def _join(self, common: dict[str, Any]) -> None:
        address = self.options.address
        if "://" in address:
            raise InputError(
                f"--address {address}: Ray's client is not supported. Run this on a machine of the cluster, "
                "with --address HOST:PORT or auto."
            )
        host, _, port = address.rpartition(":")
        if host and port.isdigit() and not answers(host, int(port)):
            raise InputError(f"--address {address}: nothing answers there. Start it: ray start --head.")
        local = host in ("127.0.0.1", "localhost")
        try:
            with _on_loopback() if local else contextlib.nullcontext():
                ray.init(address=address, **common)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
            here = os.environ.get("RAY_AUTH_MODE")
            hint = "" if here == "token" else " If it asks for a token, set RAY_AUTH_MODE=token here too."
            raise InputError(f"--address {address}: {_one_line(error)}{hint}") from error
        closed = os.environ.get("RAY_AUTH_MODE") == "token" and _asks_for_token()
        if not closed and not self.options.insecure:
            raise InputError(
                f"--address {address}: this cluster asks for no token, so whoever reaches it can run code "
                "here. Start it with RAY_AUTH_MODE=token, or give --insecure."
            )
        _check_found(self.options, ray.available_resources().get("GPU" if self.options.gpus else "CPU", 0.0))

    def make_pool(self, config: MetaTrainConfig, log_folder: Path | None) -> "RayPool":
        """See `meta_train.executors.clusters.Cluster`."""
        return RayPool(self, config, log_folder)

    def check(self) -> None:
        """Looks now and then whether Ray is there.

        Raises:
          ExecutorError: it has not been there for some seconds.
        """
        now = time.monotonic()
        if now - self._looked < _HEALTH_SECONDS:
            return
        self._looked = now
        silent = [place for place in self._watched if not answers(*place)]
        if not silent:
            self._answered = time.monotonic()
        elif time.monotonic() - self._answered > (_LOST_SECONDS if self.folder else _FAR_LOST_SECONDS):
            self.lost = True
            host, port = silent[0]
            raise ExecutorError(f"Ray is lost: {host}:{port} does not answer any more.")

    def is_there(self) -> bool:
        """Whether Ray can be told anything: where nobody listens, calls wait for a minute. See `check`."""
        return answers(*self._watched[0])

    def close(self) -> None:
        """Leaves the cluster, and ends it if it is ours. Returns in some seconds, whatever has happened."""
        node = ray._private.worker._global_node
        thread = threading.Thread(target=ray.shutdown, daemon=True)
        if not self.lost:
            thread.start()
            thread.join(_SHUTDOWN_SECONDS)
        if self.folder is None:
            return
        if self.lost or thread.is_alive():
            with contextlib.suppress(Exception):
                node.kill_all_processes(check_alive=False, allow_graceful=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Lets Ray listen on 127.0.0.1 alone.

    Asked for 127.0.0.1, Ray (2.60) takes the machine's public address instead and then listens on all
    interfaces; where it keeps 127.0.0.1, every process of the node listens there only.
    """
    before = services.resolve_ip_for_localhost, services.get_node_ip_address
    services.resolve_ip_for_localhost = lambda host: host
    services.get_node_ip_address = lambda *_, **__: "127.0.0.1"
    try:
        yield
    finally:
        services.resolve_ip_for_localhost, services.get_node_ip_address = before


class RayPool:
    """See `meta_train.executors.pool.WorkerPool`."""

    actor_class = WorkerActor

    def __init__(self, cluster: RayCluster, config: MetaTrainConfig, log_folder: Path | None):
        """Starts no worker yet.

        Args:
          cluster: connected.
          config: of the run.
          log_folder: the workers write their logs there, where they can.
        """
        self._cluster, self._config, self._log_folder = cluster, config, log_folder
        self._actors: dict[int, Any] = {}
        self._refs: dict[Any, tuple[int, Callable[[int, Any], Event]]] = {}
        self._gauges: dict[str, Gauge] = {}
        if log_folder is not None:
            log_folder.mkdir(exist_ok=True)

    def start(self, worker_id: int, place: int) -> None:
        """See `meta_train.executors.pool.WorkerPool`."""
        if not self._cluster.is_there():
            return
        log = None
        if self._log_folder is not None:
            log = str(self._log_folder.absolute() / f"worker-{place}-{worker_id}.log")
        actor = ray.remote(self.actor_class).options(**actor_options(self._cluster.options)).remote(log)
        self._actors[worker_id] = actor
        self._expect(actor.hello.remote(), worker_id, lambda worker_id, _: Started(worker_id))
        need_gpu = bool(self._cluster.options.gpus)
        self._expect(actor.prepare.remote(self._config, need_gpu), worker_id, Ready)

    def submit(self, worker_id: int, request: Request) -> None:
        """See `meta_train.executors.pool.WorkerPool`."""
        self._expect(self._actors[worker_id].carry_out.remote(request), worker_id, Answered)

    def poll(self, timeout: float) -> list[Event]:
        """See `meta_train.executors.pool.WorkerPool`."""
        self._cluster.check()
        if not self._refs:
            time.sleep(timeout)
            return []
        done, _ = ray.wait(list(self._refs), num_returns=1, timeout=timeout)
        if done and len(self._refs) > 1:
            done, _ = ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0)
        return [event for ref in done if (event := self._event(ref)) is not None]

    def end(self, worker_id: int) -> None:
        """See `meta_train.executors.pool.WorkerPool`."""
        actor = self._actors.pop(worker_id, None)
        self._refs = {ref: entry for ref, entry in self._refs.items() if entry[0] != worker_id}
        if actor is not None and self._cluster.is_there():
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor, no_restart=True)

    def publish(self, report: Mapping[str, Any]) -> None:
        """See `meta_train.executors.pool.WorkerPool`. Only `ray[default]` hands it on to Prometheus."""
        for name in _PUBLISHED:
            value = report[name]
            gauge = self._gauges.get(name)
            if gauge is None:
                tags = ("worker",) if isinstance(value, dict) else ()
                gauge = Gauge(f"mulo_{name}", description=name.replace("_", " "), tag_keys=tags)
                self._gauges[name] = gauge
            if isinstance(value, dict):
                for place, number in value.items():
                    gauge.set(number, tags={"worker": place})
            else:
                gauge.set(value)

    def close(self) -> None:
        """See `meta_train.executors.pool.WorkerPool`."""
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
            text = f"{type(cause).__name__}: {_one_line(cause)}"
            if "RESOURCE_EXHAUSTED" in text:
                text += (
                    " (out of device memory: less --workers-per-gpu, or a new run with less --pairs-per-slot)"
                )
            return Died(worker_id, text, hopeless=isinstance(cause, InputError) or "EXHAUSTED" in text)
        except ray.exceptions.RayError as error:
            return Died(worker_id, f"{type(error).__name__}: {_one_line(error)}")


def actor_options(options: WorkerOptions) -> dict[str, Any]:
    """How Ray is to place a worker, and the environment that it begins in."""
    ours = options.address is None
    if options.gpus:
        variables = {"JAX_PLATFORMS": ""}  # the driver's is "cpu"
        if options.workers_per_gpu > 1:
            variables["XLA_CLIENT_MEM_FRACTION"] = f"{0.9 / options.workers_per_gpu:.3f}"
        share = 1 if options.workers_per_gpu == 1 else 1 / options.workers_per_gpu
        place = {"num_cpus": 0, "num_gpus": share}
    else:
        # One XLA thread each. Elsewhere every worker takes a CPU: so they spread, and wait for machines.
        variables = {"JAX_PLATFORMS": "cpu", "NPROC": "1", "OMP_NUM_THREADS": "1"}
        place = {"num_cpus": 0 if ours else 1, "num_gpus": 0}
    return place | {
        "max_restarts": 0,
        "max_task_retries": 0,
        "scheduling_strategy": "SPREAD",
        "runtime_env": {"env_vars": variables},
    }


def _asks_for_token() -> bool:
    """Whether the cluster that we are in turns away a process that brings no token."""
    others = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", _KNOCK, ray.get_runtime_context().gcs_address]
    try:
        knocked = subprocess.run(
            command,
            env={**others, "RAY_AUTH_MODE": "disabled"},
            timeout=_KNOCK_SECONDS,
            check=False,
            capture_output=True,
        )
    except subprocess.TimeoutExpired:  # Ray tries again and again
        return True
    return knocked.returncode != 0


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
