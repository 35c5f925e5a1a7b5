"""Which requests a server of pages answers that only this computer may reach."""

from __future__ import annotations

import socket

HOST_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""This computer's own names, as they stand in a Host header."""


def is_local_host(host: str) -> bool:
    """Return whether a Host header names this computer, with or without a port.

    After DNS rebinding, a page of another origin still sends its own name. The port is free: it may be a tunnel's.
    """
    name, colon, port = host.rpartition(":")
    return host in HOST_NAMES or (bool(colon) and name in HOST_NAMES and port.isdecimal())


def is_same_origin(origin: str, host: str) -> bool:
    """Return whether an Origin header is that of the page at `host`."""
    return is_local_host(host) and origin == f"http://{host}"


def free_port(port: int) -> int:
    """Return `port` if a server can listen at it on this computer, or a free one for 0.

    Raises:
        OSError, OverflowError: If the port is taken or is none.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST_NAMES[0], port))
        return int(probe.getsockname()[1])
