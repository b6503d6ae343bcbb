"""Asking a runner: whole answers, and streams of events."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson

from ollama_dist.backends.http1 import Connection, Head
from ollama_dist.backends.llamacpp.errors import RunnerRefused
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import UpstreamCut, UpstreamFailed, UpstreamRefused
from ollama_dist.wire.framing import SseEvent, SseSplitter

HEALTH_TIMEOUT_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 60.0
"""For what a runner does without running the model: rendering and tokenizing."""

GONE: Final = "the model runner stopped unexpectedly"

_ERROR_BYTES: Final = 64 * 1024


class RunnerClient:
    """Speaks to one runner, with the key it was given.

    A connection per request, for each that is open holds one of its threads.
    """

    def __init__(self, target: Target, key: str) -> None:
        self._target = target
        self._headers = (
            ("Authorization", f"Bearer {key}"),
            ("Content-Type", "application/json"),
            ("Connection", "close"),
        )

    async def is_healthy(self) -> bool:
        """Whether it can take requests. Raises `UpstreamFailed` if nobody answers."""
        connection, head = await self._open("GET", "/health", b"", HEALTH_TIMEOUT_S)
        connection.close()
        return head.status == 200

    async def ask(self, path: str, body: Any, *, timeout: float = ANSWER_TIMEOUT_S) -> Any:
        """The JSON it answers. Raises `RunnerRefused` or `UpstreamFailed`."""
        deadline = asyncio.get_running_loop().time() + timeout
        connection, head = await self._open("POST", path, orjson.dumps(body), timeout)
        with contextlib.closing(connection):
            data = await _read_all(connection, deadline)
        if head.status != 200:
            raise RunnerRefused(head.status, data[:_ERROR_BYTES])
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise UpstreamFailed(f"the runner's answer on {path} is no JSON") from error

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, body: Any, *, first_timeout: float, stall_timeout: float
    ) -> AsyncIterator[AsyncIterator[list[SseEvent]]]:
        """The events it answers with, in the batches in which they arrive.

        The runner stops working as soon as the block is left. Raises `RunnerRefused` on entering; inside
        the iterator raises `UpstreamFailed` if the stream breaks off or stalls.
        """
        connection, head = await self._open("POST", path, orjson.dumps(body), first_timeout)
        with contextlib.closing(connection):
            if head.status != 200:
                deadline = asyncio.get_running_loop().time() + ANSWER_TIMEOUT_S
                error = await _read_all(connection, deadline)
                raise RunnerRefused(head.status, error[:_ERROR_BYTES])
            yield _events(connection, stall_timeout)

    async def _open(self, method: str, path: str, body: bytes, timeout: float) -> tuple[Connection, Head]:
        try:
            return await self._target.open(method, path, self._headers, body, head_timeout=timeout)
        except UpstreamRefused as error:
            raise UpstreamRefused(GONE) from error


async def _events(connection: Connection, stall_timeout: float) -> AsyncIterator[list[SseEvent]]:
    loop = asyncio.get_running_loop()
    splitter = SseSplitter()
    try:
        while data := await connection.read(loop.time() + stall_timeout):
            if events := splitter.feed(data):
                yield events
    except UpstreamCut as error:
        raise UpstreamCut(GONE) from error


async def _read_all(connection: Connection, deadline: float) -> bytes:
    parts = []
    while part := await connection.read(deadline):
        parts.append(part)
    return b"".join(parts)
