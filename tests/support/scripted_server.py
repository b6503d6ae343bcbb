"""A TCP server that plays a script of bytes: for answers no well-behaved HTTP server would give."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Played:
    """What happened so far."""

    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One request with a Content-Length body; raises `asyncio.IncompleteReadError` when the client leaves."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return head + await reader.readexactly(int(value))
    return head


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncIterator[int]:
    """Play ``script`` on every connection to the port handed out; nothing of it is left at the end."""
    under_way: set[asyncio.Task[None]] = set()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await script(reader, writer)
        finally:
            under_way.discard(task)
            writer.close()

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)
        await asyncio.sleep(0)  # for the transports to close


@contextlib.asynccontextmanager
async def scripted(
    *answers: bytes, close_after: bool = False, per_connection: int = 1000
) -> AsyncIterator[Played]:
    """A server that answers request after request with ``answers`` in turn (the last one again and again).

    ``close_after`` closes the connection after each answer, ``per_connection`` after so many.
    """
    played = Played()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        played.connections += 1
        for _ in range(1 if close_after else per_connection):
            played.requests.append(await read_request(reader))
            writer.write(answers[min(len(played.requests), len(answers)) - 1])
            await writer.drain()

    async with serving(script) as played.port:
        yield played
