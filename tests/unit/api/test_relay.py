"""The end of an answer that is relayed, as the bytes and the connection tell it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from ollama_dist.api.connections import HIGH_WATER_BYTES
from ollama_dist.api.exchange import Exchange
from ollama_dist.api.heads import Request
from ollama_dist.api.listener import Listener, bind
from ollama_dist.api.relay import relay
from ollama_dist.api.routes import Route, Where
from ollama_dist.core.ids import RequestId
from ollama_dist.core.outcomes import Result
from ollama_dist.core.scopes import Scope
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.identity import Identity
from ollama_dist.node.answers import BrokenOff
from tests.support.members import KEY

NDJSON = [("Content-Type", "application/x-ndjson")]
CUT = BrokenOff(Result.CUT, "the answer broke off")
ROUTE = Route("POST", "/api/chat", Where.SCHEDULED, Scope.CHAT)


@dataclass
class Pieces:
    """An answer that comes in pieces and then ends, or breaks off with ``failure``."""

    pieces: list[bytes]
    failure: BrokenOff | None = None
    given: list[bytes] = field(default_factory=list)

    async def more(self) -> bytes:
        if self.pieces:
            self.given.append(self.pieces.pop(0))
            return self.given[-1]
        if self.failure is not None:
            raise self.failure
        return b""


@asynccontextmanager
async def relaying(source: Pieces) -> AsyncIterator[int]:
    """The port where ``source`` is relayed."""

    async def handle(request: Request) -> web.StreamResponse:
        exchange = Exchange(request, ROUTE, RequestId("0" * 24), [])
        return await relay(exchange, source, status=200, headers=NDJSON)

    listener = Listener(handle, bind("127.0.0.1", [0]))
    await listener.start()
    try:
        yield listener.address[1]
    finally:
        await listener.stop()


async def body_received(port: int, version: str) -> bytes:
    """All bytes after the head until the connection ends; raises `ConnectionError` where it is reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(5.0):
            writer.write(f"POST / HTTP/{version}\r\nHost: x\r\nConnection: keep-alive\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            return await reader.read()
    finally:
        writer.close()


class Endless:
    """An answer without an end, that comes as fast as it is taken."""

    async def more(self) -> bytes:
        await asyncio.sleep(0)
        return b"x" * 16_000


@pytest.mark.parametrize("is_secured", [False, True], ids=["plain", "tls"])
async def test_little_waits_for_a_client_that_reads_nothing(tmp_path: Path, is_secured: bool) -> None:
    server, client = (Credentials(Identity.load(tmp_path / name, KEY, "crt")) for name in ("a", "b"))
    shown = client.passes[0]
    most = 0

    async def handle(request: Request) -> web.StreamResponse:
        exchange = Exchange(request, ROUTE, RequestId("0" * 24), [])
        return await relay(exchange, Endless(), status=200, headers=NDJSON)

    listener = Listener(handle, bind("127.0.0.1", [0]), server.server_context() if is_secured else None)
    await listener.start()
    _reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        listener.address[1],
        limit=1000,
        ssl=shown.relay if is_secured else None,
        server_hostname=shown.server_name if is_secured else None,
    )
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
    for _ in range(50):
        await asyncio.sleep(0.01)
        transports = [each.transport for each in listener._server.connections if each.transport is not None]
        most = max(most, *(each.get_write_buffer_size() for each in transports), 0)
    writer.transport.abort()
    await listener.stop()
    assert HIGH_WATER_BYTES < most < 2 * HIGH_WATER_BYTES


async def test_an_answer_without_framing_ends_with_its_connection() -> None:
    async with relaying(Pieces([b"{}\n", b"{}\n"])) as port:
        assert await body_received(port, "1.0") == b"{}\n{}\n"


async def test_an_answer_without_framing_that_breaks_off_is_reset() -> None:
    async with relaying(Pieces([b"{}\n"], CUT)) as port:
        with pytest.raises(ConnectionResetError):
            await body_received(port, "1.0")


async def test_an_answer_that_breaks_off_says_so_and_has_no_last_chunk() -> None:
    async with relaying(Pieces([b"{}\n"], CUT)) as port:
        body = await body_received(port, "1.1")
    assert body.startswith(b"3\r\n{}\n\r\n")
    assert b'{"error":"the answer broke off"}\n' in body
    assert not body.endswith(b"0\r\n\r\n")


async def test_nothing_follows_bytes_that_any_line_end_would_make_whole() -> None:
    broken = BrokenOff(Result.CUT, "broke off", is_mid_record=True, lacks_only_a_line_end=True)
    async with relaying(Pieces([b'{"done":true}'], broken)) as port:
        assert await body_received(port, "1.1") == b'd\r\n{"done":true}\r\n'
