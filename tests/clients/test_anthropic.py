"""anthropic, in both its colours, on ``/v1/messages``."""

import asyncio
from collections.abc import Callable
from typing import Any

import anthropic
import pytest

from tests.support.fake_ollama.faults import Hang
from tests.support.pair import GREETING, SENTENCE, Pair, collect

pytestmark = pytest.mark.asyncio(loop_scope="package")

ASKED: dict[str, Any] = {"model": "tiny", "max_tokens": 50, "messages": GREETING}


def client_of(pair: Pair) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=pair.url, api_key="none", max_retries=0)


async def of_sync(pair: Pair, ask: Callable[[anthropic.Anthropic], Any]) -> Any:
    """What ``ask`` returns of a blocking client, in a thread: the engines live on this loop."""

    def run() -> Any:
        with anthropic.Anthropic(base_url=pair.url, api_key="none", max_retries=0) as client:
            return ask(client)

    return await asyncio.to_thread(run)


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


async def test_async_messages_whole_and_streamed(pair: Pair) -> None:
    async with client_of(pair) as client:
        raw = await client.messages.with_raw_response.create(**ASKED)
        whole = await raw.parse()
        async with client.messages.stream(**ASKED) as stream:
            streamed = [text async for text in stream.text_stream]
            final = await stream.get_final_message()
    assert raw.headers["X-Ollama-Node"] == "laptop"
    assert (text_of(whole), whole.role, whole.stop_reason) == (SENTENCE, "assistant", "end_turn")
    assert "".join(streamed) == text_of(final) == SENTENCE
    assert len(streamed) == len(SENTENCE.split())
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == len(SENTENCE.split()) + 1
    assert pair.was_served_elsewhere("/v1/messages")


async def test_sync_messages_whole_and_streamed(pair: Pair) -> None:
    def ask(client: anthropic.Anthropic) -> list[str]:
        whole = client.messages.create(**ASKED)
        with client.messages.stream(**ASKED) as stream:
            return [text_of(whole), "".join(stream.text_stream), stream.response.headers["X-Ollama-Node"]]

    assert await of_sync(pair, ask) == [SENTENCE, SENTENCE, "laptop"]


async def test_the_events_come_in_the_order_of_the_dialect(pair: Pair) -> None:
    async with client_of(pair) as client:
        kinds = [event.type async for event in await client.messages.create(**ASKED, stream=True)]
    words = len(SENTENCE.split())
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * words,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_a_bound_is_kept(pair: Pair) -> None:
    async with client_of(pair) as client:
        short = await client.messages.create(**{**ASKED, "max_tokens": 3})
    assert (text_of(short), short.stop_reason) == (" The quick brown", "max_tokens")


async def test_a_tool_is_called(pair: Pair) -> None:
    """A request on record: the fake has tool calls of this dialect from there."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    asked: dict[str, Any] = {
        "model": "tiny-tools",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "hello"}],
        "tools": [{"name": "get_weather", "description": "w", "input_schema": schema}],
    }
    async with client_of(pair) as client:
        answer = await client.messages.create(**asked, extra_body={"temperature": 0})
    [call] = [block for block in answer.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
    assert answer.stop_reason == "tool_use"
    assert pair.bodies("/v1/messages") == [{**asked, "temperature": 0}]


# What goes wrong


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_is_not_found(pair: Pair, stream: bool) -> None:
    asked = {**ASKED, "model": "none", "stream": stream}
    async with client_of(pair) as client:
        with pytest.raises(anthropic.NotFoundError, match="model 'none' not found") as caught:
            await client.messages.create(**asked)
    assert caught.value.status_code == 404
    with pytest.raises(anthropic.NotFoundError, match="model 'none' not found"):
        await of_sync(pair, lambda client: client.messages.create(**asked))


async def test_a_cut_stream_raises_async(pair: Pair) -> None:
    pair.fail(cut=True, at_token=3)
    said: list[str] = []

    async def read() -> None:
        async with client_of(pair) as client, client.messages.stream(**ASKED) as stream:
            await collect(said, stream.text_stream, str)

    with pytest.raises(anthropic.APIError):
        await read()
    assert "".join(said) == " The quick brown"


async def test_a_cut_stream_raises_sync(pair: Pair) -> None:
    pair.fail(die=True, at_token=3)
    said: list[str] = []

    def read(client: anthropic.Anthropic) -> None:
        with client.messages.stream(**ASKED) as stream:
            said.extend(iter(stream.text_stream))

    with pytest.raises(anthropic.APIError):
        await of_sync(pair, read)
    assert "".join(said) == " The quick brown"


async def test_a_client_that_leaves_closes_the_stream_at_the_engine(pair: Pair) -> None:
    pair.fail(hang=Hang.STREAM, at_token=2)
    async with client_of(pair) as client, client.messages.stream(**ASKED) as stream:
        assert await anext(aiter(stream.text_stream)) == " The"
    await pair.until_client_left("/v1/messages")
