"""Released theta files, and where they lie: the hub's cache folder, a server that stands for the hub."""

import contextlib
import hashlib
import http.server
import os
import threading
from pathlib import Path

import flax.serialization
import numpy as np
import pytest

from tests import ROOT
from tests.mulo.released_thetas import TREES, safetensors_bytes

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def file_bytes(kind):
    """A file of that kind as its authors write it."""
    tree = TREES[kind]()
    return safetensors_bytes(tree) if kind == "mulo" else flax.serialization.to_bytes(tree)


def shared_trace_path(name):
    """Where a trace is that holds other people's weights, not ours to give: skips where it is absent."""
    folder = Path(os.environ.get("MULO_SHARED_GOLDEN", ROOT.parent / "shared" / "golden"))
    if not (folder / name).is_file():
        pytest.skip(f"{name} holds the weights of other people and is not in the repository")
    return folder / name


def shared_trace(name):
    """The arrays of such a trace."""
    with np.load(shared_trace_path(name), allow_pickle=False) as archive:
        return dict(archive)


def put_into_cache(cache, repository, file, content, revision="main"):
    """A file in the layout of the hub's local cache folder."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    link = folder / "snapshots" / COMMIT / file
    for path in (blob, link, folder / "refs" / revision):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs" / revision).write_text(COMMIT)
    return link


class _Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for one file, and with its error codes for the others."""

    def do_HEAD(self):
        self._answer(b"")

    def do_GET(self):
        self._answer(self.server.content)

    def _answer(self, body):
        self.server.requests.append((self.command, self.path))
        owner, name, _, revision, file = self.path.strip("/").split("/", 4)
        error = (
            "RepoNotFound" if (owner, name) != ("owner", "name")
            else "RevisionNotFound" if revision not in ("main", "v1")
            else "EntryNotFound" if file != "theta.mulo"
            else None
        )  # fmt: skip
        self.send_response(404 if error else self.server.status)
        self.send_header("X-Error-Code", error or "")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(self.server.content).hexdigest()}"')
        self.send_header("Content-Length", "0" if error else str(self.server.content_length))
        self.end_headers()
        if not error:
            self.wfile.write(body)

    def log_message(self, *_):
        """Says nothing."""


@contextlib.contextmanager
def hub_server(content, content_length=None, status=200):
    """A server that stands for the hub and holds owner/name/theta.mulo; gives its address and its log."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        server.content, server.requests, server.status = content, [], status
        server.content_length = len(content) if content_length is None else content_length
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.requests
        finally:
            server.shutdown()
            thread.join()
