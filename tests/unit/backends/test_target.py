import asyncio
import itertools
import socket
from typing import Any

import pytest

from ollama_dist.backends.http1 import (
    HIGH_WATER_BYTES,
    MAX_HEAD_BYTES,
    READ_BYTES,
    TELL_BYTES,
    Connection,
    Head,
    Sink,
    request_bytes,
)
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import UpstreamCut, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from ollama_dist.core.ids import NodeId
from tests.support.scripted_server import Played, read_request, scripted, serving
from tests.support.wait import until

SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"
NODE = NodeId("0" * 16)


def target(played: Played) -> Target:
    return Target(NODE, "127.0.0.1", played.port)


async def ask(place: Target, *, within: float = 5.0) -> tuple[Connection, Head]:
    return await place.open("POST", "/api/chat", [("content-type", "x")], b"{}", head_timeout=within)


async def read_all(connection: Connection, *, within: float = 5.0) -> bytes:
    parts = []
    while part := await connection.read(asyncio.get_running_loop().time() + within):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("answer", [SHORT, CHUNKED])
async def test_an_answer_is_read_and_its_connection_used_again(answer: bytes) -> None:
    async with scripted(answer) as server:
        place = target(server)
        for _ in range(3):
            connection, head = await ask(place)
            assert head.status == 200
            assert await read_all(connection) == b"hello"
            place.give_back(connection)
        assert (server.connections, len(server.requests)) == (1, 3)
        assert server.requests[0] == (
            b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1:%d\r\ncontent-type: x\r\nContent-Length: 2\r\n\r\n{}"
            % server.port
        )
        place.close()


EMPTY = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"


async def test_answers_of_all_forms_follow_one_another_on_one_connection() -> None:
    forms: list[tuple[bytes, ...]] = [
        (SHORT,),
        (CHUNKED,),
        (SHORT[:-2], SHORT[-2:]),
        (EMPTY[:-2], EMPTY[-2:]),
        (EMPTY,),
        (INTERIM, SHORT),
        (INTERIM + CHUNKED,),
    ]
    order = [form for one, other in itertools.product(forms, repeat=2) for form in (one, other)]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for form in order:
            await read_request(reader)
            for piece in form:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.001)

    async with serving(serve) as port:
        place = Target(NODE, "127.0.0.1", port)
        for form in order:
            connection, head = await ask(place)
            is_empty = form[-1] in (EMPTY, EMPTY[-2:])
            said = (404, b"") if is_empty else (200, b"hello")
            assert (head.status, await read_all(connection)) == said
            place.give_back(connection)
        assert connection.exchanges == len(order)
        place.close()


@pytest.mark.parametrize("cut", range(1, len(CHUNKED)))
async def test_where_the_network_cuts_an_answer_does_not_matter(cut: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED[:cut])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(CHUNKED[cut:])
        await reader.read()

    async with serving(serve) as port:
        connection, head = await ask(Target(NODE, "127.0.0.1", port))
        assert (head.status, await read_all(connection)) == (200, b"hello")
        connection.close()


@pytest.mark.parametrize("cut", range(1, len(CHUNKED)))
async def test_an_answer_that_stops_anywhere_is_never_whole(cut: int) -> None:
    async with scripted(CHUNKED[:cut], close_after=True) as server:
        with pytest.raises((UpstreamCut, UpstreamRefused)):
            await read_all((await ask(target(server)))[0])


async def test_a_body_that_ends_with_the_connection_is_whole() -> None:
    async with scripted(b"HTTP/1.1 200 OK\r\n\r\nhello", close_after=True) as server:
        connection, _ = await ask(target(server))
        assert await read_all(connection) == b"hello"
        assert not connection.is_reusable


async def test_a_body_that_we_ended_ourselves_is_not_whole() -> None:
    async with scripted(b"HTTP/1.1 200 OK\r\n\r\nhello") as server:
        place = target(server)
        connection, _ = await ask(place)
        assert await connection.read(asyncio.get_running_loop().time() + 5.0) == b"hello"
        place.fail()
        with pytest.raises(UpstreamCut):
            await read_all(connection)


async def test_an_interim_answer_is_not_the_answer() -> None:
    async with scripted(b"HTTP/1.1 100 Continue\r\n\r\n" + SHORT) as server:
        connection, head = await ask(target(server))
        assert (head.status, await read_all(connection)) == (200, b"hello")
        connection.close()


async def test_header_names_come_in_lower_case() -> None:
    async with scripted(b"HTTP/1.1 204 No Content\r\nX-Thing: A\r\nx-thing: B\r\n\r\n") as server:
        connection, head = await ask(target(server))
        assert head.headers == (("x-thing", "A"), ("x-thing", "B"))
        assert head.get("x-thing") == "A"
        assert await read_all(connection) == b""
        connection.close()


async def test_an_idle_connection_that_died_is_replaced_without_anybody_noticing() -> None:
    async with scripted(SHORT, per_connection=1) as server:
        place = target(server)
        connection, _ = await ask(place)
        await read_all(connection)
        place._idle.append((asyncio.get_running_loop().time(), connection))
        await until(lambda: not connection.is_open)
        connection, head = await ask(place)
        assert (head.status, await read_all(connection)) == (200, b"hello")
        assert server.connections == 2
        connection.close()


async def test_a_reused_connection_that_closes_instead_of_answering_is_tried_once_more_on_a_fresh_one() -> (
    None
):
    closed_instead = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(SHORT)
        if not closed_instead.is_set():
            await read_request(reader)
            closed_instead.set()

    async with serving(serve) as port:
        place = Target(NODE, "127.0.0.1", port)
        for _ in range(2):
            connection, head = await ask(place)
            assert (head.status, await read_all(connection)) == (200, b"hello")
            place.give_back(connection)
        assert closed_instead.is_set()
        place.close()


async def test_bytes_nobody_asked_for_end_a_connection() -> None:
    async with scripted(SHORT + b"HTTP/1.1 200 OK\r\n") as server:
        place = target(server)
        connection, _ = await ask(place)
        assert await read_all(connection) == b"hello"
        place.give_back(connection)
        await until(lambda: not connection.is_open)


async def test_nobody_listening_is_a_refusal() -> None:
    async with scripted(SHORT) as server:
        port = server.port
    with pytest.raises(UpstreamRefused, match="refused the connection") as refusal:
        await Target(NODE, "127.0.0.1", port).open("GET", "/", [], b"", head_timeout=1)
    assert not refusal.value.is_sent


async def test_closing_without_an_answer_is_a_refusal() -> None:
    async with scripted(b"", close_after=True) as server:
        with pytest.raises(UpstreamRefused, match="closed before an answer") as refusal:
            await ask(target(server))
    assert refusal.value.is_sent


async def test_what_may_be_sent_once_only_goes_over_a_fresh_connection() -> None:
    async with scripted(SHORT) as server:
        place = target(server)
        for _ in range(2):
            connection, _ = await place.open("POST", "/", [], b"{}", head_timeout=1, is_fresh=True)
            await read_all(connection)
            place.give_back(connection)
        assert server.connections == 2
        place.close()


async def test_silence_is_a_timeout_and_closes() -> None:
    async with scripted(b"") as server:
        with pytest.raises(UpstreamTimeout, match="no answer in time"):
            await ask(target(server), within=0.05)


async def test_a_stalled_body_is_a_timeout() -> None:
    async with scripted(SHORT[:-1]) as server:
        connection, _ = await ask(target(server))
        assert await connection.read(asyncio.get_running_loop().time() + 5) == b"hell"
        with pytest.raises(UpstreamTimeout, match="stalled"):
            await read_all(connection, within=0.05)
        assert not connection.is_open


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MAX_HEAD_BYTES + 1), "too long"),
    ],
)
async def test_what_is_no_answer_is_said(answer: bytes, complaint: str) -> None:
    async with scripted(answer) as server:
        with pytest.raises(UpstreamFailed, match=complaint):
            await ask(target(server))


async def test_a_reader_that_waits_holds_the_sender_back() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        for _ in range(5000):
            writer.write(b"x" * 10_000)
            await writer.drain()
            sent += 10_000

    async with serving(serve) as port:
        connection, _ = await ask(Target(NODE, "127.0.0.1", port))
        before = -1
        while before != sent:  # until the sender makes no more headway
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 50_000_000
        assert connection._buffered <= HIGH_WATER_BYTES + READ_BYTES
        assert len(await read_all(connection)) == 50_000_000
        connection.close()


def into(poured: list[bytes]) -> Sink:
    def sink(data: bytes) -> bool:
        poured.append(data)
        return True

    return sink


async def pour_all(connection: Connection, takes: int = 10**9) -> tuple[list[bytes], list[bytes]]:
    """What ran into a sink that has enough after each ``takes`` pieces, and what was read between."""
    poured: list[bytes] = []
    read: list[bytes] = []

    def sink(data: bytes) -> bool:
        poured.append(data)
        return len(poured) % takes != 0

    while True:
        await connection.pour(sink, lambda _: None, 5.0)
        if not (part := await connection.read(asyncio.get_running_loop().time() + 5.0)):
            return poured, read
        read.append(part)


@pytest.mark.parametrize("cut", range(1, len(CHUNKED)))
async def test_where_the_network_cuts_an_answer_does_not_matter_where_it_runs_through(cut: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(CHUNKED[:cut])
            await writer.drain()
            await asyncio.sleep(0.001)
            writer.write(CHUNKED[cut:])

    async with serving(serve) as port:
        place = Target(NODE, "127.0.0.1", port)
        for _ in range(2):
            connection, _ = await ask(place)
            poured, read = await pour_all(connection)
            assert b"".join(poured + read) == b"hello"
            place.give_back(connection)
        assert connection.exchanges == 2
        place.close()


async def test_what_runs_through_is_told_of_and_held_back_by_a_sink_that_has_enough() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6000000\r\n\r\n")
        for _ in range(600):
            writer.write(b"x" * 10_000)
            await writer.drain()

    async with serving(serve) as port:
        connection, _ = await ask(Target(NODE, "127.0.0.1", port))
        heard: list[int] = []
        poured: list[int] = []

        def sink(data: bytes) -> bool:
            poured.append(len(data))
            return False

        read_before = len(await connection.read(asyncio.get_running_loop().time() + 5.0))
        await connection.pour(sink, lambda data: heard.append(len(data)), 5.0)
        assert sum(heard) == sum(poured)
        await asyncio.sleep(0.05)
        assert len(poured) == 1
        assert connection._buffered <= HIGH_WATER_BYTES + READ_BYTES
        poured_after, read = await pour_all(connection, takes=3)
        assert read_before + sum(poured) + len(b"".join(poured_after + read)) == 6_000_000
        connection.close()


async def test_what_runs_through_and_breaks_off_is_told_by_the_next_read() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED[:-5])
        await writer.drain()
        await asyncio.sleep(0.01)

    async with serving(serve) as port:
        connection, _ = await ask(Target(NODE, "127.0.0.1", port))
        with pytest.raises(UpstreamCut):
            await pour_all(connection)


async def test_silence_in_what_runs_through_counts_from_what_came_last() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(0.05)
            writer.write(b"x")
        await reader.read()

    async with serving(serve) as port:
        connection, _ = await ask(Target(NODE, "127.0.0.1", port))
        poured: list[bytes] = []
        await connection.pour(into(poured), lambda _: None, 0.3)
        assert len(b"".join(poured)) == 10
        with pytest.raises(UpstreamTimeout, match="stalled"):
            await connection.read(asyncio.get_running_loop().time() + 5.0)
        assert not connection.is_open


async def test_what_runs_through_is_told_of_in_portions() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(2000):
            writer.write(b"8\r\n%08d\r\n" % number)
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        await reader.read()

    async with serving(serve) as port:
        connection, _ = await ask(Target(NODE, "127.0.0.1", port))
        told: list[bytes] = []
        poured: list[bytes] = []
        read: list[bytes] = []
        while data := await connection.read(asyncio.get_running_loop().time() + 5.0):
            read.append(data)
            before = len(poured)
            await connection.pour(into(poured), told.append, 5.0)
            assert b"".join(told) == b"".join(poured)
            read += poured[before:]
        assert b"".join(read) == b"".join(b"%08d" % number for number in range(2000))
        assert max(map(len, told)) <= TELL_BYTES + READ_BYTES
        assert len(told) < len(poured)
        connection.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="said to Linux alone")
async def test_pieces_that_run_through_are_not_each_acknowledged_at_once() -> None:
    may_go_on = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nx" % (3 + TELL_BYTES))
        for count in (1, TELL_BYTES):
            await may_go_on.acquire()
            writer.write(b"x" * count)
        await reader.read()

    async with serving(serve) as port:
        connection, _ = await ask(Target(NODE, "127.0.0.1", port))
        assert await connection.read(asyncio.get_running_loop().time() + 5.0) == b"x"
        assert connection._transport is not None
        handle = connection._transport.get_extra_info("socket")
        at_once: list[int] = []

        def fall_silent() -> None:  # after which the kernel does this by itself
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            may_go_on.release()

        def sink(_data: bytes) -> bool:
            at_once.append(handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))
            fall_silent()
            return 0 not in at_once[1:]

        fall_silent()
        await connection.pour(sink, lambda _: None, 5.0)
        assert at_once[0] == at_once[-1] == 0
        assert len(at_once) > 1
        connection.close()


async def test_a_reader_who_leaves_while_it_runs_through_leaves_nothing_behind() -> None:
    async with scripted(SHORT[:-1]) as server:
        connection, _ = await ask(target(server))
        assert await connection.read(asyncio.get_running_loop().time() + 5.0) == b"hell"
        pouring = asyncio.create_task(connection.pour(into([]), lambda _: None, 60.0))
        await until(lambda: connection._sink is not None, what="the rest to be poured")
        pouring.cancel()
        await asyncio.wait([pouring])
        assert connection._sink is None
        connection.close()


async def test_who_is_not_who_we_meant_gets_no_request() -> None:
    def refuse(transport: asyncio.Transport) -> None:
        raise UpstreamRefused("somebody else")

    async with scripted(SHORT) as server:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(refuse), "127.0.0.1", server.port)
        with pytest.raises(UpstreamRefused, match="somebody else"):
            connection.raise_refusal()
        assert not connection.is_open
        assert server.requests == []


async def test_a_caller_who_gives_up_leaves_nothing_open() -> None:
    async with scripted(b"") as server:
        asking = asyncio.create_task(ask(target(server)))
        await until(lambda: len(server.requests) == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


@pytest.mark.parametrize("value", [b"plain", "\u00e9".encode(), b"\xff\xfe"])
def test_a_clients_header_is_sent_on_byte_by_byte(value: bytes) -> None:
    read = value.decode("utf-8", "surrogateescape")
    sent = request_bytes("POST", "/api/chat", "127.0.0.1:1", [("user-agent", read)], b"{}")
    assert b"\r\nuser-agent: " + value + b"\r\n" in sent


async def test_renewed_a_place_uses_no_connection_of_before_again_and_breaks_none_off() -> None:
    async with scripted(SHORT) as server:
        place = target(server)
        idle, _ = await ask(place)
        busy, _ = await ask(place)
        await read_all(idle)
        place.give_back(idle)
        plain: Any = object()
        place.renew(plain)
        place.renew(plain)
        assert await read_all(busy) == b"hello"
        place.give_back(busy)
        assert (idle.is_open, busy.is_open) == (False, False)
        place.renew(None)
        again, _ = await ask(place)
        place.give_back(again)
        assert server.connections == 3
