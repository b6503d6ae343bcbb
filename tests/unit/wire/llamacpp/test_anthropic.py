import json
from typing import Any

import pytest

from ollama_dist.core.errors import BadRequest
from ollama_dist.wire.llamacpp.anthropic import MessagesWriter, estimated_tokens, read_messages
from ollama_dist.wire.llamacpp.asks import ChatAsk
from ollama_dist.wire.llamacpp.pieces import Finish, Piece, ToolCall

FINISH = Finish("stop", prompt_tokens=3, output_tokens=2)
CALL = ToolCall("c", 0, "f", {"a": 1})


def ask(messages: Any, **fields: Any) -> ChatAsk:
    body = {"model": "m", "max_tokens": 5, "messages": messages, **fields}
    return read_messages(json.dumps(body).encode())


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def names(data: bytes) -> list[str]:
    return [line[7:].decode() for line in data.splitlines() if line.startswith(b"event: ")]


def test_a_request_is_read() -> None:
    asked = ask(
        user("hi"), system=[{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}], top_k=3
    )
    assert asked.messages == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert asked.terms.options == {"num_predict": 5, "top_k": 3}
    assert asked.relaxed
    assert not asked.terms.stream


def test_uses_and_results_of_tools_become_messages() -> None:
    messages = [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": "see"},
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "11"}]},
                {"type": "text", "text": "so?"},
            ],
        },
    ]
    called = {"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}
    assert ask(messages).messages == [
        {"role": "assistant", "content": "see", "thinking": "hm", "tool_calls": [called]},
        {"role": "tool", "content": "11", "tool_call_id": "c"},
        {"role": "user", "content": "so?"},
    ]


def test_pictures_are_taken_as_base64_only() -> None:
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    assert ask(user([block])).messages == [{"role": "user", "content": "", "images": ["AAAA"]}]
    with pytest.raises(BadRequest, match="Only base64 images are supported"):
        ask(user([{"type": "image", "source": {"type": "url", "url": "https://example.com"}}]))


@pytest.mark.parametrize(
    ("fields", "think"),
    [
        ({}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 32}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"output_config": {"effort": "xhigh"}}, "high"),
        ({"output_config": {"effort": "whatever"}}, None),
    ],
)
def test_thinking(fields: Any, think: Any) -> None:
    assert ask(user("hi"), **fields).terms.think == think


def test_tools_are_ollamas() -> None:
    tool = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
    [read] = ask(user("hi"), tools=[tool]).tools
    assert read == {
        "type": "function",
        "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
    }


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({}, "model is required"),
        ({"model": "m"}, "max_tokens is required and must be positive"),
        ({"model": "m", "max_tokens": 1}, "messages is required"),
        ({"model": "m", "max_tokens": 1, "messages": user(5)}, "cannot unmarshal number"),
        ({"model": "m", "max_tokens": 1, "messages": user([{"type": "tool_use"}])}, "required 'id' field"),
    ],
)
def test_mistakes_are_told_in_ollamas_words(body: Any, complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        read_messages(json.dumps(body).encode())


def test_tokens_are_guessed_from_letters() -> None:
    body = {"model": "m", "max_tokens": 5, "messages": user("hello")}
    assert estimated_tokens(json.dumps(body).encode()) == 2  # as recorded for this request
    assert estimated_tokens(json.dumps(body | {"system": "x" * 400}).encode()) == 102


def test_blocks_follow_one_another() -> None:
    writer = MessagesWriter("m", "msg_1", 9)
    data = (
        writer.piece(Piece(thinking="t"), 0.0) + writer.piece(Piece("a"), 0.0) + writer.piece(Piece("b"), 0.0)
    )
    data += writer.piece(Piece(tool_calls=(CALL,)), 0.0) + writer.finish(FINISH, 0.0)
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    text = [block[0], block[1], block[1], block[2]]
    assert names(data) == ["message_start", *block, *text, *block, "message_delta", "message_stop"]
    indexes = [json.loads(line[6:]).get("index") for line in data.splitlines() if line.startswith(b"data: ")]
    assert indexes == [None, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, None, None]
    assert b'"stop_reason":"tool_use"' in data
    assert b'"usage":{"input_tokens":9,"output_tokens":0}' in data
    assert b'"usage":{"input_tokens":3,"output_tokens":2}' in data


def test_an_empty_answer_begins_and_ends() -> None:
    assert names(MessagesWriter("m", "msg_1", 1).finish(FINISH, 0.0)) == [
        "message_start",
        "message_delta",
        "message_stop",
    ]


@pytest.mark.parametrize(
    ("reason", "told"), [("stop", "end_turn"), ("length", "max_tokens"), ("load", "stop_sequence")]
)
def test_reasons_to_stop(reason: str, told: str) -> None:
    whole = json.loads(MessagesWriter("m", "msg_1", 1).whole(Piece("a"), Finish(reason), 0.0))
    assert whole["stop_reason"] == told
    assert whole["content"] == [{"type": "text", "text": "a"}]
