import json
from typing import Any

import pytest

from ollama_dist.core.errors import UpstreamFailed
from ollama_dist.wire.llamacpp.pieces import (
    ChatReader,
    Finish,
    Piece,
    PromptReader,
    StreamFailed,
    ToolCall,
    gathered,
)

TIMINGS = {"cache_n": 2, "prompt_n": 3, "prompt_ms": 1.5, "predicted_n": 4, "predicted_ms": 2.0}


def delta(finish_reason: str | None = None, timings: Any = None, **fields: Any) -> bytes:
    event: dict[str, Any] = {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}
    if timings:
        event["timings"] = timings
    return json.dumps(event).encode()


def heard(reader: ChatReader | PromptReader, *events: bytes) -> list[Piece]:
    return [piece for event in events for piece in reader.read(event)]


def test_a_chat_ends_with_what_it_took() -> None:
    reader = ChatReader(top_logprobs=False)
    pieces = heard(reader, delta(role="assistant", content=None), delta(content=" Hi"))
    assert pieces == [Piece(" Hi")]
    assert reader.finish is None
    assert heard(reader, delta("length", TIMINGS), b"[DONE]") == []
    assert reader.finish == Finish("length", 5, 1_500_000, 4, 2_000_000)


def test_thoughts_and_the_answer_after_them_begin_with_a_word() -> None:
    events = [delta(reasoning_content=text) for text in ("\n", "\nLet", " me\n")]
    events += [delta(content=text) for text in ("\n\n", "\nThe", " end\n")]
    pieces = heard(ChatReader(top_logprobs=False), *events)
    assert pieces == [Piece(thinking="Let"), Piece(thinking=" me\n"), Piece("The"), Piece(" end\n")]


def test_an_answer_without_thoughts_keeps_its_white_space() -> None:
    assert heard(ChatReader(top_logprobs=False), delta(content="\n Hi")) == [Piece("\n Hi")]


def test_a_call_is_handed_out_whole() -> None:
    reader = ChatReader(top_logprobs=False)
    first = {"index": 0, "id": "x" * 32, "function": {"name": "weather", "arguments": "{"}}
    rest = {"index": 0, "function": {"arguments": '"city":"Paris"}'}}
    other = {"index": 1, "id": "chosen", "function": {"name": "time", "arguments": ""}}
    assert heard(reader, delta(tool_calls=[first]), delta(tool_calls=[rest])) == []
    [piece] = heard(reader, delta(tool_calls=[other]))
    assert piece.tool_calls == (ToolCall("call_xxxxxxxx", 0, "weather", {"city": "Paris"}),)
    [piece] = heard(reader, delta("tool_calls", TIMINGS))
    assert piece.tool_calls == (ToolCall("chosen", 1, "time", {}),)
    assert reader.finish is not None
    assert reader.finish.reason == "stop"


@pytest.mark.parametrize("arguments", ["{", "[1]"])
def test_arguments_that_are_no_object_fail_the_answer(arguments: str) -> None:
    reader = ChatReader(top_logprobs=False)
    heard(reader, delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": arguments}}]))
    with pytest.raises(StreamFailed, match="'f' with arguments that are no"):
        reader.read(delta("tool_calls"))


def test_a_prompt_is_continued() -> None:
    reader = PromptReader(top_logprobs=False)
    event = {"content": "a", "stop": False}
    last = {"content": "", "stop": True, "stop_type": "limit", "timings": TIMINGS}
    assert heard(reader, json.dumps(event).encode(), json.dumps(last).encode()) == [Piece("a")]
    assert reader.finish == Finish("length", 5, 1_500_000, 4, 2_000_000)


@pytest.mark.parametrize("with_top", [True, False])
def test_probabilities_are_told_as_ollama_tells_them(with_top: bool) -> None:
    told = {
        "id": 1,
        "token": " é",
        "logprob": -0.5,
        "bytes": [0],
        "top_logprobs": [{"token": "x", "logprob": -1}],
    }
    event = {"content": " é", "stop": False, "completion_probabilities": [told]}
    [piece] = PromptReader(top_logprobs=with_top).read(json.dumps(event).encode())
    expected: dict[str, Any] = {"token": " é", "logprob": -0.5, "bytes": [32, 195, 169]}
    if with_top:
        expected["top_logprobs"] = [{"token": "x", "logprob": -1.0, "bytes": [120]}]
    assert piece.logprobs == (expected,)


@pytest.mark.parametrize("reader", [ChatReader(top_logprobs=False), PromptReader(top_logprobs=False)])
def test_an_error_within_a_stream_fails_it(reader: ChatReader | PromptReader) -> None:
    with pytest.raises(StreamFailed, match="out of memory"):
        reader.read(b'{"error": {"code": 500, "message": "out of memory"}}')


@pytest.mark.parametrize("nonsense", [b"", b"[1]", b"{"])
def test_nonsense_fails_a_stream(nonsense: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="makes no sense"):
        ChatReader(top_logprobs=False).read(nonsense)


def test_pieces_gathered_are_the_whole() -> None:
    call = ToolCall("1", 0, "f", {})
    pieces = [Piece("a", "t"), Piece("b", tool_calls=(call,)), Piece(logprobs=({"token": "a"},))]
    assert gathered(pieces) == Piece("ab", "t", (call,), ({"token": "a"},))
    assert not Piece()
    assert pieces[2]
