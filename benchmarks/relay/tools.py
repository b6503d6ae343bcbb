"""The fake engine and the clients, as processes."""

import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

LIMIT_S: Final = 60
"""After so long a run of the clients is given up, and what is missing counted as errors."""

BEGUN: Final = "begun\n"


@dataclass(frozen=True)
class Ask:
    """What clients ask for, as ``load.c`` has it."""

    path: str
    connections: int
    requests: int
    method: str = "POST"
    body: bytes = b""
    upload: int = 0
    """So many zero bytes instead of a body."""
    ramp_us: int = 0
    """How much later each connection begins than the one before it."""
    leave_after: int = 0
    """Leave a stream once so many chunks have come."""


@dataclass(frozen=True)
class Pins:
    """Cores for what is measured and cores for what measures, so that neither waits for the other."""

    fronts: frozenset[int]
    tools: frozenset[int]

    @classmethod
    def of(cls, cores: Sequence[int]) -> "Pins":
        """The last core for the tools; all share one where there is but one."""
        return cls(frozenset(cores[:-1] or cores), frozenset(cores[-1:]))


class Tools:
    """Runs the programs that `build` put into ``folder``."""

    def __init__(self, folder: Path, pins: Pins) -> None:
        self._folder = folder
        self._pins = pins

    @contextmanager
    def upstream(self, answers: Path, port: int = 0) -> Iterator["Upstream"]:
        """A fake engine with the answers in a folder, until the block ends."""
        command = self._pinned("upstream", str(port), str(answers))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield Upstream(int(process.stdout.readline()))
            finally:
                process.kill()

    def load(self, port: int, ask: Ask, at_beginning: Callable[[], None] = lambda: None) -> Mapping[str, Any]:
        """What the clients saw. ``at_beginning`` is called when each had its first answer or chunk."""
        with self._clients(port, ask) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            if said == BEGUN:
                at_beginning()
                said = process.stdout.readline()
            assert process.stderr is not None
            result: dict[str, Any] = json.loads(said)
            return result | {"complaint": process.stderr.read()[:500]}

    @contextmanager
    def held(self, port: int, ask: Ask) -> Iterator[None]:
        """While the block runs each connection has its answer, or the first chunk of a stream."""
        with self._clients(port, ask, "hold=1") as process:
            assert process.stdin is not None
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said == BEGUN, said
            yield

    @contextmanager
    def _clients(self, port: int, ask: Ask, *more: str) -> Iterator["subprocess.Popen[str]"]:
        pipe = subprocess.PIPE
        command = [*self._command(port, ask), *more]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            yield process

    def _command(self, port: int, ask: Ask) -> list[str]:
        body = self._folder / "body"
        body.write_bytes(ask.body)
        said = {
            "port": port,
            "connections": ask.connections,
            "requests": ask.requests,
            "method": ask.method,
            "path": ask.path,
            "body": body,
            "upload": ask.upload,
            "ramp_us": ask.ramp_us,
            "leave_after": ask.leave_after,
            "deadline_s": LIMIT_S,
        }
        return self._pinned("load", *(f"{name}={value}" for name, value in said.items()))

    def _pinned(self, program: str, *arguments: str) -> list[str]:
        return [*pinned(self._pins.tools), str(self._folder / program), *arguments]


def pinned(cores: frozenset[int]) -> list[str]:
    """What to put before a command so that it stays on these cores; util-linux has it on every Linux."""
    return ["taskset", "-c", ",".join(map(str, sorted(cores)))]


@dataclass(frozen=True)
class Upstream:
    """A fake engine that runs."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def closes(self) -> dict[int, int]:
        """Streams that were broken off since this was last asked: their number, and when (monotonic ns)."""
        with urllib.request.urlopen(f"{self.url}/bench/closes", timeout=10) as answer:
            rows = [line.split() for line in answer.read().decode().splitlines()]
        return {int(number): int(at) for number, at in rows}
