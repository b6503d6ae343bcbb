"""That what is asked often takes the short way through a whole node, as long as nobody turns it off."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from ollama_dist.api import connections
from ollama_dist.api.connections import Server
from ollama_dist.api.lane import Lane
from tests.support.fake_ollama import FakeOllama
from tests.support.joined_nodes import joined_nodes
from tests.support.solo_node import solo_node

MESSAGES = [{"role": "user", "content": "hi"}]
OFTEN = {
    "POST /api/embed": {"model": "tiny", "input": "hi"},
    "POST /api/chat": {"model": "tiny", "messages": MESSAGES, "stream": False},
    "POST /api/generate": {"model": "tiny", "prompt": "hi"},
    "POST /v1/chat/completions": {"model": "tiny", "messages": MESSAGES},
    "POST /v1/embeddings": {"model": "tiny", "input": "hi"},
    "POST /api/show": {"model": "tiny"},
    "GET /api/tags": None,
    "GET /api/ps": None,
    "GET /api/version": None,
    "GET /v1/models": None,
}


@pytest.fixture
async def engine() -> AsyncIterator[FakeOllama]:
    async with FakeOllama(models=("tiny",)) as fake:
        yield fake


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What connections do: begin on the short way, or go to aiohttp."""
    taken: list[str] = []
    give = Server.hand_over

    class Noted(Lane):
        __slots__ = ()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            taken.append("lane")
            super().connection_made(transport)

    def note(server: Server, transport: asyncio.Transport, address: str, data: bytes) -> None:
        taken.append("aiohttp")
        give(server, transport, address, data)

    monkeypatch.setattr(connections, "Lane", Noted)
    monkeypatch.setattr(Server, "hand_over", note)
    return taken


async def ask_all(url: str, headers: dict[str, str]) -> None:
    async with aiohttp.ClientSession(headers=headers) as session:
        for row, body in OFTEN.items():
            method, path = row.split()
            async with session.request(method, url + path, json=body) as answer:
                assert answer.status == 200, (row, await answer.text())
                assert await answer.read()


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer ollama"}], ids=["bare", "with-a-key"])
async def test_what_is_asked_often_takes_it(
    engine: FakeOllama, ways: list[str], headers: dict[str, str]
) -> None:
    async with solo_node(engine.port) as solo:
        await ask_all(solo.url, headers)
    assert ways == ["lane"]


async def test_nothing_takes_it_where_it_is_turned_off(engine: FakeOllama, ways: list[str]) -> None:
    async with solo_node(engine.port, splice=False) as solo:
        await ask_all(solo.url, {})
    assert ways == []


@pytest.mark.parametrize("splice", [True, False])
async def test_what_a_member_relays_takes_it_as_well(ways: list[str], splice: bool) -> None:
    async with joined_nodes({"desk": [], "laptop": ["tiny"]}, {"splice": splice}) as nodes:
        async with aiohttp.ClientSession() as session:
            for stream in (True, False, True):
                body = {"model": "tiny", "messages": MESSAGES, "stream": stream}
                async with session.post(nodes["desk"].url + "/api/chat", json=body) as answer:
                    assert answer.status == 200, await answer.text()
                    assert b'"done":true' in await answer.read()
                    assert answer.headers["X-Ollama-Node"] == "laptop"
        seen = [request.path for request in nodes["laptop"].fake.journal.requests]
        assert seen.count("/api/chat") == 3
    assert ways == (["lane", "lane"] if splice else [])


async def test_a_request_in_two_parts_is_answered_once(engine: FakeOllama, ways: list[str]) -> None:
    """Many clients send head and body one after the other."""
    body = b'{"model":"tiny","input":"hi"}'
    head = b"POST /api/embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with solo_node(engine.port) as solo, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", solo.port)
        for _ in range(3):
            writer.write(head)
            await asyncio.sleep(0.01)
            writer.write(body)
            said = await reader.readuntil(b"\r\n\r\n")
            assert said.startswith(b"HTTP/1.1 200 OK\r\n")
            length = int(said.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()
    assert ways == ["lane"]
    assert len([seen for seen in engine.journal.requests if seen.path == "/api/embed"]) == 3
