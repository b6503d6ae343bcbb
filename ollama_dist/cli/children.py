"""Child processes kept as one: started together, watched, and gone when this ends, whatever happened."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Final

from ollama_dist.cli.failures import Failure

GRACE_S: Final = 10.0
"""What a child gets to end by itself before it is killed."""

_STEP_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and where its output goes."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None
    """None: our own."""


class Children:
    """The running programs. Use it as a context: at its end none of them, nor what they started, is left."""

    def __init__(self, programs: Sequence[Program], grace_s: float = GRACE_S) -> None:
        self._programs = programs
        self._grace_s = grace_s
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._codes: dict[str, int] = {}

    def __enter__(self) -> "Children":
        try:
            for program in self._programs:
                self._running[program.name] = _start(program)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def ended(self) -> dict[str, int]:
        """Those that are over, with their exit codes; a negative one is the signal that ended it."""
        for name, process in self._running.items():
            if name not in self._codes and (code := process.poll()) is not None:
                _kill_group(process)
                self._codes[name] = code
        return dict(self._codes)

    def require_all(self) -> None:
        """Raises `Failure` with the last words of one that has ended."""
        for name, code in self.ended().items():
            program = next(program for program in self._programs if program.name == name)
            raise Failure(
                f"{name} ended with {describe_exit(code)}",
                why=last_line(program.log) if program.log else "",
                do=f"look at {program.log}" if program.log else "",
            )

    def _stop(self) -> None:
        try:
            for name, process in self._running.items():
                if name not in self.ended():
                    process.terminate()
            self._wait()
        finally:
            for name, process in self._running.items():
                if name not in self._codes:
                    _kill_group(process)
                    self._codes[name] = process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + self._grace_s
        while len(self.ended()) < len(self._running) and time.monotonic() < deadline:
            time.sleep(_STEP_S)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise `KeyboardInterrupt` as Ctrl-C does, so that all is cleaned up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    wanted = [signal.SIGTERM] + ([signal.SIGHUP] if sys.platform != "win32" else [])
    before = [(number, signal.signal(number, interrupt)) for number in wanted]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def describe_exit(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def last_line(log: Path) -> str:
    """The last line of a log that says something; empty when there is none."""
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")[:300]
    return ""


def _start(program: Program) -> "subprocess.Popen[bytes]":
    if program.log is None:
        return _popen(program, None)
    program.log.parent.mkdir(parents=True, exist_ok=True)
    with program.log.open("wb") as log:
        return _popen(program, log)


def _popen(program: Program, log: IO[bytes] | None) -> "subprocess.Popen[bytes]":
    # A session of its own: Ctrl-C in the terminal reaches us alone, and we end the children in order.
    return subprocess.Popen(  # noqa: S603 - our own program, no shell
        program.command,
        env=dict(program.environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End the process and whatever it started and left behind."""
    if sys.platform == "win32":
        process.kill()
        return
    # The group keeps the leader's number as long as a member lives, even after the leader was waited for.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
