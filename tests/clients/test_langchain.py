"""langchain-ollama: the chat model and the embeddings of LangChain."""

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import ollama
import pytest

from tests.support.fake_ollama.faults import Hang
from tests.support.pair import SENTENCE, Pair, Visited, collect

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessageChunk
    from langchain_ollama import ChatOllama, OllamaEmbeddings

pytestmark = pytest.mark.asyncio(loop_scope="package")

WORDS = SENTENCE.split()


def chat_of(pair: Pair, visited: Visited, model: str = "tiny", **more: Any) -> "ChatOllama":
    from langchain_ollama import ChatOllama  # takes seconds, which is for those who run this file

    return ChatOllama(model=model, base_url=pair.url, **_watched(visited), **more)


def embeddings_of(pair: Pair, visited: Visited) -> "OllamaEmbeddings":
    from langchain_ollama import OllamaEmbeddings

    return OllamaEmbeddings(model="tiny-embed", base_url=pair.url, **_watched(visited))


def _watched(visited: Visited) -> dict[str, Any]:
    """LangChain never closes its clients: no connection may be left open for the next request."""
    brief = {"limits": httpx.Limits(max_keepalive_connections=0)}
    return {
        "sync_client_kwargs": {"event_hooks": visited.hooks(), **brief},
        "async_client_kwargs": {"event_hooks": visited.async_hooks(), **brief},
    }


def text_of(message: "BaseMessageChunk") -> str:
    assert isinstance(message.content, str)
    return message.content


async def test_a_chat_is_invoked(pair: Pair) -> None:
    visited = Visited()
    chat = chat_of(pair, visited)
    told = await asyncio.to_thread(chat.invoke, "good morning")
    told_async = await chat.ainvoke("good morning")
    assert told.content == told_async.content == SENTENCE
    assert told_async.response_metadata["done_reason"] == "stop"
    assert told_async.usage_metadata is not None
    assert told_async.usage_metadata["output_tokens"] == len(WORDS) + 1
    assert visited.nodes == ["laptop"] * 2
    assert pair.was_served_elsewhere("/api/chat")


async def test_a_chat_is_streamed(pair: Pair) -> None:
    visited = Visited()
    chat = chat_of(pair, visited)
    parts = await asyncio.to_thread(lambda: [text_of(part) for part in chat.stream("good morning")])
    assert "".join(parts) == SENTENCE
    assert len(parts) >= len(WORDS)
    assert visited.nodes == ["laptop"]


async def test_a_chat_is_streamed_async(pair: Pair) -> None:
    visited = Visited()
    said: list[str] = []
    await collect(said, chat_of(pair, visited).astream("good morning"), text_of)
    assert "".join(said) == SENTENCE
    assert len(said) >= len(WORDS)
    assert visited.nodes == ["laptop"]


async def test_the_first_words_are_there_before_the_last_are_made(pair: Pair) -> None:
    pair.fail(hang=Hang.STREAM, at_token=2)
    stream = chat_of(pair, Visited()).astream("good morning")
    assert text_of(await anext(stream)) == " The"
    pair.holder.ollama.clear_faults()
    said: list[str] = []
    await collect(said, stream, text_of)
    assert " The" + "".join(said) == SENTENCE


async def test_a_bound_tool_is_called(pair: Pair) -> None:
    def get_weather(city: str) -> str:
        """Weather of a city."""
        return f"sunny in {city}"

    chat = chat_of(pair, Visited(), "tiny-tools").bind_tools([get_weather])
    told = await chat.ainvoke("good morning")
    [call] = told.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})


async def test_thoughts_are_kept_apart(pair: Pair) -> None:
    told = await chat_of(pair, Visited(), "tiny-think", reasoning=True).ainvoke("good morning")
    assert told.content == "The answer is 42."
    assert told.additional_kwargs["reasoning_content"] == "Let me think about it.\n"


async def test_texts_become_vectors(pair: Pair) -> None:
    known = pair.holder.ollama.book.vectors
    visited = Visited()
    embeddings = embeddings_of(pair, visited)
    made = await asyncio.to_thread(embeddings.embed_documents, ["hello", "world"])
    assert made == [known["hello"], known["world"]]
    assert await embeddings.aembed_query("world") == known["world"]
    assert visited.nodes == ["laptop"] * 2


async def test_an_unknown_model_raises_ollamas_own_error(pair: Pair) -> None:
    chat = chat_of(pair, Visited(), "none")
    with pytest.raises(ollama.ResponseError, match="model 'none' not found") as caught:
        await chat.ainvoke("good morning")
    assert caught.value.status_code == 404


async def test_a_stream_that_is_cut_raises(pair: Pair) -> None:
    pair.fail(cut=True, at_token=3)
    said: list[str] = []
    with pytest.raises(ollama.ResponseError):
        await collect(said, chat_of(pair, Visited()).astream("good morning"), text_of)
    assert "".join(said) == " The quick brown"
