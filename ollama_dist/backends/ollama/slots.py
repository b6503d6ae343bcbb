"""How many requests a loaded model of an Ollama answers at once: told by nothing but its processes."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import psutil

DEFAULT_SLOTS: Final = 1
"""Ollama's own default since 0.10."""

UNSEEN_WIDTH: Final = 4
"""As many as Ollama gave itself where it could, before 0.10."""

MAX_SLOTS: Final = 1024

_FLAGS: Final = ("--parallel", "-np")
"""Up to 0.9 ``ollama runner … --parallel N``; from 0.30 ``llama-server … -np N``. In between, runners are
told by HTTP (``llm/server.go``), and only the server's environment says it."""

_VARIABLE: Final = "OLLAMA_NUM_PARALLEL"


def slots_of(
    command_lines: Iterable[Sequence[str]],
    environment: Mapping[str, str],
    *,
    started_with: int = 0,
    configured: int = 0,
) -> int:
    """Slots per loaded model. Pure.

    What a runner was told counts most, then the server's own environment, then what it was started with, then
    the setting. Of several runners the widest counts: those of embedding models always have one slot.
    """
    told = [slots for line in command_lines if (slots := _flag_value(line))]
    if told:
        return max(told)
    return _number(environment.get(_VARIABLE, "")) or started_with or configured or DEFAULT_SLOTS


def width_of(slots: int, environment: Mapping[str, str], *, told: bool) -> int:
    """How many requests per model to send there at once. Pure.

    As many as there are slots; but where nobody ``told`` them and the server cannot be seen (in a container,
    on another machine), too few would waste most of it, and too many merely wait there instead of here.
    """
    return slots if told or environment else max(slots, UNSEEN_WIDTH)


def _flag_value(line: Sequence[str]) -> int:
    for flag, value in pairwise(line):
        if flag in _FLAGS:
            return _number(value)
    return 0


def _number(text: str) -> int:
    return min(int(text), MAX_SLOTS) if text.isascii() and text.isdigit() else 0


def processes_behind(port: int) -> tuple[list[list[str]], dict[str, str]]:
    """Command lines of the runners of the server that listens on ``port``, and that server's environment.

    Both are empty where the machine does not let us look. Takes tens of milliseconds: not for the event loop.
    """
    server = _listener(port)
    if server is None:
        return [], {}
    environment: dict[str, str] = {}
    lines: list[list[str]] = []
    with contextlib.suppress(psutil.Error):
        environment = server.environ()
    with contextlib.suppress(psutil.Error):
        for child in server.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                lines.append(child.cmdline())
    return lines, environment


def _listener(port: int) -> psutil.Process | None:
    for process in psutil.process_iter(["name"]):
        if "ollama" not in (process.info["name"] or "").lower():
            continue
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return process
    return None
