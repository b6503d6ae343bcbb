"""openai, in both its colours, on ``/v1``."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.support.fake_ollama.faults import Hang
from tests.support.pair import ELSEWHERE, GREETING, HERE, SENTENCE, Pair, collect

pytestmark = pytest.mark.asyncio(loop_scope="package")


def client_of(pair: Pair) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0)


async def of_sync(pair: Pair, ask: Callable[[openai.OpenAI], Any]) -> Any:
    """What ``ask`` returns of a blocking client, in a thread: the engines live on this loop."""

    def run() -> Any:
        with openai.OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client:
            return ask(client)

    return await asyncio.to_thread(run)


# What there is


async def test_everybodys_models_are_listed(pair: Pair) -> None:
    expected = {f"{name}:latest" for name in (HERE, *ELSEWHERE)}
    async with client_of(pair) as client:
        assert {model.id async for model in client.models.list()} == expected
    assert await of_sync(pair, lambda client: {model.id for model in client.models.list()}) == expected


async def test_a_model_is_retrieved_from_who_has_it(pair: Pair) -> None:
    async with client_of(pair) as client:
        raw = await client.models.with_raw_response.retrieve("tiny")
        model = raw.parse()
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("none")
    assert raw.headers["X-Ollama-Node"] == "laptop"
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "library")
    assert await of_sync(pair, lambda client: client.models.retrieve("tiny").id) == "tiny"


# Chat


async def test_async_chat_whole_and_streamed(pair: Pair) -> None:
    async with client_of(pair) as client:
        raw = await client.chat.completions.with_raw_response.create(model="tiny", messages=GREETING)
        whole = raw.parse()
        stream = await client.chat.completions.create(
            model="tiny", messages=GREETING, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert raw.headers["X-Ollama-Node"] == "laptop"
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (SENTENCE, "stop")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == len(SENTENCE.split()) + 1
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == SENTENCE
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(SENTENCE.split()) + 1
    assert pair.was_served_elsewhere("/v1/chat/completions")


async def test_sync_chat_whole_and_streamed(pair: Pair) -> None:
    def ask(client: openai.OpenAI) -> list[Any]:
        whole = client.chat.completions.create(model="tiny", messages=GREETING)
        with client.chat.completions.create(model="tiny", messages=GREETING, stream=True) as stream:
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        return [whole.choices[0].message.content, streamed]

    assert await of_sync(pair, ask) == [SENTENCE] * 2
    assert pair.was_served_elsewhere("/v1/chat/completions")


async def test_a_tool_is_called(pair: Pair) -> None:
    tools: list[Any] = [
        {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    ]
    async with client_of(pair) as client:
        answer = await client.chat.completions.create(model="tiny-tools", messages=GREETING, tools=tools)
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert call.function.arguments.replace(" ", "") == '{"city":"Paris"}'


# The other routes


async def test_completions_whole_and_streamed(pair: Pair) -> None:
    async with client_of(pair) as client:
        raw = await client.completions.with_raw_response.create(model="tiny", prompt="good morning")
        stream = await client.completions.create(model="tiny", prompt="good morning", stream=True)
        streamed = "".join([chunk.choices[0].text async for chunk in stream])
    assert raw.headers["X-Ollama-Node"] == "laptop"
    assert raw.parse().choices[0].text == streamed == SENTENCE
    said = await of_sync(
        pair, lambda client: client.completions.create(model="tiny", prompt="good morning", max_tokens=2)
    )
    assert (said.choices[0].text, said.choices[0].finish_reason) == (" The quick", "length")


async def test_texts_become_vectors(pair: Pair) -> None:
    known = pair.holder.ollama.book.vectors
    async with client_of(pair) as client:
        raw = await client.embeddings.with_raw_response.create(
            model="tiny-embed", input=["hello", "world"], encoding_format="float"
        )
    made = raw.parse()
    assert raw.headers["X-Ollama-Node"] == "laptop"
    assert [item.index for item in made.data] == [0, 1]
    assert [item.embedding for item in made.data] == [known["hello"], known["world"]]
    one = await of_sync(
        pair,
        lambda client: client.embeddings.create(model="tiny-embed", input="world", encoding_format="float"),
    )
    assert one.data[0].embedding == known["world"]


async def test_responses_whole_and_streamed(pair: Pair) -> None:
    async with client_of(pair) as client:
        raw = await client.responses.with_raw_response.create(model="tiny", input="good morning")
        whole = raw.parse()
        stream = await client.responses.create(model="tiny", input="good morning", stream=True)
        events = [event async for event in stream]
    assert raw.headers["X-Ollama-Node"] == "laptop"
    assert (whole.output_text, whole.status) == (SENTENCE, "completed")
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == SENTENCE
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == SENTENCE
    said = await of_sync(pair, lambda client: client.responses.create(model="tiny", input="good morning"))
    assert said.output_text == SENTENCE


# What goes wrong


async def test_an_unknown_model_is_not_found(pair: Pair) -> None:
    async with client_of(pair) as client:
        asks = [
            client.chat.completions.create(model="none", messages=GREETING),
            client.chat.completions.create(model="none", messages=GREETING, stream=True),
            client.completions.create(model="none", prompt="good morning"),
            client.embeddings.create(model="none", input="good morning"),
            client.responses.create(model="none", input="good morning"),
        ]
        for ask in asks:
            with pytest.raises(openai.NotFoundError, match=r"model .none. not found"):
                await ask
    with pytest.raises(openai.NotFoundError, match="model 'none' not found") as caught:
        await of_sync(pair, lambda client: client.chat.completions.create(model="none", messages=GREETING))
    assert caught.value.type == "not_found_error"


async def test_a_cut_stream_raises_async(pair: Pair) -> None:
    pair.fail(cut=True, at_token=3)
    said: list[str] = []
    async with client_of(pair) as client:
        stream = await client.chat.completions.create(model="tiny", messages=GREETING, stream=True)
        with pytest.raises(openai.APIError):
            await collect(said, stream, lambda chunk: chunk.choices[0].delta.content)
    assert "".join(said) == " The quick brown"


async def test_a_cut_stream_raises_sync(pair: Pair) -> None:
    pair.fail(cut=True, at_token=3)
    said: list[str] = []

    def read(client: openai.OpenAI) -> None:
        stream = client.completions.create(model="tiny", prompt="good morning", stream=True)
        said.extend(part.choices[0].text for part in stream)

    with pytest.raises(openai.APIError):
        await of_sync(pair, read)
    assert "".join(said) == " The quick brown"


async def test_a_cut_stream_of_responses_raises(pair: Pair) -> None:
    pair.fail(cut=True, at_token=3)
    kinds: list[str] = []
    async with client_of(pair) as client:
        stream = await client.responses.create(model="tiny", input="good morning", stream=True)
        with pytest.raises(openai.APIError):
            await collect(kinds, stream, lambda event: event.type)
    assert "response.output_text.delta" in kinds
    assert "response.completed" not in kinds


async def test_a_client_that_leaves_closes_the_stream_at_the_engine(pair: Pair) -> None:
    pair.fail(hang=Hang.STREAM, at_token=2)
    async with client_of(pair) as client:
        stream = await client.chat.completions.create(model="tiny", messages=GREETING, stream=True)
        assert (await anext(stream)).choices[0].delta.content == " The"
        await stream.close()
    await pair.until_client_left("/v1/chat/completions")
