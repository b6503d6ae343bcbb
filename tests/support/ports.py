"""Ports for servers that tests and benchmarks start as programs of their own.

The kernel gives outgoing connections any port of its ephemeral range, so a port of that range that is free
now may be somebody's when the program comes to bind it, or comes back after it was killed. These lie below.
"""

import fcntl
import itertools
import os
import socket
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

_FIRST: Final = 12_000
_WINDOWS: Final = 100
_WINDOW: Final = 200
"""Below 32768, where Linux's ephemeral range begins; other systems' begin higher."""


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different, each with a free one behind it."""
    found: list[int] = []
    while len(found) < count:
        port = next(_candidates())
        if _is_free(port) and _is_free(port + 1):
            found.append(port)
    return found


def free_port() -> int:
    """A port where nobody listens."""
    return free_ports(1)[0]


def free_address() -> str:
    """An address where nobody listens."""
    return f"127.0.0.1:{free_port()}"


@cache
def _candidates() -> "itertools.cycle[int]":
    """Ports nobody else asks for while this process lives; none comes again before it must."""
    window = _claim_window()
    return itertools.cycle(range(_FIRST + window * _WINDOW, _FIRST + (window + 1) * _WINDOW, 2))


def _claim_window() -> int:
    """One of the windows, locked until this process ends.

    Two that look for free ports at the same time, and bind them some time later, would find the same.
    """
    folder = Path(tempfile.gettempdir(), f"ollama-dist-test-ports-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    for step in range(_WINDOWS):
        window = (os.getpid() + step) % _WINDOWS
        lock = os.open(folder / str(window), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return window
    raise OSError(f"all {_WINDOWS} windows of ports are taken by other processes")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
