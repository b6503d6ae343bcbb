"""What a client sees of real processes: answers from elsewhere, nodes that die under it, nodes alone."""

import asyncio
import contextlib
import json
from typing import Any

import aiohttp
import anthropic
import httpx
import ollama
import openai
import pytest

from tests.support.fake_ollama import Fault
from tests.support.fake_ollama.faults import Hang
from tests.support.real_nodes import RealNode, RealNodes, eventually, records
from tests.support.wait import until

SENTENCE = " The quick brown fox jumps over the lazy dog and then it goes back to sleep until morning"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
CHAT = {"model": "tiny", "messages": HELLO, "stream": False}
STREAM = {**CHAT, "stream": True}
THREE = {"desk": ["tiny-random"], "laptop": ["tiny"], "office": ["tiny"]}


# The only holder


async def test_the_libraries_people_use_get_streams_from_a_node_without_the_model(nodes: RealNodes) -> None:
    await nodes.joined({"desk": [], "laptop": ["tiny", "tiny-embed"]})
    for node in nodes:
        async with ollama.AsyncClient(node.url) as client:
            said = [part.message.content async for part in await client.chat("tiny", HELLO, stream=True)]
            assert "".join(content or "" for content in said) == SENTENCE
            assert {model.model for model in (await client.list()).models} == {
                "tiny:latest",
                "tiny-embed:latest",
            }
            assert (await client.show("tiny")).capabilities == ["completion"]
            assert len((await client.embed("tiny-embed", ["a", "b"])).embeddings) == 2
            with pytest.raises(ollama.ResponseError, match="model 'none' not found"):
                await client.generate("none", "hello")
        async with openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == SENTENCE
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="none", messages=HELLO)
        async with (
            anthropic.AsyncAnthropic(base_url=node.url, api_key="none", max_retries=0) as client,
            client.messages.stream(model="tiny", max_tokens=50, messages=HELLO) as message,
        ):
            assert "".join([text async for text in message.text_stream]) == SENTENCE


async def test_a_stream_crosses_two_nodes_chunk_by_chunk(nodes: RealNodes) -> None:
    await nodes.joined({"desk": [], "laptop": ["tiny"]})
    nodes["laptop"].ollama.faults.add(Fault(hang=Hang.STREAM, at_token=3))
    async with (
        aiohttp.ClientSession() as session,
        session.post(nodes["desk"].url + "/api/chat", json=STREAM) as answer,
    ):
        assert answer.headers["X-Ollama-Node"] == "laptop"
        lines = [json.loads(await answer.content.readline()) for _ in range(3)]
        assert [line["done"] for line in lines] == [False] * 3  # the rest has not even been made
        nodes["laptop"].ollama.clear_faults()
        rest = records(await answer.read())
        assert rest[-1]["done"]


async def test_a_client_that_leaves_frees_the_engine_behind_two_nodes(nodes: RealNodes) -> None:
    await nodes.joined({"desk": [], "laptop": ["tiny"]})
    engine = nodes["laptop"].ollama
    engine.faults.add(Fault(hang=Hang.STREAM, at_token=2))
    async with aiohttp.ClientSession() as session:
        answer = await session.post(nodes["desk"].url + "/api/chat", json=STREAM)
        await answer.content.readline()
        answer.close()
    await until(
        lambda: engine.journal.on("/api/chat")[0].end == "client left", what="the engine's being told"
    )


# Nodes that die


async def _who_gets(nodes: RealNodes, entry: str) -> tuple[str, Any]:
    """Start a request at ``entry`` that no engine answers yet: who has it, and the request under way."""
    holders = [nodes["laptop"], nodes["office"]]
    for holder in holders:
        holder.ollama.faults.add(Fault(hang=Hang.ANSWER))
    request = asyncio.create_task(nodes[entry].post("/api/chat", STREAM))

    def holder_of() -> list[RealNode]:
        return [holder for holder in holders if holder.ollama.journal.on("/api/chat")]

    await until(lambda: bool(holder_of()), what="the request's arriving")
    return holder_of()[0].name, request


async def test_a_node_killed_before_its_first_byte_is_never_noticed(nodes: RealNodes) -> None:
    await nodes.joined(THREE)
    victim, request = await _who_gets(nodes, "desk")
    other = "office" if victim == "laptop" else "laptop"
    nodes[other].ollama.clear_faults()
    await nodes[victim].kill()
    status, headers, body = await request
    assert status == 200
    assert "".join(line["message"]["content"] for line in records(body)) == SENTENCE
    assert records(body)[-1]["done"]
    assert (headers["X-Ollama-Node"], headers["X-Ollama-Attempts"]) == (other, "2")


async def test_a_killed_node_is_passed_over_at_once(nodes: RealNodes) -> None:
    await nodes.joined(THREE)
    await nodes["laptop"].kill()
    for _ in range(5):
        status, headers, _ = await nodes["desk"].post("/api/chat", CHAT)
        assert (status, headers["X-Ollama-Node"]) == (200, "office")


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_node_killed_in_mid_stream_ends_it_as_a_failure(nodes: RealNodes, path: str) -> None:
    await nodes.joined({"desk": [], "laptop": ["tiny"]})
    nodes["laptop"].ollama.faults.add(Fault(hang=Hang.STREAM, at_token=3))
    received = b""
    async with (
        httpx.AsyncClient() as client,
        client.stream("POST", nodes["desk"].url + path, json=STREAM) as answer,
    ):
        with contextlib.suppress(httpx.RemoteProtocolError):  # it is cut short, after an error in words
            async for piece in answer.aiter_raw():
                if not received:
                    await nodes["laptop"].kill()
                received += piece
    assert b'"error"' in received
    assert b'"done":true' not in received
    assert b"[DONE]" not in received
    assert b'finish_reason":"stop' not in received


async def test_openais_library_raises_when_the_node_dies_in_mid_stream(nodes: RealNodes) -> None:
    await nodes.joined({"desk": [], "laptop": ["tiny"]})
    nodes["laptop"].ollama.faults.add(Fault(hang=Hang.STREAM, at_token=3))
    async with openai.AsyncOpenAI(
        base_url=f"{nodes['desk'].url}/v1", api_key="none", max_retries=0
    ) as client:
        stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        await anext(stream)
        await nodes["laptop"].kill()
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass


async def test_when_the_only_holder_is_gone_that_is_said(nodes: RealNodes) -> None:
    await nodes.joined({"desk": [], "laptop": ["tiny"]})
    await nodes["laptop"].kill()
    await nodes["desk"].until_states(laptop="dead")
    status, _, body = await nodes["desk"].post("/api/chat", CHAT)
    assert status == 503
    assert "laptop is dead" in json.loads(body)["error"]


async def test_one_that_is_told_to_stop_finishes_what_it_began(nodes: RealNodes) -> None:
    await nodes.joined({"desk": [], "laptop": ["tiny"]})
    nodes["laptop"].ollama.faults.add(Fault(hang=Hang.STREAM, at_token=3))
    async with (
        aiohttp.ClientSession() as session,
        session.post(nodes["desk"].url + "/api/chat", json=STREAM) as answer,
    ):
        await answer.content.readline()
        ending = asyncio.create_task(nodes["laptop"].terminate())

        async def draining() -> bool:
            listed = (await nodes["desk"].get("/api/distributed/nodes"))["nodes"]
            return any(node["name"] == "laptop" and node["draining"] for node in listed)

        await eventually(draining, bool, 10, "the others' being told")
        nodes["laptop"].ollama.clear_faults()
        assert records(await answer.read())[-1]["done"]
    assert await ending == 0


# Alone


async def test_a_node_with_nobody_around_is_a_faithful_ollama(nodes: RealNodes) -> None:
    desk = await nodes.add("desk", ["tiny"], key="")
    status, headers, body = await desk.post("/api/chat", CHAT)
    assert (status, headers["X-Ollama-Mode"], headers["X-Ollama-Node"]) == (200, "standalone", "desk")
    assert json.loads(body)["message"]["content"] == SENTENCE


async def test_a_node_that_lost_all_others_serves_its_own_machine(nodes: RealNodes) -> None:
    await nodes.joined({"desk": ["tiny"], "laptop": ["tiny"]})
    await nodes["laptop"].kill()
    await nodes["desk"].until_states(laptop="dead")
    status, headers, _ = await nodes["desk"].post("/api/chat", CHAT)
    assert (status, headers["X-Ollama-Node"]) == (200, "desk")


async def test_an_ollama_that_comes_later_is_used(nodes: RealNodes) -> None:
    desk = await nodes.add("desk", ["tiny"])
    await desk.ollama.stop()
    await eventually(desk.routable, lambda found: not found, 15, "the engine's being missed")
    status, _, _ = await desk.post("/api/chat", CHAT)
    assert status >= 500
    await desk.ollama.start()
    await desk.until_routable(desk=1)
    assert (await desk.post("/api/chat", CHAT))[0] == 200


async def test_not_distributed_is_a_plain_pass_through(nodes: RealNodes) -> None:
    desk = await nodes.add("desk", ["tiny"])
    await desk.terminate()
    await desk.start(environment={"OLLAMA_DISTRIBUTED": "false"})
    status, headers, body = await desk.post("/api/chat", CHAT)
    assert (status, headers["X-Ollama-Distributed"]) == (200, "false")
    assert "X-Ollama-Node" not in headers
    assert json.loads(body)["message"]["content"] == SENTENCE
    async with (
        aiohttp.ClientSession() as session,
        session.get(desk.url + "/api/distributed/status") as answer,
    ):
        assert answer.status == 404


async def test_a_taken_port_is_not_the_end(nodes: RealNodes) -> None:
    """Two nodes that were told the same port without a choice: the second says so and goes."""
    desk = await nodes.add("desk", ["tiny"])
    code, printed = await desk.cli("serve", "--listen", f"127.0.0.1:{desk.port}")
    assert code != 0
    assert "another" in printed or "in use" in printed or "runs already" in printed


# The operator


async def test_the_mode_is_changed_by_who_has_the_token(nodes: RealNodes) -> None:
    await nodes.joined({"desk": ["tiny-random"], "laptop": ["tiny"]})
    desk = nodes["desk"]
    assert (await desk.post("/api/chat", CHAT))[0] == 200
    for wrong in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer wrong"}):
        assert (await desk.post("/admin/mode", {"mode": "local"}, **wrong))[0] == 401
    right = {"Authorization": f"Bearer {desk.admin_token}"}
    assert (await desk.post("/admin/mode", {"mode": "local"}, **right))[0] == 200
    status, headers, _ = await desk.post("/api/chat", CHAT)
    assert (status, headers["X-Ollama-Mode"]) == (503, "local")
    stats: dict[str, Any] = await desk.get("/admin/stats", **right)
    assert stats["requests"]["served"] >= 1


async def test_every_decision_can_be_looked_up(nodes: RealNodes) -> None:
    await nodes.joined(THREE)
    _, headers, _ = await nodes["desk"].post("/api/chat", CHAT)
    listed = (await nodes["desk"].get("/api/distributed/decisions"))["decisions"]
    mine = next(row for row in listed if row["request_id"] == headers["X-Request-ID"])
    assert mine["winner"] == headers["X-Ollama-Node"]
    assert {candidate["node"] for candidate in mine["candidates"]} >= {"laptop", "office"}


async def test_nodes_that_say_nothing_do_not_hold_up_what_the_others_can_tell(nodes: RealNodes) -> None:
    """Half of them answer nothing, and nobody knows yet: lists come at once, from what was last heard."""
    await nodes.joined(
        {"desk": ["tiny"], "laptop": ["tiny-embed"], "office": ["tiny-random"], "attic": ["tiny"]}
    )
    desk = nodes["desk"]
    await desk.post("/api/generate", {"model": "tiny-random"})

    async def running() -> list[str]:
        return [f"{row['name']} at {row['node']}" for row in (await desk.get("/api/ps"))["models"]]

    async def heard() -> list[str]:
        nodes = (await desk.get("/api/distributed/nodes"))["nodes"]
        return next(row["models"]["loaded"] for row in nodes if row["name"] == "office")

    await eventually(heard, lambda found: found == ["tiny-random:latest"], 10, "its being heard of")
    for name in ("office", "attic"):
        nodes[name].freeze()
    for _ in range(5):
        async with asyncio.timeout(1):  # without a limit of its own each would wait for a second and more
            models = [row["name"] for row in (await desk.get("/api/tags"))["models"]]
            assert sorted(models) == ["tiny-embed:latest", "tiny-random:latest", "tiny:latest"]
            assert await running() == ["tiny-random:latest at office"]
            assert (await desk.get("/api/distributed/status"))["cluster"]["nodes"] == 4
    await desk.until_states(office="dead", attic="dead")
    assert (await desk.post("/api/chat", CHAT))[0] == 200
