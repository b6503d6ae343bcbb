"""ollama-python, in both its colours."""

import asyncio
from collections.abc import Callable
from typing import Any

import ollama
import pytest

from tests.support.fake_ollama.faults import Hang
from tests.support.pair import ELSEWHERE, GREETING, HERE, SENTENCE, Pair, Visited, collect

pytestmark = pytest.mark.asyncio(loop_scope="package")

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


async def of_sync(pair: Pair, ask: Callable[[ollama.Client], Any]) -> Any:
    """What ``ask`` returns of a blocking client, in a thread: the engines live on this loop."""

    def run() -> Any:
        with ollama.Client(pair.url) as client:
            return ask(client)

    return await asyncio.to_thread(run)


def names(listed: ollama.ListResponse) -> set[str | None]:
    return {model.model for model in listed.models}


# What there is


async def test_everybodys_models_are_listed(pair: Pair) -> None:
    expected = {f"{name}:latest" for name in (HERE, *ELSEWHERE)}
    assert names(await of_sync(pair, lambda client: client.list())) == expected
    async with ollama.AsyncClient(pair.url) as client:
        listed = await client.list()
    assert names(listed) == expected
    for model in listed.models:
        assert model.details is not None
        assert model.details.format == "gguf"
        assert model.modified_at is not None
        assert len(model.digest or "") == 64


async def test_what_runs_elsewhere_is_listed(pair: Pair) -> None:
    await of_sync(pair, lambda client: client.generate("tiny", "good morning", keep_alive=300))
    async with ollama.AsyncClient(pair.url) as client:
        for running in (await client.ps(), await of_sync(pair, lambda client: client.ps())):
            tiny = next(model for model in running.models if model.model == "tiny:latest")
            assert tiny.expires_at is not None
            assert tiny.size is not None
            assert tiny.size > 0


async def test_a_model_is_shown_by_who_has_it(pair: Pair) -> None:
    visited = Visited()
    async with ollama.AsyncClient(pair.url, event_hooks=visited.async_hooks()) as client:
        shown = await client.show("tiny")
    assert visited.nodes == ["laptop"]
    for each in (shown, await of_sync(pair, lambda client: client.show("tiny"))):
        assert each.capabilities == ["completion"]
        assert each.modelinfo["general.architecture"] == "llama"
    tools = await of_sync(pair, lambda client: client.show("tiny-tools"))
    assert "tools" in tools.capabilities


# Text


async def test_sync_text_whole_and_streamed(pair: Pair) -> None:
    visited = Visited()

    def ask() -> list[str]:
        with ollama.Client(pair.url, event_hooks=visited.hooks()) as client:
            return [
                client.generate("tiny", "good morning").response,
                "".join(part.response for part in client.generate("tiny", "good morning", stream=True)),
                client.chat("tiny", GREETING).message.content or "",
                "".join(part.message.content or "" for part in client.chat("tiny", GREETING, stream=True)),
            ]

    assert await asyncio.to_thread(ask) == [SENTENCE] * 4
    assert visited.nodes == ["laptop"] * 4
    assert pair.was_served_elsewhere("/api/generate")
    assert pair.was_served_elsewhere("/api/chat")


async def test_async_text_whole_and_streamed(pair: Pair) -> None:
    visited = Visited()
    async with ollama.AsyncClient(pair.url, event_hooks=visited.async_hooks()) as client:
        whole = await client.generate("tiny", "good morning")
        assert (whole.response, whole.done, whole.done_reason) == (SENTENCE, True, "stop")
        stream = await client.generate("tiny", "good morning", stream=True)
        assert "".join([part.response async for part in stream]) == SENTENCE
        answer = await client.chat("tiny", GREETING)
        assert (answer.message.role, answer.message.content) == ("assistant", SENTENCE)
        parts = [part async for part in await client.chat("tiny", GREETING, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == SENTENCE
    assert [part.done for part in parts] == [False] * len(SENTENCE.split()) + [True]
    assert {part.message.role for part in parts} == {"assistant"}
    assert parts[-1].eval_count == len(SENTENCE.split()) + 1
    assert visited.nodes == ["laptop"] * 4


async def test_what_is_said_arrives_letter_for_letter(pair: Pair) -> None:
    async with ollama.AsyncClient(pair.url) as client:
        parts = [part async for part in await client.chat("tiny-uni", GREETING, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == "Grüße aus 東京 <b>& 🦙 end"


async def test_tools_are_called_and_thoughts_are_told(pair: Pair) -> None:
    async with ollama.AsyncClient(pair.url) as client:
        called = await client.chat("tiny-tools", GREETING, tools=[WEATHER])
        assert called.message.tool_calls is not None
        assert called.message.tool_calls[0].function.name == "get_weather"
        assert called.message.tool_calls[0].function.arguments == {"city": "Paris"}
        thought = await client.chat("tiny-think", GREETING, think=True)
    assert thought.message.thinking == "Let me think about it.\n"
    assert thought.message.content == "The answer is 42."


async def test_options_reach_the_engine(pair: Pair) -> None:
    async with ollama.AsyncClient(pair.url) as client:
        answer = await client.generate("tiny", "good morning", options={"num_predict": 3, "seed": 7})
    assert (answer.response, answer.done_reason) == (" The quick brown", "length")
    assert pair.bodies("/api/generate")[-1]["options"] == {"num_predict": 3, "seed": 7}


# Vectors


async def test_texts_become_vectors(pair: Pair) -> None:
    known = pair.holder.ollama.book.vectors
    visited = Visited()
    async with ollama.AsyncClient(pair.url, event_hooks=visited.async_hooks()) as client:
        made = await client.embed("tiny-embed", ["hello", "world"])
        old = await client.embeddings("tiny-embed", "hello")
    assert [list(vector) for vector in made.embeddings] == [known["hello"], known["world"]]
    assert len(old.embedding) == 128
    assert visited.nodes == ["laptop"] * 2
    one = await of_sync(pair, lambda client: client.embed("tiny-embed", "world"))
    assert [list(vector) for vector in one.embeddings] == [known["world"]]


# Changes


async def test_a_copy_is_there_at_once_and_gone_at_once_async(pair: Pair) -> None:
    async with ollama.AsyncClient(pair.url) as client:
        assert (await client.copy("tiny", "mine")).status == "success"
        assert "mine:latest" in names(await client.list())
        assert (await client.generate("mine", "good morning")).response == SENTENCE
        assert (await client.delete("mine")).status == "success"
        assert "mine:latest" not in names(await client.list())
        with pytest.raises(ollama.ResponseError) as caught:
            await client.delete("mine")
    assert caught.value.status_code == 404
    assert "not found" in caught.value.error


async def test_a_copy_is_there_at_once_and_gone_at_once_sync(pair: Pair) -> None:
    def change(client: ollama.Client) -> list[Any]:
        copied = client.copy("tiny", "yours").status
        there = "yours:latest" in names(client.list())
        said = client.chat("yours", GREETING).message.content
        deleted = client.delete("yours").status
        return [copied, there, said, deleted, "yours:latest" in names(client.list())]

    assert await of_sync(pair, change) == ["success", True, SENTENCE, "success", False]
    assert pair.was_served_elsewhere("/api/copy")
    assert pair.was_served_elsewhere("/api/delete")


async def test_a_pull_is_of_the_node_that_was_asked(pair: Pair) -> None:
    wanted = [
        "pulling manifest",
        f"pulling {pair.entry.ollama.book.rows[f'{HERE}:latest']['digest'][:12]}",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    async with ollama.AsyncClient(pair.url) as client:
        lines = [line async for line in await client.pull(HERE, stream=True)]
        assert [line.status for line in lines] == wanted
        assert lines[1].completed == lines[1].total == pair.entry.ollama.book.rows[f"{HERE}:latest"]["size"]
        assert (await client.pull(HERE)).status == "success"
    told = await of_sync(pair, lambda client: [line.status for line in client.pull(HERE, stream=True)])
    assert told == wanted
    assert pair.seen.on("/api/pull") == []


# What goes wrong


async def test_an_unknown_model_is_a_404_in_ollamas_words(pair: Pair) -> None:
    asks: list[Callable[[ollama.Client], Any]] = [
        lambda client: client.generate("none", "good morning"),
        lambda client: client.chat("none", GREETING),
        lambda client: list(client.chat("none", GREETING, stream=True)),
        lambda client: client.show("none"),
        lambda client: client.embed("none", "good morning"),
    ]
    for ask in asks:
        with pytest.raises(ollama.ResponseError) as caught:
            await of_sync(pair, ask)
        assert caught.value.status_code == 404
        assert "none" in caught.value.error
        assert "not found" in caught.value.error
    async with ollama.AsyncClient(pair.url) as client:
        with pytest.raises(ollama.ResponseError, match="model 'none' not found") as caught:
            await client.chat("none", GREETING)
    assert caught.value.status_code == 404


async def test_a_pull_that_fails_raises_in_the_engines_words(pair: Pair) -> None:
    async with ollama.AsyncClient(pair.url) as client:
        with pytest.raises(ollama.ResponseError, match="pull model manifest: file does not exist"):
            async for _ in await client.pull("none", stream=True):
                pass


async def test_a_stream_that_is_cut_raises(pair: Pair) -> None:
    pair.fail(cut=True, at_token=3)
    said: list[str] = []
    async with ollama.AsyncClient(pair.url) as client:
        stream = await client.chat("tiny", GREETING, stream=True)
        with pytest.raises(ollama.ResponseError) as caught:
            await collect(said, stream, lambda part: part.message.content)
    assert "".join(said) == " The quick brown"
    assert caught.value.status_code == -1  # told in the stream
    assert caught.value.error


async def test_a_client_that_leaves_closes_the_stream_at_the_engine(pair: Pair) -> None:
    pair.fail(hang=Hang.STREAM, at_token=2)
    async with ollama.AsyncClient(pair.url) as client:
        stream = await client.chat("tiny", GREETING, stream=True)
        first = await anext(stream)
        assert first.message.content == " The"
        await stream.aclose()
    await pair.until_client_left("/api/chat")
