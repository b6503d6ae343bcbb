"""Errors, held against the bodies real servers sent and against what the real client libraries raise on."""

import json
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import anthropic
import ollama
import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ollama_dist.core.dialects import Dialect
from ollama_dist.wire.errors import error_body, stream_error
from tests.support import recordings

T = TypeVar("T")
MESSAGE = "the node that was answering is gone <&>"


@pytest.mark.parametrize(
    ("dialect", "recorded"),
    [
        (Dialect.OLLAMA, "gen-absent"),
        (Dialect.OPENAI, "oai-completions-absent"),
        (Dialect.RESPONSES, "responses-absent"),
    ],
)
def test_bodies_are_those_of_the_newest_server(dialect: Dialect, recorded: str) -> None:
    answer = recordings.by_id("0.33.0-rc2")[recorded].answer.strip()
    assert error_body(dialect, 404, "model 'none' not found")[1] == answer


def test_an_anthropic_body_has_a_request_id() -> None:
    answer = json.loads(recordings.by_id("0.33.0-rc2")["ant-absent"].answer)
    content_type, body = error_body(
        Dialect.ANTHROPIC, 404, "model 'none' not found", request_id=answer["request_id"].removeprefix("req_")
    )
    assert content_type == "application/json; charset=utf-8"
    assert json.loads(body) == answer
    assert list(json.loads(body)) == list(answer)


@pytest.mark.parametrize(
    ("dialect", "status", "kind"),
    [
        (Dialect.OPENAI, 400, "invalid_request_error"),
        (Dialect.OPENAI, 503, "api_error"),
        (Dialect.ANTHROPIC, 400, "invalid_request_error"),
        (Dialect.ANTHROPIC, 503, "overloaded_error"),
        (Dialect.ANTHROPIC, 500, "api_error"),
    ],
)
def test_the_status_decides_the_type(dialect: Dialect, status: int, kind: str) -> None:
    assert json.loads(error_body(dialect, status, "x")[1])["error"]["type"] == kind


def test_a_code_is_shown_where_one_is_given() -> None:
    assert error_body(Dialect.OLLAMA, 503, "x", code="busy")[1] == b'{"error":"x","code":"busy"}'
    assert json.loads(error_body(Dialect.OPENAI, 503, "x", code="busy")[1])["error"]["code"] == "busy"


def test_an_error_in_the_middle_of_a_record_ends_that_record_first() -> None:
    assert stream_error(Dialect.OLLAMA, "x", mid_record=True) == b'\n{"error":"x"}\n'
    assert stream_error(Dialect.OPENAI, "x", mid_record=True).startswith(b"\n\ndata: {")


# The real libraries


async def play(request: web.Request) -> web.StreamResponse:
    """The first chunks a real server sent on this route, then our error; or, not streamed, our error body."""
    name, dialect = {
        "/api/chat": ("chat-stream", Dialect.OLLAMA),
        "/v1/chat/completions": ("oai-chat-stream", Dialect.OPENAI),
        "/v1/completions": ("oai-completions-stream", Dialect.OPENAI),
        "/v1/responses": ("responses-stream", Dialect.RESPONSES),
        "/v1/messages": ("ant-messages-stream", Dialect.ANTHROPIC),
    }[request.path]
    if not (await request.json()).get("stream"):
        content_type, body = error_body(dialect, 503, MESSAGE, request_id="a" * 24)
        return web.Response(status=503, body=body, headers={"Content-Type": content_type})
    recorded = recordings.by_id("0.33.0-rc2")[name]
    response = web.StreamResponse(headers={"Content-Type": recorded.content_type})
    await response.prepare(request)
    for chunk in recorded.chunks[:4]:
        await response.write(chunk)
    await response.write(stream_error(dialect, MESSAGE, status=502))
    return response


@pytest.fixture
async def server() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/{path:.*}", play)
    async with TestServer(app) as running:
        yield f"http://127.0.0.1:{running.port}"


async def collect(stream: AsyncIterator[T], into: list[T]) -> None:
    async for item in stream:
        into.append(item)  # noqa: PERF401 (what came before the error is kept)


async def test_the_ollama_library_raises_on_our_errors(server: str) -> None:
    client = ollama.AsyncClient(server)
    asked: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
    came: list[Any] = []
    with pytest.raises(ollama.ResponseError) as in_stream:
        await collect(await client.chat(**asked, stream=True), came)
    assert len(came) == 4
    assert in_stream.value.error == MESSAGE
    with pytest.raises(ollama.ResponseError) as refused:
        await client.chat(**asked)
    assert (refused.value.status_code, refused.value.error) == (503, MESSAGE)
    await client.close()  # type: ignore[no-untyped-call]


async def test_the_openai_library_raises_on_our_errors(server: str) -> None:
    chat: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="any", max_retries=0) as client:
        for stream in (
            await client.chat.completions.create(**chat, stream=True),
            await client.completions.create(model="tiny", prompt="hello", stream=True),
        ):
            came: list[Any] = []
            with pytest.raises(openai.APIError, match="node that was answering"):
                await collect(stream, came)
            assert len(came) == 4
        with pytest.raises(openai.InternalServerError, match="node that was answering") as refused:
            await client.chat.completions.create(**chat)
    assert refused.value.status_code == 503


async def test_the_openai_library_raises_on_our_errors_in_responses(server: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="any", max_retries=0) as client:
        events = await client.responses.create(model="tiny", input="hello", stream=True)
        with pytest.raises(openai.APIError, match="node that was answering"):
            await collect(events, [])
        with pytest.raises(openai.InternalServerError, match="node that was answering"):
            await client.responses.create(model="tiny", input="hello")


async def test_the_anthropic_library_raises_on_our_errors(server: str) -> None:
    asked: Any = {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
    async with anthropic.AsyncAnthropic(base_url=server, api_key="any", max_retries=0) as client:
        events = await client.messages.create(**asked, stream=True)
        with pytest.raises(anthropic.APIError, match="node that was answering"):
            await collect(events, [])
        with pytest.raises(anthropic.APIStatusError, match="node that was answering") as refused:
            await client.messages.create(**asked)
    assert refused.value.status_code == 503
