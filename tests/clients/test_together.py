"""Several libraries at one entry node at the same time."""

import asyncio
from collections.abc import AsyncIterator

import anthropic
import ollama
import openai
import pytest

from tests.support.fake_ollama.faults import Hang
from tests.support.pair import GREETING, SENTENCE, Pair, collect
from tests.support.wait import until

pytestmark = pytest.mark.asyncio(loop_scope="package")

HELD_AFTER = 4


async def native(url: str) -> AsyncIterator[str]:
    async with ollama.AsyncClient(url) as client:
        async for part in await client.chat("tiny", GREETING, stream=True):
            yield part.message.content or ""


async def openais(url: str) -> AsyncIterator[str]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        async for chunk in await client.chat.completions.create(model="tiny", messages=GREETING, stream=True):
            yield chunk.choices[0].delta.content or ""


async def anthropics(url: str) -> AsyncIterator[str]:
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client,
        client.messages.stream(model="tiny", max_tokens=50, messages=GREETING) as stream,
    ):
        async for text in stream.text_stream:
            yield text


async def test_three_dialects_stream_at_once_and_none_waits_for_another(pair: Pair) -> None:
    """Each has its first words while all are under way, and the rest is what it would be alone."""
    pair.fail(hang=Hang.STREAM, at_token=HELD_AFTER)
    said: list[list[str]] = [[], [], []]
    streams = (native(pair.url), openais(pair.url), anthropics(pair.url))
    readers = [
        asyncio.create_task(collect(each, stream, str)) for each, stream in zip(said, streams, strict=True)
    ]
    await until(lambda: all(len(each) == HELD_AFTER for each in said), what="the first words of all three")
    assert {"".join(each) for each in said} == {" The quick brown fox"}
    assert {seen.path for seen in pair.seen.under_way} == {
        "/api/chat",
        "/v1/chat/completions",
        "/v1/messages",
    }
    pair.holder.ollama.clear_faults()
    await asyncio.gather(*readers)
    assert ["".join(each) for each in said] == [SENTENCE] * 3
