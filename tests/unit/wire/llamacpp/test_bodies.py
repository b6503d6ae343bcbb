from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.wire.llamacpp.asks import BadFormat, Terms
from ollama_dist.wire.llamacpp.bodies import (
    JSON_GRAMMAR,
    chat_body,
    completion_body,
    cut_prompt,
    infill_body,
    is_too_long,
    limit_of_prompt,
    without_oldest,
)
from ollama_dist.wire.llamacpp.options import Sampling

HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object"}


def chat(terms: Terms, messages: Any = HELLO, tools: Any = ()) -> dict[str, Any]:
    return chat_body(messages, tools, terms, Sampling(), num_ctx=100)


def test_a_plain_chat_streams_and_samples() -> None:
    body = chat(Terms())
    assert body["messages"] == HELLO
    assert body["stream"] is True
    assert body["n_predict"] == 1000
    assert "tools" not in body
    assert "chat_template_kwargs" not in body


def test_calls_and_results_of_tools_are_carried() -> None:
    messages = [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "11", "tool_call_id": "1", "tool_name": "f"},
    ]
    body = chat(Terms(), messages, [{"type": "function", "function": {"name": "f"}}])
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a":1}'}, "id": "1"}
    assert body["messages"][0]["tool_calls"] == [call]
    assert body["messages"][1] == {"role": "tool", "content": "11", "tool_call_id": "1", "name": "f"}
    assert body["tools"] == [{"type": "function", "function": {"name": "f"}}]


def test_thoughts_of_earlier_turns_are_carried() -> None:
    [message] = chat(Terms(), [{"role": "assistant", "content": "42", "thinking": "hm"}])["messages"]
    assert message["reasoning_content"] == "hm"


@pytest.mark.parametrize(
    ("think", "arguments"),
    [
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("low", {"enable_thinking": True, "reasoning_effort": "low"}),
    ],
)
def test_thinking_is_a_matter_of_the_template(think: bool | str, arguments: dict[str, Any]) -> None:
    assert chat(Terms(think=think))["chat_template_kwargs"] == arguments


def test_formats_of_a_chat() -> None:
    assert chat(Terms(format="json"))["grammar"] == JSON_GRAMMAR
    assert chat(Terms(format="json", think=True))["response_format"] == {"type": "json_object"}
    schema = chat(Terms(format=SCHEMA))["response_format"]
    assert schema == {"type": "json_schema", "json_schema": {"name": "schema", "schema": SCHEMA}}
    with pytest.raises(BadFormat):
        chat(Terms(format="yaml"))


def test_prompts_and_gaps() -> None:
    terms = Terms(format=SCHEMA, logprobs=True, top_logprobs=3)
    body = completion_body("p", terms, Sampling(), num_ctx=100)
    assert (body["prompt"], body["json_schema"], body["n_probs"]) == ("p", SCHEMA, 3)
    assert completion_body((1, 2), Terms(), Sampling(), num_ctx=100)["prompt"] == [1, 2]
    gap = infill_body("a", "b", Terms(), Sampling(), num_ctx=100)
    assert (gap["input_prefix"], gap["input_suffix"]) == ("a", "b")


def test_a_cut_prompt_keeps_its_beginning_and_its_end() -> None:
    cut = cut_prompt(range(3005), num_ctx=1024, num_keep=4, adds_bos=True)
    assert len(cut) == 515  # what a recorded Ollama evaluated
    assert cut[:6] == [0, 1, 2, 3, 4, 2495]
    assert cut[-1] == 3004


@given(st.integers(0, 500), st.integers(-1, 600), st.integers(2, 300), st.booleans())
def test_a_cut_prompt_leaves_room_for_an_answer(
    extra: int, num_keep: int, num_ctx: int, adds_bos: bool
) -> None:
    tokens = range(num_ctx + extra)
    cut = cut_prompt(tokens, num_ctx=num_ctx, num_keep=num_keep, adds_bos=adds_bos)
    assert len(cut) < num_ctx
    assert cut == sorted(set(cut))
    if 0 <= num_keep < num_ctx - 3:
        assert cut[-1] == tokens[-1]


def test_half_of_what_is_not_kept_is_room() -> None:
    assert limit_of_prompt(1024, 5) == 515
    assert limit_of_prompt(10, 0) == 5


def test_the_oldest_messages_go_but_not_what_the_system_said() -> None:
    messages = [{"role": role} for role in ("system", "user", "assistant", "user")]
    assert [each["role"] for each in without_oldest(messages, 3)] == ["system", "user"]


def test_only_one_refusal_means_too_long() -> None:
    assert is_too_long(b'{"error":{"code":400,"type":"exceed_context_size_error"}}')
    assert not is_too_long(b'{"error":{"code":400,"type":"invalid_request_error"}}')
    assert not is_too_long(b"<html>")
