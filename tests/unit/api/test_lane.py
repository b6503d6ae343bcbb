"""The short way of ordinary requests, and that everything else goes to aiohttp just as it came."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from ollama_dist.api import lane
from ollama_dist.api.connections import Gate
from ollama_dist.api.heads import HEADS_KEPT, Incoming, Request, RequestHead
from ollama_dist.api.lane import Heads, ShortRequest
from ollama_dist.api.listener import Listener, bind
from ollama_dist.api.responses import Response
from ollama_dist.gossip.credentials import Credentials, Pass
from ollama_dist.gossip.identity import Identity
from tests.support.members import KEY
from tests.support.wait import until

HEAD: Final = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
LAST: Final = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlast"


@dataclass
class Echo:
    """Answers with what was sent, by either way, and remembers by which."""

    ways: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    large: int = 0
    names_requests: bool = False

    def find(self, method: str, target: str, head: RequestHead) -> Any:
        return None if target == "/elsewhere" else target

    async def answer(self, request: ShortRequest, way: Any) -> web.StreamResponse:
        assert way == request.raw_path
        self.ways.append("lane")
        return await self._say("lane", request, request.whole or b"")

    async def __call__(self, request: Request) -> web.StreamResponse:
        self.ways.append("aiohttp")
        return await self._say("aiohttp", request, await request.read())

    async def _say(self, way: str, request: Incoming, body: bytes) -> web.StreamResponse:
        self.begun.set()
        try:
            if request.raw_path == "/wait":
                await self.go_on.wait()
        except asyncio.CancelledError:
            self.left.append(way)
            raise
        if request.raw_path == "/fail":
            raise RuntimeError("a mistake of ours")
        if request.raw_path == "/forge":
            return Response(body, headers=[("X-A", "b\r\nX-C: d")])
        if request.raw_path == "/stream":
            response = await request.begin(200, [("X-A", "b")], length=None, holds_head=True)
            for part in (body[:2], body[2:]):
                await response.write(part)
            await response.write_eof()
            return response
        return Response(body + b"." * self.large)


@asynccontextmanager
async def served(
    gate: Gate | None = None, head_s: float = 10.0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Echo, Listener]]:
    echo = Echo()
    listener = Listener(echo, bind("127.0.0.1", [0]), tls, gate=gate, head_s=head_s, ways=echo)
    await listener.start()
    try:
        yield echo, listener
    finally:
        await listener.stop()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(listener: Listener, tls: Pass | None = None) -> AsyncIterator[Streams]:
    context, name = (tls.relay, tls.server_name) if tls is not None else (None, None)
    reader, writer = await asyncio.open_connection(*listener.address, ssl=context, server_hostname=name)
    try:
        yield reader, writer
    finally:
        writer.close()


async def all_of(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(20):
        return await reader.read()


async def up_to(reader: asyncio.StreamReader, end: bytes) -> bytes:
    async with asyncio.timeout(20):
        return await reader.readuntil(end)


async def test_one_request_after_the_other_takes_the_short_way() -> None:
    async with served() as (echo, listener), connected(listener) as (reader, writer):
        for body in (b"first", b"again", b"third"):
            writer.write(HEAD + body)
            said = await up_to(reader, body)
            assert said.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nContent-Length: 5\r\n" in said
        writer.write(LAST)
        said = await all_of(reader)
        assert b"\r\nConnection: close\r\n" in said
        assert said.endswith(b"\r\n\r\nlast")
        assert echo.ways == ["lane"] * 4


async def test_over_tls_it_is_the_same(tmp_path: Path) -> None:
    server, client = (Credentials(Identity.load(tmp_path / name, KEY, "crt")) for name in ("a", "b"))
    gate = Gate()
    async with served(gate, tls=server.server_context()) as (echo, listener):
        async with connected(listener, client.passes[0]) as (reader, writer):
            long = b"." * 100_000  # of several records
            for path, body in ((b"/echo", b"first"), (b"/echo", long), (b"/stream", b"again")):
                head = HEAD.replace(b"/echo", path).replace(b"Length: 5", b"Length: %d" % len(body))
                writer.write(head + body)
                await up_to(reader, b"\r\n\r\n")
                answer = b"2\r\nag\r\n3\r\nain\r\n0\r\n\r\n" if path == b"/stream" else body
                assert await reader.readexactly(len(answer)) == answer
            writer.write(ODD["chunked"])
            assert (await up_to(reader, b"hello")).startswith(b"HTTP/1.1 200 OK\r\n")
            assert echo.ways == ["lane", "lane", "lane", "aiohttp"]
        async with connected(listener, client.passes[0]) as (_, writer):
            echo.begun.clear()
            writer.write(HEAD.replace(b"/echo", b"/wait") + b"first")
            await echo.begun.wait()
        await until(lambda: echo.left == ["lane"], what="its being ended")
        await until(lambda: gate.inside == 0, what="their being gone")


@pytest.mark.parametrize("cut", [len(HEAD), len(HEAD) + 1, len(HEAD) + 4])
async def test_a_body_that_comes_after_its_head_does_as_well(
    cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "HOLD_S", 30.0)
    async with served() as (echo, listener), connected(listener) as (reader, writer):
        whole = HEAD + b"first"
        writer.write(whole[:cut])
        await asyncio.sleep(0.02)
        writer.write(whole[cut:])
        assert (await up_to(reader, b"first")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert echo.ways == ["lane"]


async def test_a_body_that_is_late_is_waited_for_by_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "HOLD_S", 0.02)
    gate = Gate()
    async with served(gate) as (echo, listener), connected(listener) as (reader, writer):
        writer.write(HEAD + b"fi")
        await until(lambda: echo.ways == ["aiohttp"], what="its being handed over")
        writer.write(b"rst")
        assert (await up_to(reader, b"first")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert gate.inside == 1
        writer.close()
        await until(lambda: gate.inside == 0, what="its being gone")


ODD: Final = {
    "dribbling head": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n",
    "two lengths": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "two spellings": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 4\r\n\r\nhello",
    "signed length": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
    "long length": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\nhello",
    "spaced length": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello",
    "chunked": b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "both framings": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "folded": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n c\r\n\r\n",
    "bare line end": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-A: b\nX-C: d\r\n\r\n",
    "bare return": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-A: b\rX-C: d\r\n\r\n",
    "nul": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-A: \0\r\n\r\n",
    "not ascii": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-A: \xff\r\n\r\n",
    "no colon": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-A\r\n\r\n",
    "odd name": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX(A: b\r\n\r\n",
    "twice": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\nx-a: c\r\n\r\n",
    "two hosts": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "no host": b"GET /echo HTTP/1.1\r\n\r\n",
    "old": b"GET /echo HTTP/1.0\r\nHost: localhost\r\n\r\n",
    "new": b"GET /echo HTTP/2.0\r\nHost: localhost\r\n\r\n",
    "small": b"get /echo HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "head": b"HEAD /echo HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "absolute": b"GET http://localhost/echo HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "query": b"GET /echo?a=b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "escape": b"GET /%65cho HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "spaces": b"GET  /echo HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "first line": b"\r\nGET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "expect": b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    "upgrade": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    "connection": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, x-a\r\n\r\n",
    "spelt with _": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n",
    "elsewhere": b"GET /elsewhere HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "many fields": b"GET /echo HTTP/1.1\r\nHost: a\r\n"
    + b"".join(b"X-%d: b\r\n" % i for i in range(99))
    + b"\r\n",
    "long head": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"b" * 9000 + b"\r\n\r\n",
    "too much": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET",
}


@pytest.mark.parametrize("name", ODD)
async def test_what_is_odd_is_handed_on_as_it_came(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[bytes] = []
    async with served() as (echo, listener), connected(listener) as (reader, writer):
        server = listener._server
        give = server.hand_over

        def note(transport: asyncio.Transport, address: str, data: bytes) -> None:
            handed.append(data)
            give(transport, address, data)

        monkeypatch.setattr(server, "hand_over", note)
        writer.write(HEAD + b"first")  # heads that were read before change nothing
        await up_to(reader, b"first")
        writer.write(ODD[name])
        await until(lambda: b"".join(handed) == ODD[name], what="its being handed over")
        assert echo.ways[:1] == ["lane"]
        assert "lane" not in echo.ways[1:]


async def test_requests_sent_together_are_answered_in_their_order() -> None:
    async with served() as (_, listener), connected(listener) as (reader, writer):
        writer.write(HEAD + b"first" + HEAD + b"again" + LAST)
        bodies = [part[:5] for part in (await all_of(reader)).split(b"\r\n\r\n")[1:]]
        assert bodies == [b"first", b"again", b"last"]


async def test_a_request_that_comes_while_another_is_answered_waits_its_turn() -> None:
    async with served() as (echo, listener), connected(listener) as (reader, writer):
        writer.write(HEAD.replace(b"/echo", b"/wait") + b"first")
        await echo.begun.wait()
        writer.write(HEAD)
        await asyncio.sleep(0.02)
        writer.write(b"again")
        await asyncio.sleep(0.02)
        assert echo.ways == ["lane"]
        echo.go_on.set()
        assert (await up_to(reader, b"again")).count(b"HTTP/1.1 200 OK") == 2
        assert echo.ways == ["lane", "lane"]


async def test_who_leaves_ends_what_was_under_way() -> None:
    gate = Gate()
    async with served(gate) as (echo, listener):
        async with connected(listener) as (_, writer):
            writer.write(HEAD.replace(b"/echo", b"/wait") + b"first")
            await echo.begun.wait()
        await until(lambda: echo.left == ["lane"], what="its being ended")
        await until(lambda: gate.inside == 0, what="its being gone")


async def test_an_answer_that_is_written_as_it_comes() -> None:
    async with served() as (echo, listener), connected(listener) as (reader, writer):
        for _ in range(2):
            writer.write(HEAD.replace(b"/echo", b"/stream") + b"first")
            head, _, body = (await up_to(reader, b"0\r\n\r\n")).partition(b"\r\n\r\n")
            assert b"\r\nTransfer-Encoding: chunked" in head
            assert b"X-A: b\r\n" in head
            assert body == b"2\r\nfi\r\n3\r\nrst\r\n0\r\n\r\n"
        assert echo.ways == ["lane", "lane"]


@pytest.mark.parametrize("path", [b"/fail", b"/forge"])
async def test_a_mistake_of_ours_is_told_as_aiohttp_would_have_it(path: bytes) -> None:
    async with served() as (_, listener), connected(listener) as (reader, writer):
        writer.write(HEAD.replace(b"/echo", path) + b"first")
        said = await all_of(reader)
        assert said.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert b"\r\nConnection: close\r\n" in said
        assert b"X-C" not in said


async def test_who_does_not_read_is_not_read_from() -> None:
    async with served() as (echo, listener), connected(listener) as (reader, writer):
        echo.large = 16 * 2**20
        writer.write(HEAD + b"first")
        await echo.begun.wait()
        await asyncio.sleep(0.05)
        writer.write(HEAD + b"again")
        await asyncio.sleep(0.1)
        assert echo.ways == ["lane"]
        echo.large = 0
        await up_to_size(reader, 16 * 2**20)
        await up_to(reader, b"again")
        assert echo.ways == ["lane", "lane"]


async def up_to_size(reader: asyncio.StreamReader, size: int) -> None:
    async with asyncio.timeout(20):
        while size > 0:
            size -= len(await reader.read(min(size, 2**16)))


async def test_who_says_nothing_is_not_waited_for() -> None:
    async with served(head_s=0.05) as (_, listener), connected(listener) as (reader, _):
        assert await all_of(reader) == b""


async def test_an_idle_connection_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(head_s=0.05) as (_, listener), connected(listener) as (reader, writer):
        monkeypatch.setattr(listener._server, "keep_alive_s", 0.05)
        writer.write(HEAD + b"first")
        assert (await all_of(reader)).endswith(b"first")


async def test_what_is_under_way_is_answered_before_the_listener_stops() -> None:
    async with (
        served() as (echo, listener),
        connected(listener) as (reader, writer),
        connected(listener) as (idle, _),
    ):
        writer.write(HEAD.replace(b"/echo", b"/wait") + b"first")
        await echo.begun.wait()
        stopping = asyncio.create_task(listener.stop())
        assert await all_of(idle) == b""
        echo.go_on.set()
        assert (await all_of(reader)).endswith(b"first")
        await stopping


async def test_what_takes_longer_than_a_listener_waits_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as (echo, listener), connected(listener) as (_, writer):
        monkeypatch.setattr(listener._runner, "_shutdown_timeout", 0.05)
        writer.write(HEAD.replace(b"/echo", b"/wait") + b"first")
        await echo.begun.wait()
        await listener.stop()
        assert echo.left == ["lane"]


def _heads(found: Callable[[], Any] = object) -> Heads:
    echo = Echo()
    heads = Heads(echo)
    heads._find = lambda *_: found()
    return heads


def test_a_head_is_read_once_for_all_that_are_alike_but_for_the_length() -> None:
    heads = _heads()
    one = heads.read(HEAD + b"first")
    other = heads.read(HEAD.replace(b"Length: 5", b"Length: 7") + b"another")
    assert one is not None
    assert other is not None
    assert one[0] is other[0]
    assert (one[1:], other[1:]) == ((0, b"first", ""), (0, b"another", ""))
    assert heads.read(HEAD + b"fi") == (one[0], 3, b"fi", "")


NAMED: Final = HEAD.replace(b"Content", b"x-request-id: a1\r\nContent")


def test_requests_that_are_named_are_as_alike_as_others() -> None:
    heads = Heads(Echo(names_requests=True))
    one, other = heads.read(NAMED + b"first"), heads.read(NAMED.replace(b"a1", b"b2") + b"again")
    assert one is not None
    assert other is not None
    assert (one[1:], other[1:]) == ((0, b"first", "a1"), (0, b"again", "b2"))
    assert one[0] is other[0]
    assert one[0].head.get("x-request-id") == ""
    unnamed = heads.read(HEAD + b"third")
    assert unnamed is not None
    assert unnamed[1:] == (0, b"third", "")


@pytest.mark.parametrize(
    "said",
    [
        NAMED.replace(b"a1", b""),
        NAMED.replace(b"a1", b"a 1"),
        NAMED.replace(b"a1\r\n", b"a1\r\nX-A: b\r\n"),
        NAMED.replace(b"a1\r\n", b"a1\r\nx-request-id: b2\r\n"),
    ],
    ids=["empty", "two words", "not last", "twice"],
)
def test_heads_whose_name_is_not_where_a_node_writes_it_are_not_taken(said: bytes) -> None:
    assert Heads(Echo(names_requests=True)).read(said + b"first") is None


def test_heads_with_credentials_are_not_remembered() -> None:
    heads = _heads()
    for name in (b"Authorization", b"x-api-key", b"Cookie", b"PROXY-Authorization"):
        said = HEAD.replace(b"Host: localhost\r\n", b"Host: localhost\r\n" + name + b": secret\r\n")
        read = heads.read(said + b"first")
        assert read is not None
    assert heads._known == {}


def test_so_many_heads_are_remembered_and_no_more() -> None:
    heads = _heads()
    for number in range(2 * HEADS_KEPT):
        heads.read(HEAD.replace(b"localhost", b"h%d" % number) + b"first")
    assert len(heads._known) == HEADS_KEPT
