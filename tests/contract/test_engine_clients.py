"""The libraries people use, against the embedded engine: unchanged, streamed or not."""

from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from ollama_dist.backends.llamacpp.service import EngineService
from ollama_dist.backends.llamacpp.settings import LlamaCppSettings
from tests.support.engine_models import lay_out_models

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None,
    reason="the embedded engine is tested where the extra `engine` is installed",
)

SENTENCE = " The quick brown fox jumps over the lazy dog and then it goes back to sleep until morning"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
}


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    lay_out_models(tmp_path / "models", "tiny", "tiny-tools", "tiny-think", "tiny-embed")
    service = EngineService(LlamaCppSettings(tmp_path / "models", tmp_path / "state", warmup=False))
    host, port = await service.start()
    yield f"http://{host}:{port}"
    await service.stop()


async def test_ollamas_own_library(url: str) -> None:
    async with ollama.AsyncClient(url) as client:
        listed = {model.model for model in (await client.list()).models}
        assert listed == {"tiny:latest", "tiny-tools:latest", "tiny-think:latest", "tiny-embed:latest"}
        assert (await client.show("tiny")).capabilities == ["completion"]
        assert (await client.generate("tiny", "hello")).response == SENTENCE
        stream = [part.message.content async for part in await client.chat("tiny", HELLO, stream=True)]
        assert "".join(content or "" for content in stream) == SENTENCE
        assert len(stream) == len(SENTENCE.split()) + 1
        assert [model.name for model in (await client.ps()).models] == ["tiny:latest"]
        called = await client.chat("tiny-tools", HELLO, tools=[{"type": "function", "function": WEATHER}])
        assert called.message.tool_calls is not None
        assert called.message.tool_calls[0].function.arguments == {"city": "Paris"}
        thought = await client.chat("tiny-think", HELLO, think=True)
        assert (thought.message.thinking, thought.message.content) == (
            "Let me think about it.\n",
            "The answer is 42.",
        )
        assert len((await client.embed("tiny-embed", ["a", "b"])).embeddings) == 2
        with pytest.raises(ollama.ResponseError, match="model 'none' not found"):
            await client.generate("none", "hello")


async def test_openais_library(url: str) -> None:
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    async with client:
        whole = await client.chat.completions.create(model="tiny", messages=HELLO, temperature=0)
        assert whole.choices[0].message.content == SENTENCE
        stream = await client.chat.completions.create(
            model="tiny", messages=HELLO, temperature=0, stream=True
        )
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == SENTENCE
        text = await client.completions.create(model="tiny", prompt="hello", temperature=0, max_tokens=2)
        assert text.choices[0].text == " The quick"
        vectors = await client.embeddings.create(model="tiny-embed", input=["a", "b"])
        assert [len(row.embedding) for row in vectors.data] == [128, 128]
        assert [model.id async for model in client.models.list()]
        response = await client.responses.create(model="tiny", input="hello", temperature=0)
        assert response.output_text == SENTENCE
        function: Any = {"type": "function", "strict": None, **WEATHER}
        async with client.responses.stream(
            model="tiny-tools",
            input="hello",
            temperature=0,
            tools=[function],
        ) as events:
            [call] = (await events.get_final_response()).output
        assert call.type == "function_call"
        assert call.arguments == '{"city":"Paris"}'
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="none", messages=HELLO)


async def test_anthropics_library(url: str) -> None:
    client = anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0)
    async with client:
        whole = await client.messages.create(model="tiny", max_tokens=3, messages=HELLO)
        assert [block.text for block in whole.content if block.type == "text"] == [" The quick brown"]
        assert whole.stop_reason == "max_tokens"
        async with client.messages.stream(model="tiny-think", max_tokens=64, messages=HELLO) as stream:
            assert "".join([text async for text in stream.text_stream]) == "The answer is 42."
            assert [block.type for block in (await stream.get_final_message()).content] == [
                "thinking",
                "text",
            ]
        tool: Any = {"name": "get_weather", "input_schema": WEATHER["parameters"]}
        async with client.messages.stream(
            model="tiny-tools", max_tokens=64, messages=HELLO, tools=[tool]
        ) as stream:
            message = await stream.get_final_message()
        assert message.stop_reason == "tool_use"
        assert [block.input for block in message.content if block.type == "tool_use"] == [{"city": "Paris"}]
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(model="none", max_tokens=3, messages=HELLO)
