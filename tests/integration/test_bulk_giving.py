"""Bytes of models given in threads, over real connections with TLS, whatever happens to them."""

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ollama_dist.api import bulk_giving, node_listener
from ollama_dist.core.ids import Digest
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.identity import Identity
from ollama_dist.replication.disk.pieces import PIECE
from ollama_dist.replication.transfer.fetching import PeerSource
from tests.support.holders import Holder, holders, peer_source
from tests.support.members import KEY, OTHER_KEY
from tests.support.model_store import noise
from tests.support.wait import until

WEIGHTS = noise(12 * PIECE + 12_345)


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    assert [each.name for each in threading.enumerate() if each.name == "bulk-giving"] == []


async def whole(source: PeerSource, digest: Digest) -> bytes:
    return b"".join([part async for part in source.read(digest, 0, source.manifest.blobs[digest])])


def install(held: list[Holder]) -> Digest:
    return {holder.store.install("tiny", WEIGHTS).layers[0].digest for holder in held}.pop()


def blobs_through_the_loop(held: list[Holder]) -> list[str]:
    return [asked for holder in held for asked in holder.requests if "blobs" in asked]


async def test_threads_give_blobs_and_the_loop_the_rest(tmp_path: Path) -> None:
    async with holders(tmp_path, 1, secured=True) as held:
        digest = install(held)
        source = await peer_source("tiny", held)

        assert await whole(source, digest) == WEIGHTS

        assert held[0].sent == held[0].giver.given == source.fetched == len(WEIGHTS)
        assert blobs_through_the_loop(held) == []
        assert any("pieces" in asked for asked in held[0].requests)
        await source.close()


async def test_what_is_small_waits_for_no_acknowledgement(tmp_path: Path) -> None:
    async with holders(tmp_path, 1, secured=True) as held:
        install(held)
        source = await peer_source("tiny", held)
        port = held[0].target.port

        await whole(source, source.manifest.config.digest)

        ends = [
            each.fd
            for each in psutil.Process().net_connections("tcp")
            if each.status == psutil.CONN_ESTABLISHED and port in (each.laddr.port, each.raddr.port)
        ]
        assert len(ends) >= 4  # of the loop's and of a thread's
        for end in ends:
            with socket.socket(fileno=os.dup(end)) as open_:
                assert open_.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await source.close()


async def test_where_there_are_no_threads_left_the_loop_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_giving, "CONNECTIONS", 1)
    async with holders(tmp_path, 1, secured=True) as held:
        digest = install(held)
        source = await peer_source("tiny", held)
        assert await whole(source, digest) == WEIGHTS
        assert blobs_through_the_loop(held)
        await source.close()


async def test_a_giver_that_dies_midway_costs_no_byte_twice(tmp_path: Path) -> None:
    async with holders(tmp_path, 2, secured=True) as held:
        digest = install(held)
        held[0].faults.cut_after = 2 * PIECE + 300_000
        source = await peer_source("tiny", held)

        assert await whole(source, digest) == WEIGHTS

        assert held[0].sent < len(WEIGHTS)
        assert source.fetched == len(WEIGHTS)
        await source.close()


async def test_a_giver_that_sends_nothing_more_is_left_for_another(tmp_path: Path) -> None:
    async with holders(tmp_path, 2, secured=True) as held:
        digest = install(held)
        held[0].faults.stall_after = PIECE + 300_000
        source = await peer_source("tiny", held)

        assert await whole(source, digest) == WEIGHTS

        assert source.fetched == len(WEIGHTS)
        await source.close()


async def test_a_giver_that_lies_is_left_out(tmp_path: Path) -> None:
    async with holders(tmp_path, 2, secured=True) as held:
        digest = install(held)
        held[0].faults.spoil = lambda part: part[:-1] + bytes([part[-1] ^ 1])
        source = await peer_source("tiny", held)

        assert await whole(source, digest) == WEIGHTS

        assert source.quarantined == {held[0].id: "3 wrong pieces"}
        await source.close()


async def test_a_slow_giver_keeps_to_its_cap_and_another_gives_more(tmp_path: Path) -> None:
    async with holders(tmp_path, 2, secured=True) as held:
        digest = install(held)
        held[0].faults.bytes_per_s = 200_000.0
        source = await peer_source("tiny", held)

        assert await whole(source, digest) == WEIGHTS

        assert held[1].sent > held[0].sent
        await source.close()


async def test_who_is_revoked_gets_nothing_more_on_a_connection_that_is_open(tmp_path: Path) -> None:
    async with holders(tmp_path, 1, secured=True) as held:
        digest, [holder] = install(held), held
        source = await peer_source("tiny", held)
        assert holder.bulk is not None
        assert holder.credentials is not None
        async for _ in source.read(digest, 0, PIECE):
            pass
        await until(lambda: len(holder.bulk or ()) == 1, what="a bulk connection that stays open")
        sent, mine = holder.sent, holder.credentials.newest
        newer = Identity.load(tmp_path / "1" / "identity", KEY.successor(), "newer.crt")

        holder.credentials.change(newer, mine, frozenset())

        reading = source.read(digest, 8 * PIECE, 9 * PIECE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await anext(reading)
        await reading.aclose()
        assert holder.sent == sent
        await source.close()


async def test_a_stranger_and_somebody_silent_occupy_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_giving, "HEAD_S", 0.3)
    monkeypatch.setattr(node_listener, "HEAD_S", 0.3)
    async with holders(tmp_path, 1, secured=True) as held:
        install(held)
        [holder] = held
        bulk = holder.bulk
        assert bulk is not None
        address = holder.target.host, holder.target.port
        stranger = Credentials(Identity.load(tmp_path / "stranger", OTHER_KEY)).passes[0].bulk
        silent = await asyncio.to_thread(socket.create_connection, address)
        late = await asyncio.to_thread(socket.create_connection, address)
        late.sendall(_hello(stranger))  # and nothing after it

        def knock() -> None:
            with socket.create_connection(address) as plain, stranger.wrap_socket(plain) as wrapped:
                wrapped.sendall(b"GET / HTTP/1.1\r\n\r\n")
                wrapped.recv(1)

        with pytest.raises(OSError):  # noqa: PT011 - whichever side says so first
            await asyncio.to_thread(knock)
        for connection in (silent, late):
            connection.settimeout(20)
            assert await asyncio.to_thread(_until_closed, connection)
            connection.close()
        await until(lambda: len(bulk) == 0, what="the end of all threads")
        await (await peer_source("tiny", held)).close()  # who belongs here is served


async def test_only_blobs_are_to_be_had_so(tmp_path: Path) -> None:
    async with holders(tmp_path, 1, secured=True) as held:
        digest, target = install(held), held[0].target
        path = f"/replication/blobs/sha256:{digest}"
        said = [
            (b"GET %b HTTP/1.1\r\nRange: bytes=5-9\r\n\r\n" % path.encode(), 206, WEIGHTS[5:10]),
            (b"GET %b HTTP/1.1\r\nRange: bytes=99999999-\r\n\r\n" % path.encode(), 416, None),
            (b"GET %b HTTP/1.1\r\n\r\n" % path.encode(), 200, WEIGHTS),
            (b"GET /replication/blobs/sha256:%b HTTP/1.1\r\n\r\n" % (b"0" * 64), 404, None),
            (b"GET /replication/blobs/nonsense HTTP/1.1\r\n\r\n", 400, None),
            (b"GET /replication/manifest?model=tiny HTTP/1.1\r\n\r\n", 404, None),
            (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404, None),
            (b"POST %b HTTP/1.1\r\n\r\n" % path.encode(), 404, None),
        ]
        answers = await asyncio.to_thread(_ask, target, [words for words, _, _ in said])
        for (words, status, body), answer in zip(said, answers, strict=True):
            assert answer[0] == status, words
            assert body is None or answer[1] == body
        for nonsense in (b"\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n", b"x" * 20_000):
            assert await asyncio.to_thread(_ask, target, [nonsense]) == [(0, b"")]
        body = b"GET %b HTTP/1.1\r\nContent-Length: 4\r\n\r\nGET " % path.encode()
        assert await asyncio.to_thread(_ask, target, [body]) == [(0, b"")]


def _hello(context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def _until_closed(connection: socket.socket) -> bool:
    with contextlib.suppress(ConnectionError):
        while connection.recv(4096):
            pass
    return True


def _ask(target: object, requests: list[bytes]) -> list[tuple[int, bytes]]:
    """Status and body of each answer on one connection; (0, b"") where it was closed instead."""
    security = target.security  # type: ignore[attr-defined]
    answers = []
    plain = socket.create_connection((target.host, target.port), 20)  # type: ignore[attr-defined]
    with security.bulk.wrap_socket(plain, server_hostname=security.server_name) as wrapped:
        came = b""
        for request in requests:
            with contextlib.suppress(ConnectionError):
                wrapped.sendall(request)
                while b"\r\n\r\n" not in came and (part := wrapped.recv(65536)):
                    came += part
            head, _, came = came.partition(b"\r\n\r\n")
            if not head:
                answers.append((0, b""))
                continue
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            while len(came) < length:
                came += wrapped.recv(65536)
            answers.append((int(head.split()[1]), came[:length]))
            came = came[length:]
    return answers
