import json
from typing import Any

import pytest

from ollama_dist.core.errors import BadRequest
from ollama_dist.wire.llamacpp.asks import ChatAsk
from ollama_dist.wire.llamacpp.responses import read_responses


def ask(told: Any, **fields: Any) -> ChatAsk:
    asked, _ = read_responses(json.dumps({"model": "m", "input": told, **fields}).encode())
    return asked


def test_a_text_is_a_message_of_the_user() -> None:
    asked = ask("hi", instructions="be brief", max_output_tokens=5)
    assert asked.messages == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert asked.terms.options == {"temperature": 1.0, "num_predict": 5}


def test_items_are_a_conversation() -> None:
    items = [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "how "}, {"type": "input_text", "text": "warm?"}],
        },
        {"type": "reasoning", "encrypted_content": "hm"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": "11"},
        {"type": "web_search_call"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "warm"}]},
    ]
    call = {"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}
    assert ask(items).messages == [
        {"role": "user", "content": "how warm?"},
        {"role": "assistant", "content": "", "tool_calls": [call], "thinking": "hm"},
        {"role": "tool", "tool_call_id": "c", "content": "11"},
        {"role": "assistant", "content": "warm"},
    ]


def test_thoughts_that_nothing_follows_are_kept() -> None:
    [message] = ask([{"type": "reasoning", "encrypted_content": "hm"}]).messages
    assert message == {"role": "assistant", "content": "", "thinking": "hm"}


def test_pictures_come_as_data() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    assert ask([{"role": "user", "content": [image]}]).messages[0]["images"] == ["AAAA"]


def test_a_namespace_is_taken_apart() -> None:
    tools = [{"type": "namespace", "name": "home", "tools": [{"type": "function", "name": "light"}]}]
    [tool] = ask("hi", tools=tools).tools
    assert tool["function"]["name"] == "home.light"


def test_format_and_effort() -> None:
    text = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}
    asked = ask("hi", text=text, reasoning={"effort": "minimal"})
    assert (asked.terms.format, asked.terms.think) == ({"type": "object"}, "low")


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        (5, "input must be a string or array"),
        ([5], r"input\[0\]: it is no object"),
        ([{}], r"input\[0\]: input item missing required 'type' field"),
        ([{"type": "dream"}], r'input\[0\]: unknown input item type: "dream"'),
        ([{"role": "user", "content": [{"type": "smell"}]}], r"input\[0\]: unknown content type: smell"),
        ([{"role": "user", "content": [{"type": "input_file"}]}], "file inputs are not currently supported"),
        ([{"type": "function_call", "arguments": "{"}], "failed to parse function call arguments"),
    ],
)
def test_mistakes_are_told_with_their_place(told: Any, complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        ask(told)
