"""OpenAI's ``/v1/responses``: the answer, as named events or in one piece.

Source: Ollama's ``openai/responses.go``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ollama_dist.core.dialects import Dialect
from ollama_dist.wire import gojson
from ollama_dist.wire.llamacpp.pieces import Finish, Piece, ToolCall
from ollama_dist.wire.llamacpp.writer import EVENTS, JSON, arguments_text, event

Fields = dict[str, Any]

_UNSET: Final = ("error", "incomplete_details", "max_tool_calls", "previous_response_id", "prompt_cache_key")


class ResponsesWriter:
    """Items of reasoning, a message or function calls, each told from its beginning to its end."""

    dialect = Dialect.RESPONSES
    stream_type = EVENTS
    whole_type = JSON

    def __init__(self, model: str, number: int, fields: Mapping[str, Any]) -> None:
        self._model = model
        self._number = number
        self._id = f"resp_{number}"
        self._fields = fields
        self._sequence = 0
        self._has_begun = False
        self._items: list[Fields] = []
        """Those that are complete."""
        self._open = ""
        """The type of the item that is open: reasoning or message."""
        self._text: list[str] = []

    def piece(self, piece: Piece, at: float, /) -> bytes:
        parts = [self._begin(at)]
        if piece.thinking:
            parts.append(self._reasoning(piece.thinking))
        if piece.text:
            parts.append(self._message(piece.text))
        parts += [self._call(call) for call in piece.tool_calls]
        return b"".join(parts)

    def finish(self, finish: Finish, at: float, /) -> bytes:
        parts = [self._begin(at), self._close()]
        response = self._response("completed", self._items, at) | {
            "completed_at": int(at),
            "usage": _usage(finish),
        }
        parts.append(self._event("response.completed", {"response": _sorted(response)}))
        return b"".join(parts)

    def whole(self, answer: Piece, finish: Finish, at: float, /) -> bytes:
        output: list[Fields] = []
        if answer.thinking:
            output.append(_in_order(_REASONING_ORDER, _reasoning_item(f"rs_{self._id}", answer.thinking)))
        if answer.tool_calls:
            output += [self._called(index, call) for index, call in enumerate(answer.tool_calls)]
        else:
            item = _message_item(self._message_id, answer.text, "completed")
            item["content"] = [_in_order(_PART_ORDER, item["content"][0])]
            output.append(_in_order(_ITEM_ORDER, item))
        response = self._response("completed", output, at) | {
            "completed_at": int(at),
            "usage": _in_order(_USAGE_ORDER, _usage(finish)),
        }
        return gojson.encode_line(_in_order(_RESPONSE_ORDER, response))

    def _called(self, index: int, call: ToolCall) -> Fields:
        return _in_order(_ITEM_ORDER, _call_item(f"fc_{self._id}_{index}", call, "completed"))

    @property
    def _message_id(self) -> str:
        return f"msg_{self._number}"

    def _begin(self, at: float) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        response = _sorted(self._response("in_progress", [], at))
        created = self._event("response.created", {"response": response})
        return created + self._event("response.in_progress", {"response": response})

    def _reasoning(self, text: str) -> bytes:
        opening = b""
        item_id = f"rs_{self._number}"
        if self._open != "reasoning":
            item = {"id": item_id, "type": "reasoning", "summary": []}
            opening = self._close() + self._item_event("added", item)
            self._open = "reasoning"
        self._text.append(text)
        place = {"item_id": item_id, "output_index": len(self._items), "summary_index": 0}
        return opening + self._event("response.reasoning_summary_text.delta", {**place, "delta": text})

    def _message(self, text: str) -> bytes:
        opening = b""
        if self._open != "message":
            opening = self._close()
            item = {
                "id": self._message_id,
                "type": "message",
                "status": "in_progress",
                "role": "assistant",
                "content": [],
            }
            opening += self._item_event("added", item)
            opening += self._event("response.content_part.added", self._place() | {"part": _part("")})
            self._open = "message"
        self._text.append(text)
        delta = self._place() | {"delta": text, "logprobs": []}
        return opening + self._event("response.output_text.delta", delta)

    def _call(self, call: ToolCall) -> bytes:
        closing = self._close()
        index = len(self._items)
        item_id = f"fc_{self._number}_{index}"
        arguments = arguments_text(call)
        started = _call_item(item_id, call, "in_progress") | {"arguments": ""}
        place = {"item_id": item_id, "output_index": index}
        item = _call_item(item_id, call, "completed")
        told = (
            closing
            + self._item_event("added", started)
            + self._event("response.function_call_arguments.delta", {**place, "delta": arguments})
            + self._event("response.function_call_arguments.done", {**place, "arguments": arguments})
            + self._item_event("done", item)
        )
        self._items.append(_sorted(item))
        return told

    def _close(self) -> bytes:
        """End the open item and keep it for the last event."""
        kind, self._open = self._open, ""
        text = "".join(self._text)
        self._text.clear()
        match kind:
            case "reasoning":
                item = _reasoning_item(f"rs_{self._number}", text)
                place = {"item_id": item["id"], "output_index": len(self._items), "summary_index": 0}
                told = self._event("response.reasoning_summary_text.done", {**place, "text": text})
            case "message":
                item = _message_item(self._message_id, text, "completed")
                told = self._event(
                    "response.output_text.done", self._place() | {"text": text, "logprobs": []}
                )
                told += self._event("response.content_part.done", self._place() | {"part": _part(text)})
            case _:
                return b""
        told += self._item_event("done", item)
        self._items.append(_sorted(item))
        return told

    def _place(self) -> Fields:
        return {"item_id": self._message_id, "output_index": len(self._items), "content_index": 0}

    def _item_event(self, what: str, item: Fields) -> bytes:
        fields = {"output_index": len(self._items), "item": _sorted(item)}
        return self._event(f"response.output_item.{what}", fields)

    def _event(self, name: str, fields: Fields) -> bytes:
        numbered = fields | {"type": name, "sequence_number": self._sequence}
        self._sequence += 1
        return event(dict(sorted(numbered.items())), name)

    def _response(self, status: str, output: list[Fields], at: float) -> Fields:
        told = self._fields
        reasoning = told.get("reasoning") or {}
        return {
            **dict.fromkeys(_UNSET),
            "id": self._id,
            "object": "response",
            "created_at": int(at),
            "completed_at": None,
            "status": status,
            "model": self._model,
            "instructions": told.get("instructions") or None,
            "output": output,
            "tools": [_echoed_tool(tool) for tool in told.get("tools", ()) if isinstance(tool, dict)],
            "tool_choice": "auto",
            "truncation": told.get("truncation", "disabled"),
            "parallel_tool_calls": True,
            "text": {"format": (told.get("text") or {}).get("format") or {"type": "text"}},
            "top_p": told.get("top_p", 1.0),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": told.get("temperature", 1.0),
            "reasoning": reasoning if any(reasoning.values()) else None,
            "usage": None,
            "max_output_tokens": told.get("max_output_tokens"),
            "store": False,
            "background": told.get("background", False),
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
        }


_RESPONSE_ORDER: Final = (
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "incomplete_details",
    "model",
    "previous_response_id",
    "instructions",
    "output",
    "error",
    "tools",
    "tool_choice",
    "truncation",
    "parallel_tool_calls",
    "text",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "temperature",
    "reasoning",
    "usage",
    "max_output_tokens",
    "max_tool_calls",
    "store",
    "background",
    "service_tier",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
)
_ITEM_ORDER: Final = ("id", "type", "status", "role", "content", "call_id", "name", "arguments")
_PART_ORDER: Final = ("type", "text", "annotations", "logprobs")
_REASONING_ORDER: Final = ("id", "type", "summary", "encrypted_content")
_USAGE_ORDER: Final = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "input_tokens_details",
    "output_tokens_details",
)


def _in_order(names: Sequence[str], fields: Fields) -> Fields:
    """As a struct of Ollama's prints: what is no stream comes from one, what is in a stream from a map."""
    return {name: fields[name] for name in names if name in fields}


def _sorted(value: Any) -> Any:
    """As a map of Go's prints."""
    if isinstance(value, dict):
        return {name: _sorted(inner) for name, inner in sorted(value.items())}
    return [_sorted(inner) for inner in value] if isinstance(value, list) else value


def _part(text: str) -> Fields:
    return {"annotations": [], "logprobs": [], "text": text, "type": "output_text"}


def _message_item(item_id: str, text: str, status: str) -> Fields:
    head = {"id": item_id, "type": "message", "status": status, "role": "assistant"}
    return head | {"content": [_part(text)]}


def _reasoning_item(item_id: str, text: str) -> Fields:
    summary = [{"type": "summary_text", "text": text}]
    return {"id": item_id, "type": "reasoning", "summary": summary, "encrypted_content": text}


def _call_item(item_id: str, call: ToolCall, status: str) -> Fields:
    head = {"id": item_id, "type": "function_call", "status": status, "call_id": call.id}
    return head | {"name": call.name, "arguments": arguments_text(call)}


def _echoed_tool(tool: Mapping[str, Any]) -> Fields:
    told = {name: tool.get(name) for name in ("type", "name", "description", "strict")}
    return told | {"parameters": _sorted(tool.get("parameters"))}


def _usage(finish: Finish) -> Fields:
    return {
        "input_tokens": finish.prompt_tokens,
        "output_tokens": finish.output_tokens,
        "total_tokens": finish.prompt_tokens + finish.output_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
