"""Downloads from a server that need not be honest: bounded in bytes and in time, whatever it says.

`huggingface_hub.hf_hub_download` is not used: it writes into a file that the server's ETag names, as many
bytes as the server sends, for as long as it sends them.
"""

import hashlib
import re
import threading
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mulo.errors import CheckpointError

if TYPE_CHECKING:
    from mulo.importers.hub import HubFile

SILENCE_SECONDS = 10.0
"""Without a byte, after which it is given up."""
START_SECONDS = 30.0
"""In all, to begin with."""
SECONDS_PER_BYTE = 1 / 20_000
"""More time for each byte that has come."""


class _Transfer(threading.Thread):
    """Fetches one file. A thread, because no time limit of an HTTP library is on the whole of a request."""

    def __init__(self, hub: ModuleType, file: "HubFile", max_bytes: int):
        super().__init__(daemon=True)
        self.hub, self.file, self.max_bytes = hub, file, max_bytes
        self.content = bytearray()
        self.error: Exception | None = None
        self.stopped = False

    def run(self) -> None:
        """Fills `content`, or sets `error`."""
        try:
            self._fetch()
        except Exception as error:  # many classes, of the hub's and of the HTTP library beneath it
            self.error = error

    def _fetch(self) -> None:
        url = self.hub.hf_hub_url(self.file.repository, self.file.file, revision=self.file.revision)
        # Asked for first because its answer has no body, and tells what the hub does not have.
        metadata = self.hub.get_hf_file_metadata(url, timeout=SILENCE_SECONDS)
        if metadata.size is not None and metadata.size > self.max_bytes:
            raise CheckpointError(f"has {metadata.size} bytes; wanted at most {self.max_bytes}.")
        headers = self.hub.utils.build_hf_headers() | {"Accept-Encoding": "identity"}
        client = self.hub.get_session()
        with client.stream("GET", url, headers=headers, timeout=SILENCE_SECONDS) as response:
            if response.status_code != 200:
                raise CheckpointError(
                    f"could not be fetched: the hub answers {response.status_code}. Try again later."
                )
            for piece in response.iter_raw():
                self.content += piece
                if len(self.content) > self.max_bytes:
                    raise CheckpointError(f"has more than {self.max_bytes} bytes; no more are taken.")
                if self.stopped:
                    return
        self._check(metadata)

    def _check(self, metadata: Any) -> None:
        """Compares what came with what the hub says of it: the length, and the SHA-256 where it gives one."""
        if metadata.size is not None and len(self.content) != metadata.size:
            raise CheckpointError(
                f"came with {len(self.content)} bytes, of which the hub says {metadata.size}: it was damaged "
                "on the way. Try again."
            )
        digest = metadata.etag or ""
        is_sha256 = re.fullmatch("[0-9a-f]{64}", digest, re.ASCII)
        if is_sha256 and hashlib.sha256(self.content).hexdigest() != digest:
            raise CheckpointError(
                "has another SHA-256 than the hub says: it was damaged on the way. Try again."
            )


def download(hub: ModuleType, file: "HubFile", max_bytes: int) -> bytes:
    """The bytes of a file on the hub.

    Args:
      hub: the package huggingface_hub.
      file: which.
      max_bytes: of the file, at most.

    Raises:
      CheckpointError: it is too large, too slow or damaged; the text begins in lower case, so that the name
        of the file can go before it.
      Exception: what the hub's package raises.
    """
    transfer = _Transfer(hub, file, max_bytes)
    began = time.monotonic()
    transfer.start()
    try:
        while transfer.is_alive():
            transfer.join(0.1)
            seconds = time.monotonic() - began
            if transfer.is_alive() and seconds > START_SECONDS + SECONDS_PER_BYTE * len(transfer.content):
                num_bytes = len(transfer.content)
                raise CheckpointError(
                    f"could not be fetched: only {num_bytes} bytes came in {seconds:.0f} seconds. "
                    "Try again later, or fetch the file elsewhere and give its path."
                )
    finally:
        transfer.stopped = True
    if transfer.error is not None:
        raise transfer.error
    return bytes(transfer.content)
