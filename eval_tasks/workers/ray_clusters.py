"""Ray: a cluster for one run, joined or started here, and how it places workers. Imports no JAX."""

import contextlib
import logging
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray._private import services
from ray.job_config import JobConfig

from eval_tasks.workers.errors import ClusterLostError
from eval_tasks.workers.options import ClusterOptions
from eval_tasks.workers.ports import answers, host_and_port, public_addresses
from eval_tasks.workers.private_folders import make_temporary_folder
from mulo.errors import InputError

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


def count_gpus_here() -> int:
    """GPUs of this machine, without starting anything."""
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager as Nvidia

    visible = Nvidia.get_current_process_visible_accelerator_ids()
    return Nvidia.get_current_node_num_accelerators() if visible is None else len(visible)


@contextlib.contextmanager
def open_cluster(
    options: ClusterOptions, cluster_class: "type[RayCluster] | None" = None
) -> Iterator["RayCluster"]:
    """A Ray cluster for one run: that of `options.address`, or one of this machine alone.

    Args:
      options: what is asked for.
      cluster_class: of what is yielded; by default `RayCluster`.

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
        cluster = (cluster_class or RayCluster)(options, folder)
        stack.callback(cluster.close)
        cluster.connect()
        yield cluster


def _check_found(options: ClusterOptions, found: float) -> None:
    """Refuses to wait for what is not there."""
    workers = int(found * options.workers_per_gpu)
    if workers >= (options.min_workers or options.num_workers):
        return
    what, where = ("GPU" if options.gpus else "CPU"), (options.address or "this machine")
    least = f", with at least {options.min_workers} workers" if options.min_workers else ""
    raise InputError(
        f"--{what.lower()}s {options.gpus}".replace("--cpus 0", f"--workers {options.workers}")
        + f"{least}: found {int(found)} free {what}{'s' * (int(found) != 1)} at {where}. "
        + ("Ask for as many, or give --min-workers to begin with less." if found >= 1 else "Leave it out.")
    )


class RayCluster:
    """A connection to Ray, and what was started for it."""

    def __init__(self, options: ClusterOptions, folder: Path | None):
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
        common = {
            "log_to_driver": False,
            "configure_logging": False,
            "logging_level": logging.CRITICAL,
            "job_config": _JobConfig(),
        }
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
            with on_loopback():
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
            with on_loopback() if local else contextlib.nullcontext():
                ray.init(address=address, **common)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
            here = os.environ.get("RAY_AUTH_MODE")
            hint = "" if here == "token" else " If it asks for a token, set RAY_AUTH_MODE=token here too."
            raise InputError(f"--address {address}: {one_line(error)}{hint}") from error
        closed = os.environ.get("RAY_AUTH_MODE") == "token" and _asks_for_token()
        if not closed and not self.options.insecure:
            raise InputError(
                f"--address {address}: this cluster asks for no token, so whoever reaches it can run code "
                "here. Start it with RAY_AUTH_MODE=token, or give --insecure."
            )
        _check_found(self.options, ray.available_resources().get("GPU" if self.options.gpus else "CPU", 0.0))

    def check(self) -> None:
        """Looks now and then whether Ray is there.

        Raises:
          ClusterLostError: it has not been there for some seconds.
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
            raise ClusterLostError(f"Ray is lost: {host}:{port} does not answer any more.")

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


class _NoPaths(list):
    """A list of folders that stays empty."""

    def extend(self, paths: Iterable[str]) -> None:
        """Adds nothing."""
        del paths


class _JobConfig(JobConfig):
    """What a worker is to know of this process: not where it was started.

    Ray puts the current folder of the driver, and that of its script, before all others that a worker imports
    from: an optax.py that lies there would run in every worker.
    """

    def __init__(self) -> None:
        super().__init__()
        self._py_driver_sys_path = _NoPaths()


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
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


def actor_options(options: ClusterOptions) -> dict[str, Any]:
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
    # -P: nothing is imported from the current folder.
    command = [sys.executable, "-P", "-c", _KNOCK, ray.get_runtime_context().gcs_address]
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


def one_line(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
