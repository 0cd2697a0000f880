"""`mulo.load("hf://owner/name/file")`: from the hub's cache, from the hub, or one line of why not."""

import hashlib
import socket
import sys
import time

import numpy as np
import pytest
from huggingface_hub import constants

import mulo
from mulo.importers import hub
from tests.descriptors import SMALL_FC_H4
from tests.mulo.released_files import COMMIT, file_bytes, hub_server, put_into_cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "cache"


@pytest.fixture
def no_network(monkeypatch):
    def connect(*_):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


@pytest.fixture
def mulo_bytes(tmp_path):
    mulo.save(tmp_path / "theta.mulo", SMALL_FC_H4.checkpoint())
    return (tmp_path / "theta.mulo").read_bytes()


def refusal(name):
    with pytest.raises(mulo.CheckpointError) as caught:
        mulo.load(name)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    return message


def use_server(monkeypatch, address):
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("at", ["", "@main", f"@{COMMIT}"])
def test_a_cached_checkpoint_needs_no_network(at, cache, mulo_bytes):
    put_into_cache(cache, "owner/name", "runs/theta.mulo", mulo_bytes)
    checkpoint = mulo.load(f"hf://owner/name{at}/runs/theta.mulo", expect="small_fc")
    assert checkpoint.optimizer == SMALL_FC_H4.make()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("repository", "file"), hub.RELEASES)
def test_known_releases_are_imported(repository, file, cache):
    kind = hub.RELEASES[repository, file]
    put_into_cache(cache, repository, file, file_bytes(kind))
    checkpoint = mulo.load(f"hf://{repository}/{file}")
    assert checkpoint.provenance["imported_from"] == f"hf://{repository}/{file}"
    assert checkpoint.provenance["kind"] == kind
    with pytest.raises(mulo.CheckpointError, match="wanted 'other'"):
        mulo.load(f"hf://{repository}/{file}", expect="other")


@pytest.mark.usefixtures("no_network")
def test_an_unknown_release_is_told_how_to_import_it(cache):
    put_into_cache(cache, "owner/name", "theta.state", file_bytes("small_fc"))
    message = refusal("hf://owner/name/theta.state")
    assert "mulo-eval import hf://owner/name/theta.state --as KIND -o FILE" in message


@pytest.mark.usefixtures("no_network", "cache")
def test_offline_is_one_line_and_one_attempt(monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    message = refusal("hf://amoudgl/celo/theta.state")
    assert "the hub cannot be reached. Connect to the network, or fetch the file elsewhere" in message
    assert not slept  # it would be waiting between attempts


@pytest.mark.usefixtures("cache")
def test_offline_mode_is_one_line(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is enabled" in refusal("hf://amoudgl/celo/theta.state")


@pytest.mark.usefixtures("cache")
def test_a_download_is_kept(mulo_bytes, monkeypatch):
    with hub_server(mulo_bytes) as server:
        use_server(monkeypatch, server.address)
        first = mulo.load("hf://owner/name@v1/theta.mulo")
        num_requests = len(server.requests)
        second = mulo.load("hf://owner/name@v1/theta.mulo")
    assert server.requests[0] == ("HEAD", "/owner/name/resolve/v1/theta.mulo")
    assert num_requests == len(server.requests)
    np.testing.assert_array_equal(first.theta["mlp"]["w0"], second.theta["mlp"]["w0"])


@pytest.mark.usefixtures("cache")
def test_what_the_hub_does_not_have_is_one_line(monkeypatch):
    with hub_server(b"") as server:
        use_server(monkeypatch, server.address)
        assert "there is no such repository, or it needs a login" in refusal("hf://other/name/theta.mulo")
        assert "the repository has no such revision" in refusal("hf://owner/name@v2/theta.mulo")
        assert "the repository has no such file" in refusal("hf://owner/name/theta.state")


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("status", [429, 500])
def test_a_hub_that_answers_with_an_error_is_not_called_unreachable(status, monkeypatch):
    with hub_server(b"", status=status) as server:
        use_server(monkeypatch, server.address)
        message = refusal("hf://owner/name/theta.mulo")
    assert "could not be fetched: " in message
    assert str(status) in message
    assert "Try again later, or fetch the file elsewhere" in message
    assert "network" not in message


def test_a_cache_folder_that_cannot_be_written_is_said(cache, mulo_bytes, monkeypatch):
    (cache.parent / "home").write_text("")  # in the folder's place: permissions do not hold for every user
    with hub_server(mulo_bytes) as server:
        use_server(monkeypatch, server.address)
        message = refusal("hf://owner/name/theta.mulo")
    assert "could not be fetched: " in message
    assert "Set HF_HOME to a folder that has room and can be written" in message


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_damaged_download_is_not_kept(cache, mulo_bytes, monkeypatch):
    with hub_server(mulo_bytes) as server:
        use_server(monkeypatch, server.address)
        server.body = mulo_bytes[:-1] + b"?"
        assert "is damaged" in refusal("hf://owner/name/theta.mulo")
        assert not files_in(cache.parent / "home")
        server.body = mulo_bytes
        assert mulo.load("hf://owner/name/theta.mulo").optimizer == SMALL_FC_H4.make()


@pytest.mark.usefixtures("cache")
def test_a_download_is_compared_with_what_the_hub_says_of_it(mulo_bytes, monkeypatch):
    with hub_server(mulo_bytes) as server:
        use_server(monkeypatch, server.address)
        server.etag = "0" * 64
        assert "another SHA-256 than the hub says" in refusal("hf://owner/name/theta.mulo")
        server.etag = hashlib.sha256(mulo_bytes).hexdigest()
        assert mulo.load("hf://owner/name/theta.mulo").optimizer == SMALL_FC_H4.make()


@pytest.mark.parametrize("whose", ["ours", "the hub's"])
def test_a_damaged_copy_is_fetched_anew(whose, cache, mulo_bytes, monkeypatch):
    name = "hf://owner/name/theta.mulo"
    with hub_server(mulo_bytes) as server:
        use_server(monkeypatch, server.address)
        if whose == "ours":
            mulo.load(name)
            (copy,) = files_in(cache.parent / "home")
            copy.write_bytes(b"damaged")
        else:
            put_into_cache(cache, "owner/name", "theta.mulo", mulo_bytes[:100])
        num_requests = len(server.requests)
        assert mulo.load(name).optimizer == SMALL_FC_H4.make()
        assert len(server.requests) > num_requests
        num_requests = len(server.requests)
        mulo.load(name)
        assert len(server.requests) == num_requests


@pytest.mark.parametrize("etag", ["../../../evil", "/tmp/evil", "a/b", "..", "x" * 5000, ""])
def test_the_server_names_no_file(etag, cache, mulo_bytes, monkeypatch):
    before = set(cache.parent.rglob("*"))
    with hub_server(mulo_bytes) as server:
        use_server(monkeypatch, server.address)
        server.etag = etag
        mulo.load("hf://owner/name/theta.mulo")
    (file,) = set(files_in(cache.parent)) - before
    assert file.read_bytes() == mulo_bytes
    assert file.parent.parent == cache.parent / "home" / "mulo"


@pytest.mark.parametrize("length", [None, 100])
def test_no_more_is_taken_than_is_allowed_whatever_the_server_says(length, cache, monkeypatch):
    monkeypatch.setattr("mulo.loading.MAX_THETA_BYTES", 10**6)
    with hub_server(b"", content_length=length) as server:
        use_server(monkeypatch, server.address)
        server.is_endless = True
        message = refusal("hf://owner/name/theta.mulo")
    wanted = "has more than 1000000 bytes" if length is None else "theta.mulo: is not a checkpoint file"
    assert f"hf://owner/name/theta.mulo: {wanted.removeprefix('theta.mulo: ')}" in message
    assert server.num_sent < 10**7
    assert not files_in(cache.parent / "home")


@pytest.mark.parametrize("slow", ["headers", "body"])
def test_a_slow_server_is_given_up(slow, cache, mulo_bytes, monkeypatch):
    monkeypatch.setattr("mulo.importers.downloads.START_SECONDS", 0.5)
    with hub_server(mulo_bytes) as server:
        use_server(monkeypatch, server.address)
        server.slow_headers, server.seconds_per_byte = slow == "headers", 0.05
        began = time.monotonic()
        message = refusal("hf://owner/name/theta.mulo")
    assert time.monotonic() - began < 5
    assert "bytes came in" in message
    assert not files_in(cache.parent / "home")


@pytest.mark.usefixtures("cache")
def test_a_huge_file_is_not_downloaded(monkeypatch):
    with hub_server(b"", content_length=2**40) as server:
        use_server(monkeypatch, server.address)
        assert f"has {2**40} bytes; wanted at most" in refusal("hf://owner/name/theta.mulo")
    assert [method for method, _ in server.requests] == ["HEAD"]


def test_without_the_packages_the_command_is_said(cache, monkeypatch):
    put_into_cache(cache, "btherien/mulo", "model.safetensors", file_bytes("mulo"))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    message = refusal("hf://btherien/mulo/model.safetensors")
    assert (
        "with the package safetensors: run pip install '.[hub]' in the folder of mulo's checkout" in message
    )
    assert "damaged" not in message
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = refusal("hf://btherien/mulo/model.safetensors")
    assert "need the package huggingface_hub: run pip install '.[hub]'" in message


@pytest.mark.parametrize(
    "name",
    [
        "hf://",
        "hf://owner/name",
        "hf://owner/theta.mulo@v1",
        "hf://o/n/../x",
        "hf://o/n//x",
        "hf://o/n@/x",
        "hf:///n/x",
        "hf://a--b/c/f",
        "hf://o/n..m/f",
        "hf://o/n.git/f",
        f"hf://o/{'n' * 97}/f",
    ],
)
def test_malformed_names(name):
    with pytest.raises(mulo.InputError, match="wanted hf://owner/name/file"):
        mulo.load(name)
