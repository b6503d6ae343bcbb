import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ollama_dist.backends import bulk
from ollama_dist.backends.bulk import Lines, Tanks
from ollama_dist.backends.target import IDLE_LIMIT_S, Security, Target
from ollama_dist.core.errors import UpstreamCut, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.identity import Identity
from tests.support.members import KEY
from tests.support.scripted_server import read_request, scripted, serving

SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


def target(port: int, security: Security | None = None) -> Target:
    return Target(NodeId("0" * 16), "127.0.0.1", port, security)


@contextlib.asynccontextmanager
async def some_lines(silence_s: float = 5.0) -> AsyncIterator[Lines]:
    lines = Lines(4, silence_s)
    try:
        yield lines
    finally:
        await lines.close()


async def answer(lines: Lines, place: Target, *sizes: int) -> list[bytes]:
    """Of one request, so many bytes at a time, each in its own place."""

    def work() -> Iterator[bytes]:
        assert line.begin("/blob", []) == 200
        for size in sizes:
            heard: list[int] = []
            tank = bytearray(size)
            line.fill(memoryview(tank), heard.append)
            assert sum(heard) == size
            yield bytes(tank)

    line = lines.take(place)
    try:
        return [part async for part in lines.each(line, work())]
    finally:
        lines.give_back(line)


@pytest.mark.parametrize("cut", range(1, len(SHORT)))
async def test_a_body_lands_where_it_belongs_wherever_it_is_cut(cut: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            writer.write(SHORT[:cut])
            await writer.drain()
            await asyncio.sleep(0.001)
            writer.write(SHORT[cut:])

    async with serving(serve) as port, some_lines() as lines:
        for _ in range(2):
            assert await answer(lines, target(port), 2, 3) == [b"he", b"llo"]


async def test_a_line_is_used_again_as_long_as_it_leads_to_the_same_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scripted(SHORT) as server, some_lines() as lines:
        place = target(server.port)
        for _ in range(3):
            assert await answer(lines, place, 5) == [b"hello"]
        assert (server.connections, len(server.requests)) == (1, 3)

        place.renew(Security(ssl.create_default_context(), "", lambda _: None))
        place.renew(None)  # the same as before: it may be used
        await answer(lines, place, 5)
        assert server.connections == 1

        await answer(lines, target(server.port), 5)  # another place, as far as anybody knows
        assert server.connections == 2

        monkeypatch.setattr(bulk, "IDLE_LIMIT_S", -IDLE_LIMIT_S)
        await answer(lines, place, 5)
        assert server.connections == 3


async def test_a_line_that_was_closed_while_it_was_idle_is_made_anew() -> None:
    async with scripted(SHORT, per_connection=1, close_after=True) as server, some_lines() as lines:
        place = target(server.port)
        for _ in range(2):
            assert await answer(lines, place, 5) == [b"hello"]
            await asyncio.sleep(0.05)
        assert (server.connections, len(server.requests)) == (2, 2)


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (SHORT[:-1], UpstreamTimeout, "stalled"),
        (SHORT[:-8], UpstreamTimeout, "no answer in time"),
        (CHUNKED, UpstreamFailed, "how long"),
        (SHORT.replace(b": 5", b": 4"), UpstreamFailed, "longer than it says"),
        (SHORT.replace(b": 5", b": -5"), UpstreamFailed, "how long"),
        (b"SSH-2.0\r\n\r\n", UpstreamFailed, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000, UpstreamFailed, "too long"),
    ],
)
async def test_what_is_no_whole_answer_is_told(said: bytes, error: type[Exception], words: str) -> None:
    silence_s = 1.0 if error is UpstreamTimeout else 10.0
    async with scripted(said) as server, some_lines(silence_s) as lines:
        with pytest.raises(error, match=words):
            await answer(lines, target(server.port), 5)


async def test_an_answer_that_is_shorter_than_its_place_or_breaks_off_is_told() -> None:
    async with scripted(SHORT) as server, some_lines() as lines:
        with pytest.raises(UpstreamCut, match="shorter"):
            await answer(lines, target(server.port), 6)
    async with scripted(SHORT[:-1], close_after=True) as server, some_lines() as lines:
        with pytest.raises(UpstreamCut, match="broke off"):
            await answer(lines, target(server.port), 5)
    async with some_lines() as lines:
        with pytest.raises(UpstreamRefused, match="refused"):
            await answer(lines, target(server.port), 5)


async def test_who_leaves_midway_is_not_kept_waiting_and_leaves_no_thread() -> None:
    silence_s = 60.0

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await read_request(reader)
        left.set_result(await reader.read())

    left: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with serving(serve) as port:
        began = time.monotonic()
        async with some_lines(silence_s) as lines:
            task = asyncio.create_task(answer(lines, target(port), 5))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await left == b""
        assert time.monotonic() - began < silence_s


@contextlib.asynccontextmanager
async def secured(folder: Path, verify: Callable[[Any], None]) -> AsyncIterator[Target]:
    """A place that members alone may talk to."""
    server, client = (Credentials(Identity.load(folder / name, KEY, "crt")) for name in ("server", "client"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await read_request(reader):
                writer.write(SHORT)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server.server_context())
    shown = client.passes[0]
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        yield target(port, Security(shown.relay, shown.server_name, verify))


async def test_who_answers_is_looked_at_before_anything_is_asked(tmp_path: Path) -> None:
    seen = []

    def verify(transport: Any) -> None:
        seen.append(transport.get_extra_info("ssl_object").getpeercert(binary_form=True))

    async with secured(tmp_path, verify) as place, some_lines() as lines:
        for _ in range(2):
            assert await answer(lines, place, 1, 4) == [b"h", b"ello"]
    assert len(seen) == 1
    assert seen[0]


async def test_who_is_somebody_else_is_told_nothing(tmp_path: Path) -> None:
    def refuse(_: Any) -> None:
        raise UpstreamRefused("another answers")

    async with secured(tmp_path, refuse) as place, some_lines() as lines:
        with pytest.raises(UpstreamRefused, match="another answers"):
            await answer(lines, place, 5)


def test_room_is_used_again_only_when_nobody_looks_at_it() -> None:
    tanks = Tanks(4, kept=2)
    first = tanks.take(4)
    first[:] = b"wxyz"
    view = memoryview(first)[1:]
    tanks.give_back(first)

    second = tanks.take(4)
    assert second is not first
    assert bytes(view) == b"xyz"

    view.release()
    assert tanks.take(4) is first
    assert len(first) == 4


def test_what_was_used_last_is_used_first_and_another_size_is_made() -> None:
    tanks = Tanks(4, kept=3)
    many = [tanks.take(4) for _ in range(3)]
    for tank in many:
        tanks.give_back(tank)
    seen = memoryview(many[2])

    assert len(tanks.take(5)) == 5
    assert tanks.take(4) is many[1]
    seen.release()
    assert tanks.take(4) is many[2]
    assert tanks.take(4) is many[0]


def test_only_so_much_room_is_kept_and_none_of_another_size() -> None:
    tanks = Tanks(4, kept=2)
    many = [tanks.take(4) for _ in range(3)]
    for tank in (*many, bytearray(5)):
        tanks.give_back(tank)
    taken = [id(tanks.take(4)) for _ in range(3)]
    assert len({id(tank) for tank in many} & set(taken)) == 2
