"""A listener that is open to the network lets nobody in without a key."""

import re

import ollama
import openai
import pytest

from tests.support.real_nodes import RealNode, RealNodes, eventually

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}
FROM_ELSEWHERE = {"X-Forwarded-For": "192.168.1.20"}
"""Makes a request on loopback one from another machine: a proxy has passed it on."""


async def _open_node(nodes: RealNodes) -> tuple[RealNode, str]:
    """A node on all interfaces, and the key it showed when it was started so for the first time."""
    desk = await nodes.add("desk", ["tiny"])
    await desk.terminate()
    before = len(desk.log.read_text())
    await desk.start("--no-mdns", "--listen", f"0.0.0.0:{desk.port}")

    async def banner() -> str:
        return desk.log.read_text()[before:]

    await eventually(banner, lambda text: "  next " in text, 15, "the start message")
    found = re.search(r"export OLLAMA_API_KEY=(\S+)", await banner())
    assert found is not None, await banner()
    assert "reachable by the network, with a key" in await banner()
    return desk, found[1]


async def test_an_open_node_makes_a_key_and_wants_it_from_other_machines(nodes: RealNodes) -> None:
    desk, key = await _open_node(nodes)
    assert (await desk.post("/api/chat", CHAT))[0] == 200  # this machine is trusted
    assert (await desk.post("/api/chat", CHAT, **FROM_ELSEWHERE))[0] == 403
    assert (await desk.post("/v1/chat/completions", CHAT, **FROM_ELSEWHERE))[0] == 401
    shown = {"Authorization": f"Bearer {key}", **FROM_ELSEWHERE}
    assert (await desk.post("/api/chat", CHAT, **shown))[0] == 200
    assert (
        await desk.post("/v1/messages", {**CHAT, "max_tokens": 9}, **{"x-api-key": key, **FROM_ELSEWHERE})
    )[0] == 200
    assert (await desk.post("/api/copy", {"source": "tiny", "destination": "x"}, **shown))[0] == 403
    assert not any(
        "authorization" in {name.lower() for name in seen.headers} for seen in desk.ollama.journal.requests
    )


async def test_the_libraries_show_the_key_as_they_always_do(nodes: RealNodes) -> None:
    desk, key = await _open_node(nodes)
    headers = {"Authorization": f"Bearer {key}", **FROM_ELSEWHERE}
    async with ollama.AsyncClient(desk.url, headers=headers) as client:
        assert [model.model for model in (await client.list()).models] == ["tiny:latest"]
    async with ollama.AsyncClient(desk.url, headers=FROM_ELSEWHERE) as client:
        with pytest.raises(ollama.ResponseError, match="wants a key"):
            await client.list()
    more = {"base_url": f"{desk.url}/v1", "max_retries": 0, "default_headers": FROM_ELSEWHERE}
    async with openai.AsyncOpenAI(api_key=key, **more) as client:  # type: ignore[arg-type]
        assert [model.id async for model in client.models.list()] == ["tiny:latest"]
    async with openai.AsyncOpenAI(api_key="wrong", **more) as client:  # type: ignore[arg-type]
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_keys_are_added_and_revoked_while_the_node_runs(nodes: RealNodes) -> None:
    desk, _ = await _open_node(nodes)
    code, printed = await desk.cli("key", "add", "phone")
    assert code == 0, printed
    found = re.search(r"export OLLAMA_API_KEY=(\S+)", printed)
    assert found is not None
    shown = {"Authorization": f"Bearer {found[1]}", **FROM_ELSEWHERE}

    async def status() -> int:
        return (await desk.post("/api/chat", CHAT, **shown))[0]

    await eventually(status, lambda answer: answer == 200, 20, "the new key's being known")
    code, printed = await desk.cli("key", "list")
    assert code == 0
    assert "phone" in printed
    assert found[1] not in printed
    assert (await desk.cli("key", "revoke", "phone"))[0] == 0
    await eventually(status, lambda answer: answer == 403, 20, "the old key's being refused")
    assert (await desk.cli("key", "revoke", "phone"))[0] != 0


async def test_a_key_gets_its_share_and_is_told_when_there_is_more(nodes: RealNodes) -> None:
    desk, _ = await _open_node(nodes)
    _, printed = await desk.cli("key", "add", "guest", "--per-minute", "12")
    found = re.search(r"export OLLAMA_API_KEY=(\S+)", printed)
    assert found is not None, printed
    shown = {"Authorization": f"Bearer {found[1]}", **FROM_ELSEWHERE}

    async def status() -> int:
        return (await desk.post("/api/chat", CHAT, **shown))[0]

    await eventually(status, lambda answer: answer == 200, 20, "the new key's being known")
    while (await desk.post("/api/chat", CHAT, **shown))[0] == 200:
        pass  # what ten silent seconds are worth: two
    code, headers, body = await desk.post("/v1/chat/completions", CHAT, **shown)
    assert (code, b"at most 12 requests a minute" in body) == (429, True)
    assert 1 <= int(headers["Retry-After"]) <= 5
    async with openai.AsyncOpenAI(
        base_url=f"{desk.url}/v1", api_key=found[1], max_retries=0, default_headers=FROM_ELSEWHERE
    ) as client:
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x"}])
    assert (await desk.post("/api/chat", CHAT))[0] == 200  # this machine has no limit
