"""Long bodies on their way to an engine: whole, paced, and ended by whichever side ends first."""

import asyncio
import contextlib
import errno
import os
import sys
from collections.abc import AsyncIterator

import psutil
import pytest
from aiohttp import web

from ollama_dist.api import uploads
from ollama_dist.api.exchange import Exchange
from ollama_dist.api.heads import Request
from ollama_dist.api.listener import Listener, bind
from ollama_dist.api.passthrough import Passthrough
from ollama_dist.api.routes import OLLAMA_ROUTES
from ollama_dist.api.uploads import BUFFER_BYTES, LONG_BYTES, Upload
from ollama_dist.backends.upload import UploadConnection
from ollama_dist.core.errors import DistError
from ollama_dist.core.ids import RequestId
from tests.support.ports import free_ports
from tests.support.scripted_server import Script, serving
from tests.support.wait import until

ROUTE = next(
    route for route in OLLAMA_ROUTES if route.path == "/api/blobs/{digest}" and route.method == "POST"
)
BODY = b"".join(b"%07d\n" % number for number in range(400_000))
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(name="way", autouse=True, params=["spliced", "copied"])
def chosen_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Past this process, and through it as where the system cannot do that."""
    if request.param == "spliced" and sys.platform != "linux":
        pytest.skip("only Linux has splice(2)")
    if request.param == "copied":
        monkeypatch.setattr(uploads, "descriptor_of", lambda _: None)
    return str(request.param)


class Front:
    """A listener whose every request goes to the engine; ``ended`` has how each handler did."""

    def __init__(self, engine: int) -> None:
        self.origin = f"http://127.0.0.1:{engine}"
        self._passthrough = Passthrough()
        self.listener = Listener(self._handle, bind("127.0.0.1", [0]))
        self.ended: list[str] = []
        self.requests: list[Request] = []
        self.is_sent: bool | None = None
        """What the last failure said of that."""

    async def _handle(self, request: Request) -> web.StreamResponse:
        self.requests.append(request)
        exchange = Exchange(request, ROUTE, RequestId("0" * 24), [])
        try:
            answer = await self._passthrough.send(exchange, self.origin, "/x", None)
        except DistError as error:
            self.is_sent = getattr(error, "is_sent", None)
            self.ended.append(type(error).__name__)
            return exchange.failure(error)
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        self.ended.append("answered")
        return answer

    @property
    def waits(self) -> bool:
        """Whether an upload waits for the engine."""
        transports = [request.transport for request in self.requests if request.transport is not None]
        protocols = [transport.get_protocol() for transport in transports]
        return any(isinstance(each, Upload) and each._held_at is not None for each in protocols)

    async def stop(self) -> None:
        await self.listener.stop()
        await self._passthrough.close()


@contextlib.asynccontextmanager
async def fronted(engine: Script) -> AsyncIterator[Front]:
    async with serving(engine) as port:
        front = Front(port)
        await front.listener.start()
        try:
            yield front
        finally:
            await front.stop()


@contextlib.asynccontextmanager
async def client(front: Front) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.listener.address[1])
    try:
        async with asyncio.timeout(30.0):
            yield reader, writer
    finally:
        writer.transport.abort()


def head(length: int, more: str = "") -> bytes:
    return f"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def keeper(into: list[bytes]) -> Script:
    """An engine that keeps the bodies it gets and answers each."""

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.readuntil(b"\r\n\r\n")
        [length] = [line for line in said.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        into.append(await reader.readexactly(int(length.partition(b":")[2])))
        writer.write(CREATED)
        await writer.drain()
        into.append(await reader.read())

    return keep


@pytest.mark.parametrize("step", [1_000, 65_536, 3_000_000])
async def test_a_long_body_arrives_whole_and_is_the_last_on_its_connection(step: int) -> None:
    got: list[bytes] = []
    async with fronted(keeper(got)) as front, client(front) as (reader, writer):
        sent = BODY if step > 1_000 else BODY[: LONG_BYTES + 5]
        writer.write(head(len(sent)) + sent[:10])
        for start in range(10, len(sent), step):
            writer.write(sent[start : start + step])
            await writer.drain()
        writer.write(b"POST /more HTTP/1.1\r\n\r\n")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert b"connection: close" in answer.lower()
        assert answer.count(b"HTTP/1.1") == 1
        await until(lambda: len(got) == 2, what="the end of the engine's connection")
        assert got == [sent, b""]
        assert front.ended == ["answered"]


async def test_a_short_body_leaves_its_connection_open() -> None:
    got: list[bytes] = []
    async with fronted(keeper(got)) as front, client(front) as (reader, writer):
        for number in range(2):
            writer.write(head(6) + b"abc")
            await asyncio.sleep(0.01)
            writer.write(b"def")
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 201 ")
            assert b"close" not in answer.lower()
            assert got[2 * number] == b"abcdef"
            await until(lambda number=number: len(got) == 2 * number + 2, what="the engine's end")  # type: ignore[misc]


async def test_who_waits_to_be_told_to_go_on_is_told() -> None:
    got: list[bytes] = []
    async with fronted(keeper(got)) as front, client(front) as (reader, writer):
        writer.write(head(len(BODY), "Expect: 100-continue\r\n"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
        assert got[0] == BODY


async def test_what_waits_for_an_engine_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "descriptor_of", lambda _: None)
    reads = asyncio.Event()
    got: list[bytes] = []
    held: list[tuple[int, int]] = []

    class Seen(UploadConnection):
        def write(self, data: bytes | memoryview) -> bool:
            assert self._transport is not None
            before = self._transport.get_write_buffer_size()
            is_sent = super().write(data)
            held.append((before, self._transport.get_write_buffer_size()))
            return is_sent

    monkeypatch.setattr(uploads, "UploadConnection", Seen)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reads.wait()
        await keeper(got)(reader, writer)

    async with fronted(slow) as front, client(front) as (reader, writer):
        sent = BODY * 10
        writer.write(head(len(sent)) + sent)
        await until(lambda: held[-1:] > [(0, 0)], what="bytes that wait")
        await asyncio.sleep(0.05)
        reads.set()
        assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
        assert got[0] == sent
        assert {before for before, _ in held} == {0}  # what waits stays as it is
        assert 0 < max(after for _, after in held) <= BUFFER_BYTES


async def test_an_engine_that_reads_nothing_for_a_while_gets_all_the_same() -> None:
    reads = asyncio.Event()
    got: list[bytes] = []

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await reads.wait()
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        await keeper(got)(reader, writer)

    async with fronted(slow) as front, client(front) as (reader, writer):
        sent = BODY * 10
        writer.write(head(len(sent)) + sent)
        await until(lambda: front.waits, what="that the engine is waited for")
        assert writer.transport.get_write_buffer_size() > 0
        reads.set()
        assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
        assert got[0] == sent


async def test_an_early_answer_reaches_a_client_that_sends_on() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100_000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await reader.read()

    async with fronted(refuse) as front, client(front) as (reader, writer):
        writer.write(head(len(BODY) * 2) + BODY)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"no")


async def test_an_engine_that_hangs_up_over_its_answer_is_heard(way: str) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100_000)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: front.waits, what="that there is more than it reads")
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
        writer.transport.abort()  # with bytes unread: what is sent there is answered with a reset

    async with fronted(refuse) as front, client(front) as (reader, writer):
        writer.write(head(len(BODY) * 10) + BODY * 10)
        answer = await reader.read()
        if way == "spliced":
            assert answer.startswith(b"HTTP/1.1 400 ")
        else:  # it may be that it is written to before it is read from
            assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 502 "))


@pytest.mark.parametrize("where", ["from the client", "to the engine"])
async def test_where_bytes_cannot_be_spliced_they_are_copied(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    splice, calls = os.splice, []

    def unable(source: int, sink: int, count: int, **more: int) -> int:
        calls.append(source)
        if where == "from the client" or len(calls) == 2:
            raise OSError(errno.EINVAL, "no")
        return splice(source, sink, count, **more)

    monkeypatch.setattr(os, "splice", unable)
    got: list[bytes] = []
    async with fronted(keeper(got)) as front, client(front) as (reader, writer):
        writer.write(head(len(BODY)) + BODY)
        assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
        assert got[0] == BODY


async def test_nothing_stays_open() -> None:
    got: list[bytes] = []
    process = psutil.Process()
    async with fronted(keeper(got)) as front:
        before = process.num_fds()
        for ends_well in (True, False, True):
            async with client(front) as (reader, writer):
                writer.write(head(len(BODY)) + BODY[:-1] + BODY[-1:] * ends_well)
                if ends_well:
                    assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
                else:
                    await until(lambda: len(front.requests) == 2, what="its beginning")
        await until(lambda: process.num_fds() == before, what="as many descriptors as before")


async def test_what_an_engine_says_of_a_body_passes_as_it_is() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
        said = b'{"error":"digest mismatch"}'
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n")
        writer.write(b"Server: x\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))
        await writer.drain()
        await reader.read()

    async with fronted(refuse) as front, client(front) as (reader, writer):
        writer.write(head(len(BODY)) + BODY)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b'\r\n\r\n{"error":"digest mismatch"}')
        assert b"application/json" in answer
        assert b"Server" not in answer


async def test_an_engine_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "SILENCE_S", 0.2)

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await until(writer.is_closing, what="its end")

    async with fronted(listen) as front, client(front) as (reader, writer):
        writer.write(head(len(BODY) * 10) + BODY * 10)
        assert (await reader.read()).startswith(b"HTTP/1.1 502 ")
        assert front.ended == ["UpstreamRefused"]


async def test_an_engine_that_is_not_there_is_known_before_the_body_is_asked_for() -> None:
    async def nobody(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        raise AssertionError("nobody comes here")

    async with fronted(nobody) as front, client(front) as (reader, writer):
        (port,) = free_ports(1)
        front.origin = f"http://127.0.0.1:{port}"
        writer.write(head(len(BODY), "Expect: 100-continue\r\n"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 502 ")
        assert front.ended == ["UpstreamRefused"]
        assert front.is_sent is False


async def test_an_engine_that_dies_is_a_refusal() -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100_000)
        writer.transport.abort()

    async with fronted(die) as front, client(front) as (reader, writer):
        writer.write(head(len(BODY) * 2) + BODY)
        assert (await reader.read()).startswith(b"HTTP/1.1 502 ")
        assert front.ended == ["UpstreamRefused"]


async def test_a_client_that_leaves_takes_its_upload_along() -> None:
    ends: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            ends.append(await reader.read(1))
            ends.append(await reader.read())
        ends.append(b"end")

    async with fronted(listen) as front:
        async with client(front) as (_, writer):
            writer.write(head(len(BODY) * 2) + BODY)
            await until(lambda: bool(ends), what="its beginning at the engine")
        await until(lambda: bool(front.ended), what="the handler's end")
        assert front.ended == ["CancelledError"]
        await until(lambda: ends[-1:] == [b"end"], what="the engine to hear of it")


async def test_a_long_body_that_dribbles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PATIENCE_S", 0.2)
    monkeypatch.setattr(uploads, "SLOWEST_BYTES_PER_S", 10**9)
    got: list[bytes] = []
    async with fronted(keeper(got)) as front, client(front) as (reader, writer):
        writer.write(head(len(BODY)) + BODY[:1000])
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        assert front.ended == ["TooSlow"]
