"""A runner process from the side of its parent: started, waited for, noticed when it dies, ended."""

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

import orjson
import structlog

from ollama_dist.backends.llamacpp.client import RunnerClient
from ollama_dist.backends.llamacpp.errors import EngineMissing, LoadFailed
from ollama_dist.backends.llamacpp.runner import NO_LIBRARY, Job
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import UpstreamFailed
from ollama_dist.core.ids import NodeId
from ollama_dist.runtime.processes import owned
from ollama_dist.runtime.tasks import background, end

log = structlog.get_logger()

MODULE: Final = "ollama_dist.backends.llamacpp.runner"

STOP_S: Final = 1.0
"""Time to end after its stdin closed; while it loads it cannot notice that."""

LAST_WORDS_S: Final = 1.0
"""For what a dead runner wrote to arrive."""

_HEALTH_PERIOD_S: Final = 0.02
_COMPLAINTS: Final = 20
"""Lines of its stderr that are kept."""

_LINE_BYTES: Final = 400

_OURS: Final = ("OLLAMA_DIST_", "OLLAMA_ADMIN_TOKEN")
"""The node's own settings, secrets among them: a runner has no business with them."""


def check_installed() -> None:
    """Raise `EngineMissing` where the library is not there. Does not load it."""
    if find_spec("xllamacpp") is None:
        raise EngineMissing


class RunnerProcess:
    """Make it with `start_runner`. ``on_death`` is called once if it dies without having been told to."""

    def __init__(
        self, process: asyncio.subprocess.Process, job: Job, on_death: Callable[[str], None]
    ) -> None:
        self._process = process
        self._job = job
        self._on_death = on_death
        self._complaints: deque[str] = deque(maxlen=_COMPLAINTS)
        self._stderr = background(self._read_stderr(), "runner-stderr")
        self._watch: asyncio.Task[None] | None = None
        self._client: RunnerClient | None = None
        self.uses_gpu = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is dead, be it too recently for ``on_death`` to have been called."""
        if self._process.returncode is not None:
            return True
        if not hasattr(os, "waitid"):
            return False
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # somebody has waited for it already
            return True

    @property
    def client(self) -> RunnerClient:
        """What to ask it with."""
        assert self._client is not None, "it is not up yet"
        return self._client

    async def wait_until_loaded(self) -> None:
        """Hand it its job and wait until it has the model in memory. Raises `LoadFailed`, `EngineMissing`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(ConnectionError):  # it died already: its stdout tells by ending
            self._process.stdin.write(orjson.dumps(self._job) + b"\n")
            await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise await self._failure()
        told = orjson.loads(line)
        self.uses_gpu = told["gpu"]
        target = Target(NodeId("runner"), "127.0.0.1", told["port"])
        self._client = RunnerClient(target, self._job["key"])
        while not await self._is_healthy():  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(_HEALTH_PERIOD_S)
        self._watch = background(self._notice_death(), "runner-watch")

    async def stop(self) -> None:
        """Let it go: its memory is free when this returns."""
        await end(self._watch)
        process = self._process
        assert process.stdin is not None
        if process.returncode is None:
            process.stdin.close()
            try:
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            except TimeoutError:
                log.warning("runner_killed", pid=process.pid)
        await self._kill()

    async def kill(self) -> None:
        """End it at once: for one that is loading, or does not answer any more."""
        await end(self._watch)
        await self._kill()

    async def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await end(self._stderr)

    async def _is_healthy(self) -> bool:
        try:
            return await self.client.is_healthy()
        except UpstreamFailed as error:
            if self._process.returncode is not None:
                raise await self._failure() from error
            return False

    async def _failure(self) -> EngineMissing | LoadFailed:
        status = await self._process.wait()
        await asyncio.wait({self._stderr}, timeout=LAST_WORDS_S)
        if status == NO_LIBRARY:
            return EngineMissing()
        return LoadFailed(f"llama.cpp cannot load it: {self._reason(status)}")

    def _reason(self, status: int) -> str:
        """The most telling of its last words: the first complaint is the cause, later ones follow from it."""
        complaints = [line for line in self._complaints if " E " in line] or list(self._complaints)
        if complaints:
            return complaints[0].partition(" E ")[2] or complaints[0]
        return f"signal {-status}" if status < 0 else f"status {status}"

    async def _notice_death(self) -> None:
        status = await self._process.wait()
        await asyncio.wait({self._stderr}, timeout=LAST_WORDS_S)
        log.error("runner_died", pid=self.pid, status=status, last_words=list(self._complaints)[-3:])
        self._on_death(self._reason(status))

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        rest = b""
        while data := await self._process.stderr.read(16 * 1024):
            *lines, rest = (rest + data).split(b"\n")
            self._complaints += [line[:_LINE_BYTES].decode("utf-8", "replace") for line in lines]
            rest = rest[-_LINE_BYTES:]


async def start_runner(job: Job, on_death: Callable[[str], None], *, timeout: float) -> RunnerProcess:
    """A runner with the model of ``job`` in memory.

    Raises `EngineMissing` or `LoadFailed`, the latter also after ``timeout`` seconds; nothing is left behind
    then, nor when the caller is cancelled.
    """
    check_installed()
    runner = RunnerProcess(await _spawn(job["path"]), job, on_death)
    try:
        async with asyncio.timeout(timeout):
            await runner.wait_until_loaded()
    except TimeoutError as error:
        await runner.kill()
        raise LoadFailed(f"it was not loaded within {timeout:.0f} s") from error
    except BaseException:
        await asyncio.shield(runner.kill())
        raise
    return runner


async def _spawn(model_path: str) -> asyncio.subprocess.Process:
    return await owned(
        asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # what lies in the folder the node was started in is not to be imported
            "-m",
            MODULE,
            model_path,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith(_OURS)},
            start_new_session=True,  # Ctrl-C reaches only the node, which lets its answers end first
        )
    )
