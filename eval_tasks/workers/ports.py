"""Whether something answers at a port, and where other machines would ask. Sends nothing but a connection."""

import contextlib
import socket

_CONNECT_SECONDS = 1.0


def answers(host: str, port: int) -> bool:
    """Whether a connection can be made."""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of HOST:PORT.

    >>> host_and_port("[::1]:80")
    ('::1', 80)
    """
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def public_addresses() -> list[str]:
    """Of this machine: those under which other machines would see it; without a network none."""
    found = []
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))  # UDP: only chooses the interface
            found.append(probe.getsockname()[0])
    return [address for address in found if address not in ("127.0.0.1", "::1")]
