import json
from typing import Any

import pytest

from ollama_dist.core.errors import BadRequest
from ollama_dist.wire.llamacpp.asks import ChatAsk
from ollama_dist.wire.llamacpp.openai import (
    ChatWriter,
    CompletionWriter,
    LateRefusal,
    embeddings_body,
    image_of_url,
    read_chat,
    read_completion,
    read_embeddings,
    think_of_effort,
)
from ollama_dist.wire.llamacpp.pieces import Finish, Piece, ToolCall

PIXEL = "iVBORw0KGgo="
FINISH = Finish("stop", prompt_tokens=3, output_tokens=2)


def chat(messages: Any, **fields: Any) -> ChatAsk:
    ask, _ = read_chat(json.dumps({"model": "m", "messages": messages, **fields}).encode())
    return ask


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def events(data: bytes) -> list[Any]:
    return [json.loads(part[6:]) for part in data.decode().split("\n\n") if part.startswith("data: {")]


def test_defaults_of_one_count_and_nothing_streams_unasked() -> None:
    ask = chat(user("hi"))
    assert ask.terms.options == {"temperature": 1.0, "top_p": 1.0, "stop": None}
    assert not ask.terms.stream
    assert ask.messages == [{"role": "user", "content": "hi"}]


def test_bounds_and_stops_have_ollamas_names() -> None:
    ask = chat(user("hi"), max_tokens=5, stop="x", seed=1, temperature=0, frequency_penalty=0.5)
    assert ask.terms.options == {
        "temperature": 0,
        "top_p": 1.0,
        "num_predict": 5,
        "stop": ["x"],
        "seed": 1,
        "frequency_penalty": 0.5,
    }


def test_parts_become_messages_of_their_own() -> None:
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    assert chat(user(parts)).messages == [
        {"role": "user", "content": "look"},
        {"role": "user", "images": [PIXEL]},
    ]


def test_the_result_of_a_tool_is_named_by_its_call() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "11"},
    ]
    asked, result = chat(messages).messages
    assert asked["tool_calls"] == [
        {"id": "c1", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    ]
    assert result == {"role": "tool", "content": "11", "tool_call_id": "c1", "tool_name": "weather"}


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({"type": "json_object"}, "json"),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            {"type": "object"},
        ),
        ({"type": "text"}, None),
    ],
)
def test_formats(told: Any, wanted: Any) -> None:
    assert chat(user("hi"), response_format=told).terms.format == wanted


@pytest.mark.parametrize(
    ("effort", "think"), [("none", False), ("minimal", "low"), ("high", "high"), ("xhigh", "max"), ("", None)]
)
def test_efforts(effort: str, think: Any) -> None:
    assert think_of_effort(effort) == think
    assert chat(user("hi"), reasoning_effort=effort).terms.think == think
    assert chat(user("hi"), reasoning={"effort": effort}).terms.think == think


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"model": "m"}, r"\[\] is too short - 'messages'"),
        ({"messages": [{"role": "user"}]}, "invalid message content type: <nil>"),
        ({"messages": user([{"type": "video"}])}, "invalid message format"),
        ({"messages": user("x"), "reasoning_effort": "huge"}, 'invalid reasoning value: "huge"'),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "["}}]}]},
            "invalid tool call arguments",
        ),
    ],
)
def test_mistakes_are_told_in_ollamas_words(body: Any, complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        read_chat(json.dumps(body).encode())


@pytest.mark.parametrize(
    "url", ["https://example.com/a.png", "data:text/plain;base64,AAAA", "data:image/png;base64,%%%", 5]
)
def test_pictures_must_be_brought_along(url: Any) -> None:
    with pytest.raises(BadRequest):
        image_of_url(url)


def test_completions_are_read() -> None:
    body = {"model": "m", "prompt": "p", "suffix": "s", "logprobs": 2, "stream": True, "stop": ["a"]}
    ask, usage = read_completion(json.dumps(body | {"stream_options": {"include_usage": True}}).encode())
    assert (ask.prompt, ask.suffix, ask.terms.top_logprobs, ask.terms.logprobs) == ("p", "s", 2, True)
    assert usage
    with pytest.raises(BadRequest, match="invalid type for 'stop' field: float64"):
        read_completion(b'{"prompt": "p", "stop": [5]}')


def test_embeddings_are_read() -> None:
    ask, packed = read_embeddings(b'{"model": "m", "input": "", "encoding_format": "base64"}')
    assert (ask.texts, packed) == ([""], True)
    with pytest.raises(BadRequest, match="Supported values"):
        read_embeddings(b'{"input": "a", "encoding_format": "hex"}')
    with pytest.raises(BadRequest, match=r"invalid input$"):
        read_embeddings(b'{"input": []}')
    with pytest.raises(LateRefusal, match="invalid input type"):
        read_embeddings(b'{"input": [5]}')


def test_a_stream_has_its_role_first_and_its_reason_last() -> None:
    writer = ChatWriter("m", 7, usage=True)
    data = writer.piece(Piece("a"), 5.9) + writer.piece(Piece("b"), 9.0) + writer.finish(FINISH, 9.0)
    first, second, last, usage = events(data)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "a"}
    assert second["choices"][0]["delta"] == {"content": "b"}
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert {each["created"] for each in (first, second, last, usage)} == {5}
    assert data.endswith(b"data: [DONE]\n\n")


def test_an_empty_stream_still_has_a_beginning() -> None:
    opening, last = events(ChatWriter("m", 7, usage=False).finish(FINISH, 1.0))
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0]["finish_reason"] == "stop"


def test_thoughts_and_words_that_come_together_are_told_apart() -> None:
    first, second = events(ChatWriter("m", 7, usage=False).piece(Piece("a", "t"), 1.0))
    assert first["choices"][0]["delta"] == {"role": "assistant", "reasoning": "t"}
    assert second["choices"][0]["delta"] == {"content": "a"}


def test_calls_are_the_reason_a_stream_ends() -> None:
    writer = ChatWriter("m", 7, usage=False)
    call = ToolCall("c", 0, "f", {"a": 1})
    [told] = events(writer.piece(Piece(tool_calls=(call,)), 1.0))
    written = {"id": "c", "index": 0, "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert told["choices"][0]["delta"]["tool_calls"] == [written]
    [last] = events(writer.finish(FINISH, 1.0))
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    whole = json.loads(writer.whole(Piece(tool_calls=(call,)), FINISH, 1.0))
    assert whole["choices"][0]["finish_reason"] == "tool_calls"


def test_completions_are_written() -> None:
    writer = CompletionWriter("m", 7, usage=False)
    first, last = events(writer.piece(Piece("a"), 1.0) + writer.finish(FINISH, 1.0))
    assert first["choices"] == [{"text": "a", "index": 0, "finish_reason": None}]
    assert last["choices"] == [{"text": "", "index": 0, "finish_reason": "stop"}]
    assert json.loads(writer.whole(Piece("ab"), FINISH, 1.0))["choices"][0]["text"] == "ab"


def test_vectors_are_written_as_numbers_or_packed() -> None:
    body = json.loads(embeddings_body("m", [[0.5, -1.0]], 2, packed=False))
    assert body["data"] == [{"object": "embedding", "embedding": [0.5, -1], "index": 0}]
    packed = json.loads(embeddings_body("m", [[0.5, -1.0]], 2, packed=True))
    assert packed["data"][0]["embedding"] == "AAAAPwAAgL8="
