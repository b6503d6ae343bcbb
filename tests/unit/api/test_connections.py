import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from ollama_dist.api.bodies import read_body
from ollama_dist.api.connections import Gate
from ollama_dist.api.listener import Handler, Listener, bind
from ollama_dist.core.errors import BadRequest
from tests.support.wait import until

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


async def hello(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="hello")


async def read_and_tell(request: web.BaseRequest) -> web.StreamResponse:
    try:
        return web.Response(body=await read_body(request, 100))
    except BadRequest as error:
        return web.Response(status=error.status, text=str(error))


@asynccontextmanager
async def served(
    gate: Gate | None = None, head_s: float = 10.0, handler: Handler = hello
) -> AsyncIterator[int]:
    listener = Listener(handler, bind("127.0.0.1", [0]), gate=gate, head_s=head_s)
    await listener.start()
    try:
        yield listener.address[1]
    finally:
        await listener.stop()


async def said(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """All that comes back for ``parts``, until the other side closes; at most five seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


def test_a_gate_counts_in_all_and_by_address_but_not_this_machine() -> None:
    gate = Gate(most=6, most_per_address=2)
    assert [gate.enter("10.0.0.1") for _ in range(3)] == [True, True, False]
    assert [gate.enter("127.0.0.1") for _ in range(3)] == [True, True, True]
    assert [gate.enter("10.0.0.2") for _ in range(2)] == [True, False]
    gate.leave("10.0.0.1")
    assert gate.enter("10.0.0.1")


async def test_a_connection_too_many_is_closed_and_a_place_is_free_again_afterwards() -> None:
    gate = Gate(most=1)
    async with served(gate) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET")
        await until(lambda: gate.inside == 1, what="its being let in")
        with suppress(ConnectionError):  # the same, told by a reset
            assert await said(port, REQUEST) == b""
        writer.close()
        await until(lambda: gate.inside == 0, what="its being gone")
        assert b"hello" in await said(port, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


async def test_who_says_nothing_is_not_waited_for() -> None:
    async with served(head_s=0.1) as port:
        assert await said(port) == b""


async def test_a_head_that_dribbles_in_is_not_waited_for() -> None:
    async with served(head_s=0.2) as port:
        dribble = (REQUEST[i : i + 1] for i in range(len(REQUEST) - 1))
        with suppress(ConnectionError, RuntimeError):  # closed before the last byte could be sent
            assert await said(port, *dribble, pause_s=0.02) == b""


async def test_a_second_head_on_the_same_connection_has_its_own_time() -> None:
    async with served(head_s=1.0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(REQUEST)
            assert b"200 OK" in await reader.readuntil(b"hello")
            await asyncio.sleep(0.4)  # idle is not late
        writer.write(REQUEST[:10])
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_what_is_no_request_is_told_so_in_few_words_and_hung_up_on() -> None:
    async with served() as port:
        answer = await said(port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello tls\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 400 Bad Request\r\n" in head
        assert body == b"400 Bad Request"
        assert b"aiohttp" not in answer


async def test_trailers_do_not_become_headers_of_a_further_request() -> None:
    heard: list[str] = []

    async def note(request: web.BaseRequest) -> web.StreamResponse:
        heard.append(request.headers.get("User-Agent", ""))
        return web.Response()

    async with served(handler=note) as port:
        answer = await said(port, CHUNKED + b"0\r\nUser-Agent: smuggled\r\n\r\n" + REQUEST)
        assert b"Connection: close" in answer
        assert heard == [""]


async def test_who_wishes_for_another_protocol_is_answered_in_this_one_for_the_last_time() -> None:
    wish = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    async with served() as port:
        assert (await said(port, wish, REQUEST)).count(b"200 OK") == 1


async def test_a_body_that_breaks_off_its_framing_is_not_waited_for() -> None:
    async with served(handler=read_and_tell) as port:
        answer = await said(port, CHUNKED, b"zz\r\n", pause_s=0.05)
        assert answer.startswith(b"HTTP/1.1 400 ")


async def test_another_version_is_told_so_in_one_that_all_understand() -> None:
    async with served() as port:
        for version in (b"HTTP/2.0", b"HTTP/0.9"):
            answer = await said(port, REQUEST.replace(b"HTTP/1.1", version))
            assert answer.startswith(b"HTTP/1.0 505 ")


async def test_a_client_that_left_before_its_body_came_is_told_apart_from_a_mistake() -> None:
    ended = asyncio.get_running_loop().create_future()

    async def read_late(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1)
        try:
            await read_body(request, 100)
        except ConnectionError as error:
            ended.set_result(error)
            raise
        return web.Response()

    async with served(handler=read_late) as port:
        with suppress(ConnectionError):
            await said(port, CHUNKED)
        assert isinstance(await asyncio.wait_for(ended, 5), ConnectionError)


EXPECTING = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nConnection: close\r\n"
    b"Expect: 100-Continue\r\n\r\n"
)


async def test_a_body_held_back_is_asked_for_once_somebody_reads_it() -> None:
    async with served(handler=read_and_tell) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(EXPECTING)
        async with asyncio.timeout(5):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"abc")
            answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"abc")


async def test_a_body_that_nobody_reads_is_not_asked_for() -> None:
    async with served() as port:
        answer = await said(port, EXPECTING)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_body_that_came_anyway_is_not_asked_for() -> None:
    async with served(handler=read_and_tell) as port:
        answer = await said(port, EXPECTING + b"abc")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_other_expectations_are_not_met() -> None:
    async with served() as port:
        answer = await said(port, REQUEST.replace(b"\r\n\r\n", b"\r\nExpect: miracles\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 417 Expectation Failed\r\n")
