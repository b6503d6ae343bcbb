"""An Ollama that this node started: on a private port, restarted when it dies, gone when the node is gone."""

import asyncio
import contextlib
import ctypes
import io
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from ollama_dist.runtime.processes import owned
from ollama_dist.runtime.tasks import background, end

log = structlog.get_logger()

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
"""Between two starts of a program that keeps dying."""

STEADY_S: Final = 60.0
"""A life as long as this starts the pauses afresh."""

STOP_S: Final = 5.0
"""Time for an orderly end before it is killed; partial downloads are resumable after an orderly one."""

LOG_LIMIT: Final = 4 * 2**20
"""Bytes of output kept in the log file; it starts afresh when full, the one before kept beside it."""

_PR_SET_PDEATHSIG: Final = 1

_OURS: Final = ("OLLAMA_DIST_", "OLLAMA_ADMIN_TOKEN")
"""The node's own settings, secrets among them: the program it starts has no business with them."""


def free_port(host: str) -> int:
    """A port nobody listens on now. Nothing keeps it free, but nobody else is likely to be given it."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """In the child, before it becomes the program: Linux is to end it when the node dies, however it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class OllamaProcess:
    """Keeps one ``ollama serve`` running on loopback. ``changed`` is called at every start and death."""

    def __init__(
        self, program: str, slots: int, log_file: Path, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.host = "127.0.0.1"
        self.port = free_port(self.host)
        self._program = program
        self._slots = slots
        self._log_file = log_file
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        self._task = background(self._keep_running(), "ollama-process")

    async def stop(self) -> None:
        """Ask it to end, insist after `STOP_S`, and leave none of its runners behind."""
        await end(self._task)
        await self._end_process()

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE_S
        while True:
            began = loop.time()
            try:
                self._process = await self._spawn()
            except OSError as error:
                log.error("ollama_not_started", program=self._program, error=str(error))
            else:
                self._changed()
                log.info("ollama_started", pid=self._process.pid, port=self.port)
                status = await self._live(self._process)
                log.warning("ollama_died", status=status, restart_in_s=pause)
                self._changed()
            if loop.time() - began > STEADY_S:
                pause = FIRST_PAUSE_S
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await owned(
            asyncio.create_subprocess_exec(
                self._program,
                "serve",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment(os.environ),
                start_new_session=True,  # its runners end with it, and Ctrl-C reaches only the node
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        )

    def _environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        environment = {name: value for name, value in inherited.items() if not name.startswith(_OURS)}
        environment["OLLAMA_HOST"] = f"{self.host}:{self.port}"
        if self._slots:
            environment["OLLAMA_NUM_PARALLEL"] = str(self._slots)
        return environment

    async def _live(self, process: asyncio.subprocess.Process) -> int:
        """Wait for its end, and end the runners it leaves behind; its exit status."""
        copying = background(self._copy_output(process), "ollama-output")
        try:
            status = await process.wait()
            _end_group(process, kill=True)
            return status
        finally:
            await end(copying)

    async def _copy_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        with _BoundedLog(self._log_file) as out:
            while data := await process.stdout.read(64 * 1024):
                out.write(data)

    async def _end_process(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        _end_group(process, kill=False)
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            log.warning("ollama_killed", pid=process.pid)
        _end_group(process, kill=True)
        await process.wait()
        await _until_silent(process)


async def _until_silent(process: asyncio.subprocess.Process) -> None:
    """Its output ends when the last of its group is gone, a moment after the signal."""
    assert process.stdout is not None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_S):
            while await process.stdout.read(64 * 1024):
                pass


def _end_group(process: asyncio.subprocess.Process, *, kill: bool) -> None:
    """End the program and whatever it started; where there are no process groups, the program alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it is gone already: what was wanted
        if sys.platform == "win32":
            process.kill() if kill else process.terminate()
        else:
            os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)


class _BoundedLog:
    """A file that starts over when it is full; the full one is kept once, with ``.1`` after its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.FileIO | None = None

    def __enter__(self) -> "_BoundedLog":
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, data: bytes) -> None:
        """Keep ``data`` if the disk lets us: a program must not stand still because its log cannot grow."""
        if self._file is None:
            return
        try:
            if self._file.tell() + len(data) > LOG_LIMIT:
                self._file.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._open()
            self._file.write(data)
        except OSError as error:
            log.warning("ollama_log_lost", path=str(self._path), error=str(error))
            self._file.close()
            self._file = None

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)
