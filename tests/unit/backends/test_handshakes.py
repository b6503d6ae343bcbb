"""Many connections wanted at once: they are made some at a time, and nobody's time runs while it waits."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollama_dist.backends import target
from ollama_dist.backends.http1 import Connection
from ollama_dist.backends.target import HANDSHAKES, Security, Target
from ollama_dist.core.errors import UpstreamFailed, UpstreamTimeout
from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.identity import Identity
from tests.support.members import KEY
from tests.support.scripted_server import read_request
from tests.support.wait import until

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
MANY = 8 * HANDSHAKES
STEP_S = 0.1
"""Between two handshakes; the last one of many begins when the limit for one is long over."""


class Door:
    """Lets a TLS server's connections in one by one: until then their handshakes do not begin."""

    def __init__(self) -> None:
        self.waiting = 0
        self.most = 0
        self.let_in = asyncio.Semaphore(0)


@contextlib.asynccontextmanager
async def behind_a_door(folder: Path) -> AsyncIterator[tuple[Target, Door]]:
    server, client = (Credentials(Identity.load(folder / name, KEY, "crt")) for name in ("server", "client"))
    door = Door()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await read_request(reader)
                writer.write(ANSWER)
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        door.waiting += 1
        door.most = max(door.most, door.waiting)
        await door.let_in.acquire()
        door.waiting -= 1
        inner_reader, inner_writer = await asyncio.open_connection(*address)
        await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))

    inside = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server.server_context())
    address = inside.sockets[0].getsockname()
    outside = await asyncio.start_server(let_in, "127.0.0.1", 0, backlog=2 * MANY)
    shown = client.passes[0]
    security = Security(shown.relay, shown.server_name, lambda _: None)
    place = Target(NodeId("0" * 16), "127.0.0.1", outside.sockets[0].getsockname()[1], security)
    try:
        yield place, door
    finally:
        for _ in range(2 * MANY):
            door.let_in.release()
        place.fail()
        outside.close()
        inside.close()
        await asyncio.sleep(0.1)


async def ask(place: Target) -> bytes:
    connection, _ = await place.open("POST", "/", [], b"{}", head_timeout=30.0)
    body = await connection.read(asyncio.get_running_loop().time() + 5.0)
    await connection.read(asyncio.get_running_loop().time() + 5.0)
    place.give_back(connection)
    return body


async def test_a_handshake_that_has_to_wait_for_others_is_not_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "CONNECT_TIMEOUT_S", MANY * STEP_S * 0.6)
    async with behind_a_door(tmp_path) as (place, door):
        asking = [asyncio.create_task(ask(place)) for _ in range(MANY)]
        await until(lambda: door.waiting == HANDSHAKES, what="the first ones' coming to the door")
        for _ in range(MANY):
            door.let_in.release()
            await asyncio.sleep(STEP_S)
        assert await asyncio.gather(*asking) == [b"hi"] * MANY
        assert door.most == HANDSHAKES


async def test_who_waits_takes_a_connection_that_has_become_free(tmp_path: Path) -> None:
    async with behind_a_door(tmp_path) as (place, door):
        asking = [asyncio.create_task(ask(place)) for _ in range(MANY)]
        await until(lambda: door.waiting == HANDSHAKES, what="the first ones' coming to the door")
        for _ in range(MANY):
            door.let_in.release()
        assert await asyncio.gather(*asking) == [b"hi"] * MANY
        assert len(place._idle) < MANY


async def test_where_nobody_lets_anybody_in_all_that_wait_are_told_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "CONNECT_TIMEOUT_S", 0.3)
    async with behind_a_door(tmp_path) as (place, door):
        asking = [asyncio.create_task(ask(place)) for _ in range(MANY)]
        told = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(each) for each in told} == {UpstreamTimeout}
        assert all(isinstance(each, UpstreamFailed) and not each.is_sent for each in told)
        assert door.most == HANDSHAKES


async def test_a_process_that_was_held_up_itself_sees_what_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "CONNECT_TIMEOUT_S", 0.3)
    async with behind_a_door(tmp_path) as (place, _):
        bare = Target(place.node, place.host, place.port)
        connecting = asyncio.create_task(bare._in_turn(is_fresh=True))
        await asyncio.sleep(0)
        time.sleep(0.6)  # noqa: ASYNC251 -- that is the point
        (await connecting).close()


class Scripted(Target):
    """A place whose connections take so long, and are made or not."""

    def __init__(self, *script: tuple[float, bool]) -> None:
        super().__init__(NodeId("0" * 16), "127.0.0.1", 1)
        self.script = list(script)

    async def _connect(self) -> Connection:
        seconds, is_made = self.script.pop(0)
        await asyncio.sleep(seconds)
        if not is_made:
            raise UpstreamTimeout("did not take a connection in time")
        return Connection()


async def test_a_place_that_takes_another_meanwhile_is_slow_and_tried_again() -> None:
    place = Scripted((0.1, False), (0.02, True), (0.0, True))
    made = await asyncio.gather(place._in_turn(is_fresh=True), place._in_turn(is_fresh=True))
    assert len(set(made)) == 2
    assert place.script == []


async def test_a_place_that_takes_nobody_is_not_tried_again() -> None:
    place = Scripted((0.02, True), (0.0, False), (0.0, True))
    await place._in_turn(is_fresh=True)
    with pytest.raises(UpstreamTimeout, match="in time"):
        await place._in_turn(is_fresh=True)
    assert len(place.script) == 1


async def test_who_leaves_the_queue_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with behind_a_door(tmp_path) as (place, door):
        asking = [asyncio.create_task(ask(place)) for _ in range(HANDSHAKES + 2)]
        await until(lambda: door.waiting == HANDSHAKES, what="the first ones' coming to the door")
        for left in asking[: HANDSHAKES + 1]:
            left.cancel()
        await asyncio.wait(asking[: HANDSHAKES + 1])
        for _ in range(2 * HANDSHAKES):
            door.let_in.release()
        assert await asking[-1] == b"hi"
