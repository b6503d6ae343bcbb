"""The queue in front of an engine, and loads that outlive the client that caused them."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.fake_ollama import Fault
from tests.support.fake_ollama.faults import Hang
from tests.support.joined_nodes import JoinedNode, JoinedNodes, joined_nodes
from tests.support.wait import until

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello there"}], "stream": False}
SENTENCE = "The quick brown fox jumps over the lazy dog"


@pytest.fixture
async def nodes() -> AsyncIterator[JoinedNodes]:
    """Only laptop has tiny, and one slot for it."""
    async with joined_nodes({"desk": [], "laptop": ["tiny"]}) as joined:
        yield joined


class Caller:
    """One connection on which every byte of the answer is seen, interim answers included."""

    def __init__(self, node: JoinedNode, path: str, fields: dict[str, Any], **headers: str) -> None:
        self.task = asyncio.create_task(self._call(node.public.address[1], path, fields, headers))
        self.received = bytearray()

    async def _call(self, port: int, path: str, fields: dict[str, Any], headers: dict[str, str]) -> None:
        body = json.dumps(fields).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            while part := await reader.read(65536):
                self.received += part
        finally:
            writer.close()

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    @property
    def heads(self) -> list[str]:
        """Status lines and headers of all answers, the interim ones first."""
        return [part for part in self.received.decode().split("\r\n\r\n") if part.startswith("HTTP/1.1")]


def asked(node: JoinedNode, path: str = "/api/chat") -> int:
    return len(node.fake.journal.on(path))


async def occupied(laptop: JoinedNode) -> Caller:
    """Somebody keeps laptop's slot for tiny."""
    laptop.fake.faults.add(Fault(route="/api/chat", hang=Hang.ANSWER, times=1))
    caller = Caller(laptop, "/api/chat", CHAT)
    await until(lambda: asked(laptop) == 1, what="the slot's being taken")
    return caller


async def test_an_engine_gets_no_more_than_it_has_slots_for(nodes: JoinedNodes) -> None:
    laptop = nodes["laptop"]
    holder = await occupied(laptop)
    callers = [Caller(nodes["desk"], "/api/chat", CHAT) for _ in range(3)]
    await until(lambda: laptop.node.view().me.load.waiting == 3, what="three waiting")
    assert asked(laptop) == 1
    await holder.leave()
    for caller in callers:
        await caller.task
        assert SENTENCE.encode() in caller.received
    assert laptop.node.view().me.load.in_flight == 0


async def test_a_caller_that_asks_hears_its_place_on_the_way_and_at_the_end(nodes: JoinedNodes) -> None:
    holder = await occupied(nodes["laptop"])
    first = Caller(nodes["desk"], "/api/chat", CHAT, **{"X-Ollama-Queue": "show"})
    await until(lambda: len(first.heads) == 1, what="the first place's being told")
    second = Caller(nodes["laptop"], "/api/chat", CHAT, **{"X-Ollama-Queue": "1"})
    await until(lambda: len(second.heads) == 1, what="the second place's being told")
    assert first.heads[0].startswith("HTTP/1.1 102 Processing\r\nX-Ollama-Queue: position=1, expected_ms=")
    assert "X-Ollama-Queue: position=2, expected_ms=" in second.heads[0]
    await holder.leave()
    for caller, place in ((first, 1), (second, 2)):
        await caller.task
        assert caller.heads[-1].startswith("HTTP/1.1 200 OK")
        assert f"X-Ollama-Queue: position={place}, expected_ms=" in caller.heads[-1]
        assert "waited_ms=" in caller.heads[-1]


async def test_a_caller_that_does_not_ask_gets_one_answer_as_ever(nodes: JoinedNodes) -> None:
    holder = await occupied(nodes["laptop"])
    caller = Caller(nodes["desk"], "/api/chat", CHAT)
    await until(lambda: nodes["laptop"].node.view().me.load.waiting == 1, what="one waiting")
    await holder.leave()
    await caller.task
    assert len(caller.heads) == 1
    assert "X-Ollama-Queue" not in caller.heads[0]


async def test_what_is_urgent_overtakes_also_when_it_comes_from_another_node(nodes: JoinedNodes) -> None:
    laptop, order = nodes["laptop"], list[str]()
    holder = await occupied(laptop)

    async def call(node: JoinedNode, priority: str) -> None:
        await Caller(node, "/api/chat", CHAT, **{"X-Ollama-Priority": priority}).task
        order.append(priority)

    slow = asyncio.create_task(call(laptop, "batch"))
    await until(lambda: laptop.node.view().me.load.waiting == 1, what="the slow one's waiting")
    fast = asyncio.create_task(call(nodes["desk"], "interactive"))
    await until(lambda: laptop.node.view().me.load.waiting == 2, what="both waiting")
    await holder.leave()
    await asyncio.gather(slow, fast)
    assert order == ["interactive", "batch"]


async def test_a_full_queue_answers_at_once_and_says_when_to_come_back(nodes: JoinedNodes) -> None:
    holder = await occupied(nodes["laptop"])
    waiting = [Caller(nodes["desk"], "/api/chat", CHAT) for _ in range(4)]
    await until(lambda: nodes["laptop"].node.view().me.load.waiting == 4, what="a full queue")
    one_too_many = Caller(nodes["desk"], "/api/chat", CHAT)
    await one_too_many.task
    assert one_too_many.heads[0].startswith("HTTP/1.1 503 ")
    assert "\r\nRetry-After: " in one_too_many.heads[0]
    assert b"server busy, please try again.  maximum pending requests exceeded" in one_too_many.received
    for caller in waiting:
        await caller.leave()
    await until(lambda: nodes["laptop"].node.view().me.load.waiting == 0, what="their places' being free")
    last = Caller(nodes["desk"], "/api/chat", CHAT)
    await holder.leave()
    await last.task
    assert SENTENCE.encode() in last.received


async def test_a_load_goes_on_when_the_client_that_caused_it_leaves() -> None:
    async with joined_nodes({"desk": [], "laptop": ["tiny"]}, load_s=0.3) as nodes:
        laptop = nodes["laptop"]
        laptop.fake.pace.tokens_per_s = 10
        impatient = Caller(nodes["desk"], "/api/chat", CHAT)
        await until(lambda: asked(laptop) == 1, what="the load's beginning")
        await impatient.leave()
        await until(lambda: bool(laptop.node.view().me.loaded), what="the model's being loaded all the same")
        patient = Caller(nodes["desk"], "/api/chat", CHAT)
        await patient.task
        assert SENTENCE.encode() in patient.received
        assert laptop.fake.journal.loads_begun == 1
        await until(lambda: not laptop.fake.journal.under_way, what="what nobody waits for being let go")
        assert [seen.end for seen in laptop.fake.journal.on("/api/chat")] == ["client left", "answered"]


async def test_without_a_load_to_save_nothing_is_kept_of_a_client_that_left(nodes: JoinedNodes) -> None:
    laptop = nodes["laptop"]
    await Caller(laptop, "/api/chat", CHAT).task
    await until(lambda: bool(laptop.node.view().me.loaded), what="its being seen in memory")
    laptop.fake.faults.add(Fault(route="/api/chat", hang=Hang.ANSWER, times=1))
    caller = Caller(nodes["desk"], "/api/chat", CHAT)
    await until(lambda: asked(laptop) == 2, what="the request's arriving")
    await caller.leave()
    await until(lambda: not laptop.fake.journal.under_way, what="its being dropped")


async def test_a_loaded_model_is_not_loaded_again(nodes: JoinedNodes) -> None:
    laptop = nodes["laptop"]
    await Caller(nodes["desk"], "/api/chat", CHAT).task
    await until(lambda: bool(laptop.node.view().me.loaded), what="its being seen in memory")
    await Caller(nodes["desk"], "/api/chat", CHAT).task
    assert (asked(laptop), laptop.fake.journal.loads_begun) == (2, 1)


async def test_a_model_is_asked_where_it_is_loaded_with_the_same_options() -> None:
    async with joined_nodes({"desk": [], "laptop": ["tiny"], "office": ["tiny"]}) as nodes:
        long = {**CHAT, "options": {"num_ctx": 8192}}
        for name, fields in (("laptop", CHAT), ("office", long)):
            await Caller(nodes["desk"], "/api/chat", fields, **{"X-Ollama-Node": name}).task
        await until(
            lambda: all(
                any(
                    model.options is not None
                    for model in nodes["desk"].node.view().nodes[node.node.view().self_id].loaded.values()
                )
                for node in (nodes["laptop"], nodes["office"])
            ),
            what="desk's knowing how they are loaded",
        )
        for _ in range(4):
            for name, fields in (("laptop", CHAT), ("office", long)):
                caller = Caller(nodes["desk"], "/api/chat", fields)
                await caller.task
                assert f"X-Ollama-Node: {name}" in caller.heads[0]
