"""Clients that leave, wherever their request is by then, and clients that read slowly."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.support.cut_answers import look
from tests.support.fake_ollama import Fault
from tests.support.fake_ollama.faults import Hang
from tests.support.joined_nodes import JoinedNode, JoinedNodes, joined_nodes
from tests.support.scripted_server import read_request, serving
from tests.support.wait import until

ROOM = 4
"""In the queue of these nodes."""

LEFT_S = 5.0
"""By then an engine knows, and its slot is free, on any machine. How soon is for the benchmark to tell."""

WORDS: list[tuple[str, dict[str, Any]]] = [
    ("/api/generate", {"prompt": "hello there"}),
    ("/api/chat", {"messages": [{"role": "user", "content": "hello there"}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello there"}]}),
    ("/v1/completions", {"prompt": "hello there"}),
    ("/v1/responses", {"input": "hello there"}),
    ("/v1/messages", {"max_tokens": 20, "messages": [{"role": "user", "content": "hello there"}]}),
]
VECTORS: list[tuple[str, dict[str, Any]]] = [
    ("/api/embed", {"input": "hello there"}),
    ("/api/embeddings", {"prompt": "hello there"}),
    ("/v1/embeddings", {"input": "hello there"}),
]
REQUESTS = [
    *(
        (path, {**body, "model": "tiny", "stream": stream})
        for path, body in WORDS
        for stream in (True, False)
    ),
    *((path, {**body, "model": "tiny-embed"}) for path, body in VECTORS),
]
STREAMS = [(path, body) for path, body in REQUESTS if body.get("stream")]


@asynccontextmanager
async def warm_nodes(slots: int, *, splice: bool = True) -> AsyncIterator[JoinedNodes]:
    """desk, and laptop with two models in memory: a load that has begun goes on without its client."""
    models = {"desk": [], "laptop": ["tiny", "tiny-embed"]}
    joined = joined_nodes(models, {"splice": splice}, slots=slots)
    async with joined as nodes, aiohttp.ClientSession() as session:
        laptop = nodes["laptop"]
        for path, body in (REQUESTS[1], REQUESTS[-1]):
            async with session.post(laptop.url + path, json=body) as response:
                assert response.status == 200
        await until(lambda: len(laptop.node.view().me.loaded) == 2, what="the models' being seen in memory")
        laptop.fake.journal.requests.clear()
        yield nodes


class Client:
    """One that asks and is then seen no more."""

    def __init__(self, entry: JoinedNode, path: str, body: dict[str, Any]) -> None:
        self._port = entry.public.address[1]
        self._path = path
        self._body = json.dumps(body).encode()
        self.reader = asyncio.StreamReader()
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self) -> None:
        self.reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"POST {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(self._body)}\r\n\r\n"
        self._writer.write(head.encode() + self._body)

    def leave(self, how: str) -> None:
        assert self._writer is not None
        if how == "reset":
            self._writer.transport.abort()
        else:
            self._writer.close()


async def ask_all(entry: JoinedNode, requests: list[tuple[str, dict[str, Any]]]) -> list[Client]:
    clients = [Client(entry, path, body) for path, body in requests]
    for client in clients:
        await client.ask()
    return clients


async def leave_and_see(nodes: JoinedNodes, clients: list[Client], how: str) -> None:
    """All leave; the engine hears of each in time, and nothing of them is left anywhere."""
    journal = nodes["laptop"].fake.journal
    left_at = journal.now()
    for client in clients:
        client.leave(how)
    await until(lambda: not journal.under_way, what="the engine's being told")
    asked = [
        seen for seen in journal.requests if seen.method == "POST"
    ]  # the nodes look at their engines too
    assert [(seen.path, seen.end, seen.ended_at) for seen in asked if seen.end != "client left"] == []
    assert max(seen.ended_at or 0.0 for seen in asked) - left_at < LEFT_S
    await all_free(nodes)


async def all_free(nodes: JoinedNodes) -> None:
    def is_idle() -> bool:
        loads = [node.node.view().me.load for node in nodes]
        return all(load.in_flight == load.waiting == 0 for load in loads)

    assert await until(is_idle, what="all slots' being free") < LEFT_S


async def outcomes(entry: JoinedNode, count: int) -> dict[str, int]:
    """How the requests ended at their entry, once ``count`` have."""

    def told() -> dict[str, int]:
        found: dict[str, int] = entry.node.dispatcher.stats.render()["outcomes"]
        return found

    await until(lambda: sum(told().values()) >= count, what="all outcomes' being noted")
    return told()


entries = pytest.mark.parametrize("entry", ["laptop", "desk"], ids=["one boundary", "two"])
ways = pytest.mark.parametrize("how", ["fin", "reset"])
paths = pytest.mark.parametrize("splice", [True, False], ids=["straight", "piecewise"])


@entries
@ways
async def test_before_the_first_token(entry: str, how: str) -> None:
    """In every dialect, streamed or not, text or vectors."""
    async with warm_nodes(slots=32) as nodes:
        laptop = nodes["laptop"]
        before = sum(nodes[entry].node.dispatcher.stats.render()["outcomes"].values())
        laptop.fake.faults.add(Fault(hang=Hang.ANSWER))
        clients = await ask_all(nodes[entry], REQUESTS)
        await until(lambda: len(laptop.fake.journal.under_way) == len(REQUESTS), what="all arriving")
        await leave_and_see(nodes, clients, how)
        told = await outcomes(nodes[entry], before + len(REQUESTS))
        assert told["cancelled"] == len(REQUESTS)


@entries
@ways
@paths
async def test_in_mid_stream(entry: str, how: str, splice: bool) -> None:
    async with warm_nodes(slots=32, splice=splice) as nodes:
        nodes["laptop"].fake.faults.add(Fault(hang=Hang.STREAM))
        clients = await ask_all(nodes[entry], STREAMS)
        for client in clients:
            await client.reader.readuntil(b"\r\n\r\n")
            await client.reader.readuntil(b"\n\r\n")
        await leave_and_see(nodes, clients, how)
        assert (await outcomes(nodes[entry], len(STREAMS)))["cancelled"] == len(STREAMS)


@entries
@ways
async def test_while_an_answer_that_is_not_streamed_is_being_made(entry: str, how: str) -> None:
    whole = [(path, body) for path, body in REQUESTS if not body.get("stream", True)]
    async with warm_nodes(slots=32) as nodes:
        laptop = nodes["laptop"]
        laptop.fake.faults.add(Fault(token_s=2.0))
        clients = await ask_all(nodes[entry], whole)
        await until(lambda: laptop.fake.journal.in_slots == len(whole), what="all being worked on")
        await leave_and_see(nodes, clients, how)


@entries
@ways
async def test_in_the_queue(entry: str, how: str) -> None:
    async with warm_nodes(slots=1) as nodes:
        laptop = nodes["laptop"]
        laptop.fake.faults.add(Fault(hang=Hang.ANSWER))
        text = [(path, body) for path, body in REQUESTS if body["model"] == "tiny"]
        first = await ask_all(nodes[entry], text[:1])
        await until(lambda: len(laptop.fake.journal.under_way) == 1, what="the first arriving")
        for at in range(0, len(text), ROOM):
            others = await ask_all(nodes[entry], text[at : at + ROOM])
            await until(lambda: laptop.node.view().me.load.waiting == ROOM, what="the others' waiting")
            for client in others:
                client.leave(how)
            assert await until(lambda: laptop.node.view().me.load.waiting == 0) < LEFT_S
        assert len(laptop.fake.journal.requests) == 1
        await leave_and_see(nodes, first, how)


# Clients that read slowly

LINE = json.dumps({"model": "tiny", "response": "x" * 16_000, "done": False}).encode() + b"\n"
LINES = 64 * 2**20 // len(LINE)
LAST = json.dumps({"model": "tiny", "response": "", "done": True, "done_reason": "stop"}).encode() + b"\n"


def held_by(node: JoinedNode) -> int:
    """Bytes of answers in a node: come from engines and peers and not taken on, or not sent to callers."""
    unsent = sum(
        handler.transport.get_write_buffer_size()
        for listener in (node.public, node.relay)
        for handler in listener._server.connections
        if handler.transport is not None
    )
    unread = sum(
        connection._buffered
        for target in (node.node.engine.target, *node.node._targets.values())
        if target is not None
        for connection in target._busy
    )
    return int(unsent + unread)


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An engine that answers with 64 MiB as fast as they are taken."""
    while True:
        request = await read_request(reader)
        method, path, _ = request.split(b" ", 2)
        if method == b"GET":
            writer.write(look(path))
            continue
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % (LINES * len(LINE) + len(LAST)))
        for _ in range(LINES):
            writer.write(LINE)
            await writer.drain()
        writer.write(LAST)


@entries
@paths
async def test_a_client_that_reads_slowly_holds_little_of_its_answer_in_a_node(
    entry: str, splice: bool
) -> None:
    async with (
        serving(flood) as port,
        joined_nodes({"desk": [], "laptop": []}, {"splice": splice}, {"laptop": port}) as nodes,
    ):
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, *(held_by(node) for node in nodes))
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", nodes[entry].public.address[1]))
        body = json.dumps({"model": "tiny", "prompt": "all"}).encode()
        head = f"POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        await loop.sock_sendall(client, head.encode() + body)
        await asyncio.sleep(0.5)
        received, tail = 0, b""
        while not tail.endswith(b"0\r\n\r\n"):
            part = await loop.sock_recv(client, 256 * 1024)
            assert part
            received, tail = received + len(part), (tail + part)[-64:]
        watching.cancel()
        client.close()
        assert received > LINES * len(LINE)
        assert most <= 256 * 1024
