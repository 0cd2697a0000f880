"""Faults of real processes: theta is that of the local executor, to the bit. One cluster for all tests."""

import contextlib
import dataclasses
import os
import signal
import threading
import time
import warnings

import pytest

from meta_train.executors.clusters import open_cluster
from meta_train.executors.distributed import DistributedExecutor
from meta_train.executors.interface import Ready
from meta_train.executors.local import LocalExecutor
from meta_train.executors.options import WorkerOptions
from meta_train.executors.worker import versions
from meta_train.meta_update import make_meta_update
from meta_train.programs import build_programs, slot_shapes
from tests.faults.conftest import ROOT
from tests.faults.fake_pool import change_gradients
from tests.faults.test_distributed import CONFIG, train

ray_actors = pytest.importorskip("meta_train.executors.ray_actors")
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("PYTHONPATH", str(ROOT))  # for workers to find the classes here
        warnings.simplefilter("ignore")  # of forking after JAX; the command line starts Ray first
        with open_cluster(WorkerOptions(workers=1)) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def programs():
    return build_programs(CONFIG)


@pytest.fixture(scope="module")
def update():
    return make_meta_update(CONFIG)


@pytest.fixture(scope="module")
def quiet(programs, update):
    return train(LocalExecutor(CONFIG, programs), update)


class MisshapenActor(ray_actors.WorkerActor):
    """From meta-step 5 on the first worker answers gradients of another shape, until it is replaced."""

    def __init__(self, log_path):
        super().__init__(log_path)
        self._is_first = "worker-0-0" in log_path

    def carry_out(self, request):
        answer = super().carry_out(request)
        if self._is_first and request.meta_step >= 5 and request.theta is not None:
            return change_gradients(answer, lambda leaf: leaf[None])
        return answer


class StruckPool(ray_actors.RayPool):
    """Freezes the workers of some places just before a call of some meta-step; then may kill them."""

    def __init__(self, *arguments, strikes=(), kill=True):
        super().__init__(*arguments)
        self.pids, self.struck = {}, []
        self._places, self._strikes, self._kill = {}, list(strikes), kill

    def start(self, worker_id, place):
        self._places[worker_id] = place
        super().start(worker_id, place)

    def poll(self, timeout):
        events = super().poll(timeout)
        self.pids |= {event.worker_id: event.facts.pid for event in events if isinstance(event, Ready)}
        return events

    def submit(self, worker_id, request):
        strike = (request.meta_step, self._places[worker_id])
        if strike not in self._strikes:
            return super().submit(worker_id, request)
        self._strikes.remove(strike)
        self.struck.append(self.pids[worker_id])
        os.kill(self.pids[worker_id], signal.SIGSTOP)
        super().submit(worker_id, request)
        if self._kill:
            os.kill(self.pids[worker_id], signal.SIGKILL)
        return None


class Setting:
    """A distributed executor on the cluster."""

    def __init__(self, cluster, programs, folder, num_workers, actor_class=None, config=CONFIG, **options):
        strikes, kill = options.pop("strikes", ()), options.pop("kill", True)
        self.said = []
        self.pool = StruckPool(cluster, config, folder, strikes=strikes, kill=kill)
        self.pool.actor_class = actor_class or ray_actors.WorkerActor
        self.executor = DistributedExecutor(
            config,
            self.pool,
            WorkerOptions(workers=num_workers, **{"snapshot_interval": 4} | options),
            say=self.said.append,
            state_shapes=slot_shapes(config, programs),
            versions=versions(),
        )

    def heard(self, text):
        return [line for line in self.said if text in line]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_theta_does_not_depend_on_the_number_of_workers(
    cluster, programs, update, quiet, tmp_path, num_workers
):
    setting = Setting(cluster, programs, tmp_path, num_workers)
    with setting.executor as executor:
        assert train(executor, update) == quiet
    assert executor.report()["restarts"] == executor.report()["replays"] == 0
    logs = [path.read_text() for path in tmp_path.iterdir()]
    assert len(logs) == num_workers and all("ready: Facts" in log for log in logs)


@pytest.mark.parametrize(
    "places",
    [pytest.param((0,), id="one of two"), pytest.param((0, 1), id="both at once", marks=pytest.mark.fault)],
)
def test_workers_are_killed_with_slots_under_way(cluster, programs, update, quiet, tmp_path, places):
    setting = Setting(cluster, programs, tmp_path, 2, strikes=[(6, place) for place in places])
    with setting.executor as executor:
        assert train(executor, update) == quiet
    assert len(setting.pool.struck) == len(places)
    assert executor.report()["restarts"] == len(places)
    assert executor.report()["replays"] > 0


@pytest.mark.fault
def test_a_frozen_worker_is_ended_and_replaced(cluster, programs, update, quiet, tmp_path):
    setting = Setting(
        cluster, programs, tmp_path, 2, strikes=[(6, 1)], kill=False, worker_timeout=4.0, min_workers=1
    )
    with setting.executor as executor:
        assert train(executor, update) == quiet
        assert "worker 1" in setting.heard("it hangs")[0]
        assert_gone(setting.pool.struck[0])


def assert_gone(pid):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the frozen process is still there")


@pytest.mark.fault
def test_a_worker_whose_answers_cannot_be_right_is_replaced(cluster, programs, update, quiet, tmp_path):
    setting = Setting(cluster, programs, tmp_path, 2, MisshapenActor)
    with setting.executor as executor:
        assert train(executor, update) == quiet
    (line,) = setting.heard("its answer cannot be right")
    assert "worker 0" in line
    assert executor.report()["restarts"] == 1


@pytest.mark.fault
def test_a_worker_is_killed_in_the_middle_of_a_computation(cluster, tmp_path):
    config = dataclasses.replace(
        # Long enough that the worker is in the middle of it after 0.15 s, on fast machines too.
        CONFIG,
        batch_size=64,
        truncation_length=6000,
        min_horizon=6000,
        max_horizon=18000,
        meta_steps=3,
    )
    programs, update = build_programs(config), make_meta_update(config)
    expected = train(LocalExecutor(config, programs), update, range(3))
    setting = Setting(cluster, programs, tmp_path, 2, config=config)

    def strike(meta_step):
        if meta_step == 1:
            threading.Timer(0.15, os.kill, (setting.pool.pids[0], signal.SIGKILL)).start()

    with setting.executor as executor:
        assert train(executor, update, range(3), after=strike) == expected
        assert executor.report()["restarts"] == 1


def test_ray_listens_on_loopback_only(cluster):
    """Every listening socket of this process and of all that it has started."""
    psutil = pytest.importorskip("psutil")
    me, sockets = psutil.Process(), []
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker of the test before
            sockets += [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(sockets) > 3
    assert set(sockets) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert cluster.folder is not None


def test_ray_asks_for_a_token_of_this_cluster(cluster):
    assert os.environ["RAY_AUTH_MODE"] == "token"
    token = cluster.folder / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert cluster.folder.stat().st_mode & 0o777 == 0o700
