"""Answers given again when nobody can answer, and context lengths that models keep."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from ollama_dist.core.contexts import ContextRule
from tests.support.fake_ollama import Fault
from tests.support.joined_nodes import JoinedNode, JoinedNodes, joined_nodes
from tests.support.solo_node import ADMIN_TOKEN
from tests.support.wait import until

CHAT = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello there"}],
    "stream": False,
    "options": {"temperature": 0},
}
OPENAI = {"model": "tiny", "messages": CHAT["messages"], "temperature": 0}
ALLOW = {"X-Ollama-Cache": "allow"}


@pytest.fixture
async def nodes() -> AsyncIterator[JoinedNodes]:
    """Only laptop has tiny."""
    async with joined_nodes({"desk": [], "laptop": ["tiny"]}) as joined:
        yield joined


async def ask(
    node: JoinedNode, path: str, fields: Any, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(node.url + path, json=fields, headers=headers) as response,
    ):
        return response.status, dict(response.headers), await response.read()


async def counted(node: JoinedNode) -> Any:
    token = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(node.url + "/admin/stats", headers=token) as response,
    ):
        return await response.json()


async def vanish(nodes: JoinedNodes) -> None:
    """laptop's engine is gone, and everybody has noticed."""
    await nodes["laptop"].fake.stop()
    await until(
        lambda: not nodes["desk"].node.view().nodes[nodes["laptop"].node.view().self_id].can_serve,
        what="its being noticed",
    )


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/chat", CHAT),
        ("/api/chat", {**CHAT, "stream": True}),
        ("/api/embed", {"model": "tiny", "input": ["a", "b"]}),
        ("/v1/chat/completions", OPENAI),
        ("/v1/chat/completions", {**OPENAI, "stream": True}),
        ("/v1/messages", {**OPENAI, "max_tokens": 50, "stream": True}),
    ],
)
async def test_what_was_answered_once_is_answered_again_to_the_byte_when_nobody_can(
    nodes: JoinedNodes, path: str, fields: dict[str, Any]
) -> None:
    status, headers, first = await ask(nodes["desk"], path, fields, ALLOW)
    assert (status, "X-Ollama-Fallback" in headers) == (200, False)
    await vanish(nodes)
    status, headers, again = await ask(nodes["desk"], path, fields, ALLOW)
    assert (status, again) == (200, first)
    assert headers["X-Ollama-Fallback"] == "true"
    assert headers["X-Ollama-Fallback-Reason"] == "cached"
    assert headers["Age"].isdigit()
    assert "X-Ollama-Node" not in headers
    stats = await counted(nodes["desk"])
    assert stats["cache"]["served"] == 1
    assert stats["requests"]["fallbacks"] == 1


async def test_an_engine_that_answers_is_always_asked(nodes: JoinedNodes) -> None:
    for _ in range(2):
        _, headers, _ = await ask(nodes["desk"], "/api/chat", CHAT, ALLOW)
        assert headers["X-Ollama-Node"] == "laptop"
    assert len(nodes["laptop"].fake.journal.on("/api/chat")) == 2


@pytest.mark.parametrize("headers", [{}, {"X-Ollama-Cache": "no"}])
async def test_who_does_not_ask_for_it_gets_the_error(nodes: JoinedNodes, headers: dict[str, str]) -> None:
    await ask(nodes["desk"], "/api/chat", CHAT, ALLOW)
    await vanish(nodes)
    assert (await ask(nodes["desk"], "/api/chat", CHAT, headers))[0] == 503


@pytest.mark.parametrize(
    "fields", [{**CHAT, "options": {"temperature": 0.7}}, {**CHAT, "options": {"temperature": 0, "seed": 5}}]
)
async def test_another_request_and_one_that_chance_decides_get_the_error(
    nodes: JoinedNodes, fields: dict[str, Any]
) -> None:
    for before in (CHAT, {**CHAT, "options": {"temperature": 0.7}}):
        await ask(nodes["desk"], "/api/chat", before, ALLOW)
    await vanish(nodes)
    assert (await ask(nodes["desk"], "/api/chat", fields, ALLOW))[0] == 503


async def test_an_answer_that_broke_off_is_not_kept(nodes: JoinedNodes) -> None:
    nodes["laptop"].fake.faults.add(Fault(cut=True, at_token=3, times=1))
    with pytest.raises(aiohttp.ClientError):
        await ask(nodes["desk"], "/api/chat", {**CHAT, "stream": True}, ALLOW)
    await vanish(nodes)
    assert (await ask(nodes["desk"], "/api/chat", {**CHAT, "stream": True}, ALLOW))[0] == 503


async def test_without_fallback_nothing_kept_is_given(nodes: JoinedNodes) -> None:
    await ask(nodes["desk"], "/api/chat", CHAT, ALLOW)
    await vanish(nodes)
    nodes["desk"].node.switches = nodes["desk"].node.switches.with_fallback(False)
    assert (await ask(nodes["desk"], "/api/chat", CHAT, ALLOW))[0] == 503


async def test_a_full_queue_is_a_reason_too(nodes: JoinedNodes) -> None:
    _, _, first = await ask(nodes["desk"], "/api/chat", CHAT, ALLOW)
    nodes["laptop"].fake.faults.add(Fault(busy=True))
    status, headers, again = await ask(nodes["desk"], "/api/chat", CHAT, ALLOW)
    assert (status, headers["X-Ollama-Fallback-Reason"], again) == (200, "cached", first)


async def test_a_route_can_be_switched_on_for_all() -> None:
    switched = {"cached_routes": frozenset({"/api/chat"})}
    async with joined_nodes({"desk": [], "laptop": ["tiny"]}, node_options=switched) as nodes:
        await ask(nodes["desk"], "/api/chat", CHAT)
        await ask(nodes["desk"], "/v1/chat/completions", OPENAI)
        await vanish(nodes)
        assert (await ask(nodes["desk"], "/api/chat", CHAT))[0] == 200
        assert (await ask(nodes["desk"], "/api/chat", CHAT, {"X-Ollama-Cache": "no"}))[0] == 503
        assert (await ask(nodes["desk"], "/v1/chat/completions", OPENAI))[0] == 503


async def test_a_pinned_context_length_goes_to_the_engine_instead_of_what_was_asked() -> None:
    pinned = {"contexts": (ContextRule("tiny", 2048),)}
    async with joined_nodes({"desk": [], "laptop": ["tiny"]}, node_options=pinned) as nodes:
        for options in ({"num_ctx": 512}, {"num_ctx": 9999, "seed": 1}, {}):
            await ask(nodes["desk"], "/api/chat", {**CHAT, "options": options})
        await ask(nodes["desk"], "/v1/chat/completions", OPENAI)
        journal = nodes["laptop"].fake.journal
        sent = [json.loads(seen.body) for seen in journal.on("/api/chat")]
        assert [fields["options"]["num_ctx"] for fields in sent] == [2048] * 3
        assert [fields["messages"] for fields in sent] == [CHAT["messages"]] * 3
        [openai] = journal.on("/v1/chat/completions")
        assert json.loads(openai.body) == OPENAI
