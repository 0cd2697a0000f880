"""A cluster that was started by others: machines join it and are lost while a run uses it."""

import json
import re
import secrets
import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path

import pytest

from eval_tasks.workers.ports import answers
from tests.faults.test_driver import FLAGS, assert_saved_bits, checkpoints, wait_for

psutil = pytest.importorskip("psutil")
pytestmark = [pytest.mark.fault, pytest.mark.usefixtures("standard_promotion")]

MACHINE = """
from eval_tasks.workers.ray_clusters import on_loopback
from ray.scripts.scripts import main
with on_loopback():
    main()
"""


class Machines:
    """`ray start` of machines with one CPU each. All of them are this machine, and on loopback."""

    def __init__(self, folder, start_process, mode):
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        self.environment = {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN_PATH": str(token)}
        self._folder, self._start_process = folder, start_process
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.processes = []
        self._start("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder / 'r'}")
        deadline = time.monotonic() + 60
        while not answers("127.0.0.1", port):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def _start(self, *arguments):
        flags = ("--block", "--num-cpus=1", "--object-store-memory=134217728", "--disable-usage-stats")
        flags += ("--node-ip-address=127.0.0.1", *arguments)
        self.processes.append(self._start_process("-c", MACHINE, "start", *flags, **self.environment))

    def join(self):
        self._start(f"--address={self.address}")

    def leave(self):
        """The machine that joined last loses its power."""
        process = self.processes.pop()
        for victim in (process, *psutil.Process(process.pid).children(recursive=True)):
            victim.kill()
        process.communicate(timeout=60)


@pytest.fixture
def machines(request, start_process):
    pytest.importorskip("ray")
    folder = Path(tempfile.mkdtemp(prefix="mulo-t-", dir="/tmp"))  # the paths of Ray's sockets are long
    machines = Machines(folder, start_process, getattr(request, "param", "token"))
    yield machines
    while machines.processes:
        machines.leave()
    shutil.rmtree(folder, ignore_errors=True)


def last_record(out):
    lines = (out / "metrics.jsonl").read_bytes().split(b"\n") if (out / "metrics.jsonl").exists() else []
    return json.loads(lines[-2]) if len(lines) > 1 else {}


def test_machines_join_and_are_lost(machines, tmp_path, start_process):
    out = tmp_path / "run"
    flags = ["--meta-steps", "100000", "--checkpoint-interval", "10", "--workers", "2", "--min-workers", "1"]
    flags += ["--address", machines.address, "--out", out]
    process = start_process("-m", "meta_train.cli", *FLAGS, *flags, **machines.environment)
    wait_for(lambda: len(checkpoints(out)) > 1, process)
    assert last_record(out)["worker_slots"] == {"0": 4}
    machines.join()
    wait_for(lambda: last_record(out)["worker_slots"].get("1", 0) > 0, process)
    assert last_record(out)["restarts"] == last_record(out)["replays"] == 0
    machines.leave()
    wait_for(lambda: last_record(out)["restarts"] > 0, process)
    steps_before = last_record(out)["meta_step"]
    wait_for(lambda: last_record(out)["meta_step"] > steps_before + 20, process)
    assert last_record(out)["worker_slots"] == {"0": 4}
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=40)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert f"after {checkpoints(out)[0]} meta-steps; all is saved. Go on with" in said
    assert_saved_bits(out)


@pytest.mark.parametrize(
    ("machines", "refusal"),
    [("token", "Failed to connect"), ("disabled", "asks for no token")],
    indirect=["machines"],
)
def test_a_cluster_with_another_token_or_none_is_not_joined(machines, refusal, tmp_path, start_process):
    flags = [*FLAGS, "--workers", "1", "--address", machines.address, "--out", tmp_path / "run"]
    wrong = tmp_path / "token"
    wrong.write_text(secrets.token_hex(32))
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(wrong)}
    process = start_process("-m", "meta_train.cli", *flags, **environment)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert re.search(rf"error: --address {machines.address}: .*{refusal}", said.splitlines()[-1])
