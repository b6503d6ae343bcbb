"""TLS on the event loop: beside the loop's own, in due form and otherwise."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from ollama_dist.gossip.identity import Identity
from ollama_dist.gossip.keys import ClusterKey
from ollama_dist.gossip.tls import client_context, server_context, verified_peer
from ollama_dist.runtime import tls as module
from ollama_dist.runtime.tls import READ_BYTES, Tls
from tests.support.members import KEY
from tests.support.wait import until

SIZES = (1, 160, 16 * 1024, 16 * 1024 + 1, 3_000_000)


class Ear(asyncio.Protocol):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.transport: asyncio.Transport | None = None
        self.ends: list[str | Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def eof_received(self) -> bool:
        self.ends.append("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.append(exc)

    @property
    def way(self) -> asyncio.Transport:
        assert self.transport is not None
        return self.transport


class BufferedEar(Ear, asyncio.BufferedProtocol):
    """The same, given room instead of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.room = memoryview(bytearray(READ_BYTES))

    def get_buffer(self, sizehint: int) -> Any:
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self.room[:nbytes]))


@pytest.fixture(name="identities")
def made_identities(tmp_path: Path) -> tuple[Identity, Identity]:
    server, client = (Identity.load(tmp_path / name, KEY, "crt") for name in ("server", "client"))
    return server, client


@contextlib.asynccontextmanager
async def pair(
    identities: tuple[Identity, Identity],
    *,
    ours: tuple[bool, bool] = (True, True),
    kind: Callable[[], Ear] = Ear,
) -> AsyncIterator[tuple[Ear, Ear]]:
    """Both ends of a connection, the server's first; ``ours``: which of them has our TLS, not the loop's."""
    loop = asyncio.get_running_loop()
    inner, outer = server_context(identities[0]), client_context(identities[1])
    at_server, at_client = kind(), kind()
    server = await (
        loop.create_server(lambda: Tls(at_server, inner, server_side=True), "127.0.0.1", 0)
        if ours[0]
        else loop.create_server(lambda: at_server, "127.0.0.1", 0, ssl=inner)
    )
    port = server.sockets[0].getsockname()[1]
    if ours[1]:
        _, tls = await loop.create_connection(lambda: Tls(at_client, outer), "127.0.0.1", port)
        await tls.made()
    else:
        await loop.create_connection(
            lambda: at_client, "127.0.0.1", port, ssl=outer, server_hostname="anything"
        )
    try:
        await until(lambda: at_server.transport is not None, what="the server's end")
        yield at_server, at_client
    finally:
        at_client.way.abort()
        at_server.way.abort()
        await until(lambda: bool(at_server.ends and at_client.ends), what="both ends to be over")
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("kind", [Ear, BufferedEar])
@pytest.mark.parametrize("ours", [(True, True), (True, False), (False, True)])
async def test_bytes_pass_both_ways_whoever_is_at_the_other_end(
    identities: tuple[Identity, Identity], ours: tuple[bool, bool], kind: Callable[[], Ear]
) -> None:
    async with pair(identities, ours=ours, kind=kind) as ends:
        assert [verified_peer(end.way) for end in ends] == [identities[1].id, identities[0].id]
        for here, there in (ends, ends[::-1]):
            for size in SIZES:
                there.heard.clear()
                sent = bytes(range(251)) * (size // 251 + 1)
                here.way.write(sent[:size])
                await until(lambda there=there, size=size: len(there.heard) >= size, what="all of it")  # type: ignore[misc]
                assert there.heard == sent[:size]


@pytest.mark.parametrize("ours", [(True, True), (True, False), (False, True)])
async def test_an_end_in_due_form_is_no_error_and_comes_after_all_bytes(
    identities: tuple[Identity, Identity], ours: tuple[bool, bool]
) -> None:
    async with pair(identities, ours=ours) as (server, client):
        server.way.write(b"x" * 1_000_000)
        server.way.close()
        assert server.way.is_closing()
        await until(lambda: len(client.ends) == 2, what="the end")
        assert len(client.heard) == 1_000_000
        assert client.ends == ["eof", None]


@pytest.mark.parametrize("side", [0, 1])
async def test_an_end_that_is_only_the_connections_is_an_error(
    identities: tuple[Identity, Identity], side: int
) -> None:
    async with pair(identities) as ends:
        here, there = ends[side], ends[1 - side]
        here.way.write(b"so far")
        await until(lambda: there.heard == b"so far", what="the bytes")
        here.way.abort()
        await until(lambda: bool(there.ends), what="the end")
        assert isinstance(there.ends[-1], ConnectionError)
        there.way.write(b"nobody is there")
        there.way.close()


async def test_who_takes_nothing_is_given_a_read_at_most_and_later_all_in_order(
    identities: tuple[Identity, Identity],
) -> None:
    async with pair(identities) as (server, client):
        sent = b"".join(b"%08d" % number for number in range(500_000))
        taken: list[int] = []
        take = client.data_received

        def pausing(data: bytes) -> None:
            take(data)
            taken.append(len(data))
            client.way.pause_reading()

        client.data_received = pausing  # type: ignore[method-assign]
        client.way.set_protocol(client)
        server.way.set_write_buffer_limits(65536)
        server.way.write(sent)
        while len(client.heard) < len(sent):
            before = len(taken)
            await until(lambda before=before: len(taken) > before, what="the next piece")  # type: ignore[misc]
            assert len(taken) == before + 1
            tls = cast(Any, client.way)
            assert tls._incoming.pending <= READ_BYTES
            assert not client.way.is_reading()
            client.way.resume_reading()
        assert client.heard == sent
        assert max(taken) <= READ_BYTES


async def test_what_is_written_waits_in_the_connection_and_its_fullness_is_told(
    identities: tuple[Identity, Identity],
) -> None:
    async with pair(identities) as (server, client):
        told: list[str] = []
        server.pause_writing = lambda: told.append("full")  # type: ignore[method-assign]
        server.resume_writing = lambda: told.append("empty")  # type: ignore[method-assign]
        server.way.set_write_buffer_limits(65536)
        client.way.pause_reading()
        while not told:
            server.way.write(b"x" * 100_000)
            await asyncio.sleep(0)
        assert server.way.get_write_buffer_size() > 65536
        client.way.resume_reading()
        await until(lambda: told == ["full", "empty"], what="room")


async def test_a_stranger_gets_no_further_than_the_handshake(
    identities: tuple[Identity, Identity], tmp_path: Path
) -> None:
    stranger = Identity.load(tmp_path / "stranger", ClusterKey.make(), "crt")
    ear = Ear()
    loop = asyncio.get_running_loop()
    inner = server_context(identities[0])
    server = await loop.create_server(lambda: Tls(ear, inner, server_side=True), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, tls = await loop.create_connection(lambda: Tls(Ear(), client_context(stranger)), "127.0.0.1", port)
    with pytest.raises(ssl.SSLError):
        await tls.made()
    careless = client_context(stranger)
    careless.verify_mode = ssl.CERT_NONE
    caller = Ear()
    _, tls = await loop.create_connection(lambda: Tls(caller, careless), "127.0.0.1", port)
    await tls.made()  # a client has done its part by then
    await until(lambda: bool(caller.ends), what="the refusal")
    assert isinstance(caller.ends[-1], ssl.SSLError)
    assert ear.transport is None
    server.close()
    await server.wait_closed()


async def test_what_was_changed_on_its_way_ends_the_connection(
    identities: tuple[Identity, Identity],
) -> None:
    async with pair(identities) as (server, client):
        tls = cast(Any, client.way)
        tls._incoming.write(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        tls._deliver()
        await until(lambda: bool(client.ends and server.ends), what="the end")
        assert isinstance(client.ends[-1], ssl.SSLError)
        assert not client.heard


@pytest.mark.parametrize("is_server", [True, False])
async def test_a_handshake_that_does_not_come_is_given_up(
    identities: tuple[Identity, Identity], monkeypatch: pytest.MonkeyPatch, is_server: bool
) -> None:
    monkeypatch.setattr(module, "HANDSHAKE_S", 0.05)
    loop = asyncio.get_running_loop()
    context = server_context(identities[0]) if is_server else client_context(identities[1])
    made: list[Tls] = []

    def make() -> Tls:
        made.append(Tls(Ear(), context, server_side=is_server))
        return made[-1]

    silent = Ear()
    if is_server:
        server = await loop.create_server(make, "127.0.0.1", 0)
        await loop.create_connection(lambda: silent, "127.0.0.1", server.sockets[0].getsockname()[1])
    else:
        server = await loop.create_server(lambda: silent, "127.0.0.1", 0)
        await loop.create_connection(make, "127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(TimeoutError):
            await made[0].made()
    await until(lambda: bool(silent.ends), what="the end")
    with pytest.raises(TimeoutError):
        await made[0].made()
    server.close()
    await server.wait_closed()
