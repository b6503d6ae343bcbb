"""Ports for servers that tests and benchmarks start as programs of their own.

The kernel gives outgoing connections any port of its ephemeral range, so a port of that range that is free
now may be somebody's when the program comes to bind it, or comes back after it was killed. These lie below.
"""

import itertools
import os
import socket
from typing import Final

_FIRST: Final = 12_000
_WINDOWS: Final = 100
_WINDOW: Final = 200
"""Below 32768, where Linux's ephemeral range begins; other systems' begin higher."""

_steps = itertools.count(os.getpid() % _WINDOWS * _WINDOW, 2)
"""Processes side by side begin in windows of their own, and none comes back to a port before it must."""


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different, each with a free one behind it."""
    found: list[int] = []
    while len(found) < count:
        port = _FIRST + next(_steps) % (_WINDOWS * _WINDOW)
        if _is_free(port) and _is_free(port + 1):
            found.append(port)
    return found


def free_port() -> int:
    """A port where nobody listens."""
    return free_ports(1)[0]


def free_address() -> str:
    """An address where nobody listens."""
    return f"127.0.0.1:{free_port()}"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
