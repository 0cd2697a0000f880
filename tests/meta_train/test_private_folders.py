import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from eval_tasks.workers import ports
from eval_tasks.workers.private_folders import compilation_cache, make_temporary_folder
from meta_train.executors.options import WorkerOptions
from mulo.errors import InputError


@pytest.fixture
def folders():
    """Temporary folders; what is left of them is removed."""
    made = []

    def make():
        folder, owner = make_temporary_folder()
        made.append((folder, owner))
        return folder, owner

    yield make
    for folder, owner in made:
        owner.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_only_folders_of_drivers_that_are_no_more_are_removed(folders):
    """Whatever number the process has that made them: it may be that of another machine."""
    living, _ = folders()
    dead, owner = folders()
    owner.close()
    assert living.stat().st_mode & 0o777 == 0o700
    third, _ = folders()
    assert living.exists() and third.exists() and not dead.exists()


def test_a_folder_that_is_being_made_is_left_alone(folders):
    folder = tempfile.mkdtemp(prefix="mulo-ray-", dir=folders()[0].parent)
    folders()
    assert os.path.isdir(folder)  # noqa: PTH112
    os.rmdir(folder)  # noqa: PTH106


def test_without_a_home_no_programs_are_kept(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert compilation_cache() is None


def test_a_port_that_other_machines_reach_is_found():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        found = [host for host in ports.public_addresses() if ports.answers(host, port)]
        assert found or not ports.public_addresses()  # of IPv4 alone; a machine may have no network
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ports.answers("127.0.0.1", port)
        assert not any(ports.answers(host, port) for host in ports.public_addresses())


def test_the_address_of_rays_client_is_refused_in_one_line():
    ray_clusters = pytest.importorskip("eval_tasks.workers.ray_clusters")
    options = WorkerOptions(workers=1, address="ray://head:10001")
    with pytest.raises(InputError, match="client is not supported"), ray_clusters.open_cluster(options):
        pass
