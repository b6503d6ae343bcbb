import json
from typing import Any

from ollama_dist.wire.llamacpp.pieces import Finish, Piece, ToolCall
from ollama_dist.wire.llamacpp.responses_answers import ResponsesWriter

FINISH = Finish("stop", prompt_tokens=3, output_tokens=2)
CALL = ToolCall("c", 0, "f", {"a": 1})


def events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in data.splitlines() if line.startswith(b"data: ")]


def writer(**fields: Any) -> ResponsesWriter:
    return ResponsesWriter("m", 7, fields)


def test_every_item_is_told_from_its_beginning_to_its_end() -> None:
    out = writer()
    data = out.piece(Piece(thinking="t"), 1.0) + out.piece(Piece("a"), 1.0) + out.piece(Piece("b"), 1.0)
    data += out.piece(Piece(tool_calls=(CALL,)), 1.0) + out.finish(FINISH, 2.0)
    told = events(data)
    assert [event["type"].removeprefix("response.") for event in told] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert told[-1]["response"]["output"] == done
    assert [item["type"] for item in done] == ["reasoning", "message", "function_call"]
    assert told[10]["text"] == "ab"
    assert told[-1]["response"]["usage"]["total_tokens"] == 5
    assert b"[DONE]" not in data


def test_an_empty_answer_begins_and_ends() -> None:
    told = events(writer().finish(FINISH, 1.0))
    assert [event["type"] for event in told] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]


def test_the_request_is_repeated_in_the_answer() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
    out = writer(instructions="be brief", tools=[tool], max_output_tokens=5, reasoning={"effort": "low"})
    whole = json.loads(out.whole(Piece("a"), FINISH, 3.0))
    assert whole["instructions"] == "be brief"
    assert whole["tools"][0]["name"] == "f"
    assert whole["tools"][0]["description"] is None
    assert whole["max_output_tokens"] == 5
    assert whole["reasoning"] == {"effort": "low"}
    assert (whole["created_at"], whole["status"]) == (3, "completed")


def test_calls_stand_in_place_of_a_message() -> None:
    [item] = json.loads(writer().whole(Piece("", tool_calls=(CALL,)), FINISH, 1.0))["output"]
    assert (item["type"], item["call_id"], item["arguments"]) == ("function_call", "c", '{"a":1}')
