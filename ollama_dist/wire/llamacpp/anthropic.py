"""Anthropic's ``/v1/messages``: requests in, answers out.

Source: Ollama's ``anthropic/anthropic.go`` and ``middleware/anthropic.go``.
"""

import binascii
from collections.abc import Mapping
from typing import Any, Final

import orjson

from ollama_dist.core.dialects import Dialect
from ollama_dist.core.errors import BadRequest
from ollama_dist.wire import gojson
from ollama_dist.wire.gotypes import decode
from ollama_dist.wire.llamacpp.asks import ChatAsk, Message, Terms
from ollama_dist.wire.llamacpp.pieces import Finish, Piece, ToolCall
from ollama_dist.wire.llamacpp.writer import EVENTS, JSON, arguments_text, event
from ollama_dist.wire.structs import MESSAGES

Fields = dict[str, Any]


# Requests


def read_messages(data: bytes) -> ChatAsk:
    """What a body of ``/v1/messages`` asks. Raises `BadRequest`."""
    fields = decode(data, MESSAGES)
    if not fields.get("model"):
        raise BadRequest("model is required")
    if fields.get("max_tokens", 0) <= 0:
        raise BadRequest("max_tokens is required and must be positive")
    told = fields.get("messages") or ()
    if not told:
        raise BadRequest("messages is required")
    system = _system(fields.get("system"))
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for message in told:
        messages += _messages(message or {})
    terms = Terms(stream=fields.get("stream", False), options=_options(fields), think=_think(fields))
    tools = [_tool(tool) for tool in fields.get("tools", ()) if isinstance(tool, dict)]
    return ChatAsk(fields["model"], messages, tools, terms, relaxed=True)


def estimated_tokens(data: bytes) -> int:
    """About how many tokens a body of ``/v1/messages`` has, for the first event of a stream.

    A quarter of the letters, as Ollama guesses; the true count comes with the last event.
    """
    fields = decode(data, MESSAGES)
    letters = _letters(fields.get("system"))
    for message in fields.get("messages") or ():
        letters += len((message or {}).get("role", "")) + _letters((message or {}).get("content"))
    for tool in fields.get("tools", ()):
        if isinstance(tool, dict):
            letters += len(str(tool.get("name", ""))) + len(str(tool.get("description", "")))
            letters += len(orjson.dumps(tool["input_schema"])) if "input_schema" in tool else 0
    return max(1, letters // 4)


def _options(fields: Mapping[str, Any]) -> Fields:
    options: Fields = {"num_predict": fields["max_tokens"]}
    for name in ("temperature", "top_p", "top_k"):
        if name in fields:
            options[name] = fields[name]
    if stops := fields.get("stop_sequences"):
        options["stop"] = stops
    return options


def _think(fields: Mapping[str, Any]) -> bool | str | None:
    match (fields.get("thinking") or {}).get("type"):
        case "enabled":
            return True
        case "disabled":
            return False
    effort = (fields.get("output_config") or {}).get("effort", "").strip().lower()
    effort = "high" if effort == "xhigh" else effort
    return effort if effort in ("high", "medium", "low", "max") else None


def _system(told: Any) -> str:
    if isinstance(told, str):
        return told
    return "".join(_text_of(block) for block in told) if isinstance(told, list) else ""


def _text_of(block: Any) -> str:
    match block:
        case {"type": "text", "text": str(text)}:
            return text
    return ""


def _messages(message: Mapping[str, Any]) -> list[Message]:
    """One message as Ollama has them: results of tools become messages of their own."""
    role = message.get("role", "").lower()
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    if not isinstance(blocks, list):
        kind = gojson.kind(content)
        raise BadRequest(f"json: cannot unmarshal {kind} into Go value of type []anthropic.ContentBlock")
    spoken: Fields = {"role": role, "content": ""}
    images, calls, results = [], [], []
    for block in blocks:
        match block:
            case {"type": "text"}:
                spoken["content"] += block.get("text") or ""
            case {"type": "image"}:
                images.append(_image(block.get("source")))
            case {"type": "tool_use" | "server_tool_use"}:
                calls.append(_call(block))
            case {"type": "tool_result" | "web_search_tool_result"}:
                results.append(_result(block))
            case {"type": "thinking", "thinking": str(thinking)}:
                spoken["thinking"] = thinking
            case _:
                pass  # kinds of blocks that came later say nothing to a model here
    if images:
        spoken["images"] = images
    if calls:
        spoken["tool_calls"] = calls
    said: list[Message] = [spoken] if spoken["content"] or len(spoken) > len(_BARE) else []
    return results + said if role == "user" else said + results


_BARE: Final = ("role", "content")


def _image(source: Any) -> str:
    match source:
        case {"type": "base64", "data": str(data)}:
            try:
                binascii.a2b_base64(data, strict_mode=True)
            except (binascii.Error, ValueError) as error:
                raise BadRequest(f"invalid base64 image data: {error}") from error
            return data
        case {"type": str(kind)}:
            raise BadRequest(f"invalid image source type: {kind}. Only base64 images are supported.")
    raise BadRequest("invalid image source")


def _call(block: Mapping[str, Any]) -> Fields:
    for name in ("id", "name"):
        if not block.get(name):
            raise BadRequest(f"tool_use block missing required '{name}' field")
    arguments = block.get("input")
    function = {"name": block["name"], "arguments": arguments if isinstance(arguments, dict) else {}}
    return {"id": block["id"], "function": function}


def _result(block: Mapping[str, Any]) -> Message:
    content = block.get("content")
    result: Fields = {
        "role": "tool",
        "content": _system(content),
        "tool_call_id": block.get("tool_use_id", ""),
    }
    if isinstance(content, list):
        images = [_image(part.get("source")) for part in content if _is_image(part)]
        if images:
            result["images"] = images
    return result


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "image"


def _tool(tool: Mapping[str, Any]) -> Fields:
    schema = tool.get("input_schema")
    if schema is not None and not isinstance(schema, dict):
        shown = gojson.encode(str(tool.get("name", ""))).decode()
        raise BadRequest(f"invalid input_schema for tool {shown}: it is no object")
    function: Fields = {"name": tool.get("name", "")}
    if description := tool.get("description"):
        function["description"] = description
    return {"type": "function", "function": function | {"parameters": schema or {"type": "object"}}}


def _letters(content: Any) -> int:
    match content:
        case str():
            return len(content)
        case list():
            return sum(_letters_of_block(block) for block in content if isinstance(block, dict))
    return 0


def _letters_of_block(block: Mapping[str, Any]) -> int:
    told = sum(len(block[name]) for name in ("text", "thinking") if isinstance(block.get(name), str))
    return told + (len(orjson.dumps(block)) if block.get("type") in ("tool_use", "tool_result") else 0)


# Answers


class MessagesWriter:
    """``/v1/messages``: blocks of thinking, text and tool use, one open at a time."""

    dialect = Dialect.ANTHROPIC
    stream_type = EVENTS
    whole_type = JSON

    def __init__(self, model: str, message_id: str, estimated: int) -> None:
        self._model = model
        self._id = message_id
        self._estimated = estimated
        self._has_begun = False
        self._open = ""
        """The kind of block that is open."""
        self._index = 0
        self._called = False

    def piece(self, piece: Piece, _at: float, /) -> bytes:
        parts = [self._begin()]
        if piece.thinking:
            parts.append(self._delta("thinking", piece.thinking))
        if piece.text:
            parts.append(self._delta("text", piece.text))
        parts += [self._tool_use(call) for call in piece.tool_calls]
        return b"".join(parts)

    def finish(self, finish: Finish, _at: float, /) -> bytes:
        last = {
            "type": "message_delta",
            "delta": {"stop_reason": _stop_reason(finish.reason, self._called)},
            "usage": _usage(finish.prompt_tokens, finish.output_tokens),
        }
        return (
            self._begin()
            + self._close()
            + event(last, "message_delta")
            + event({"type": "message_stop"}, "message_stop")
        )

    def whole(self, answer: Piece, finish: Finish, _at: float, /) -> bytes:
        content: list[Fields] = []
        if answer.thinking:
            content.append({"type": "thinking", "thinking": answer.thinking})
        if answer.text:
            content.append({"type": "text", "text": answer.text})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
            for call in answer.tool_calls
        ]
        message = self._message(content) | {
            "stop_reason": _stop_reason(finish.reason, bool(answer.tool_calls)),
            "usage": _usage(finish.prompt_tokens, finish.output_tokens),
        }
        return gojson.encode_line(message)

    def _message(self, content: list[Fields]) -> Fields:
        head = {"id": self._id, "type": "message", "role": "assistant", "model": self._model}
        return head | {"content": content}

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        message = self._message([]) | {"usage": _usage(self._estimated, 0)}
        return event({"type": "message_start", "message": message}, "message_start")

    def _delta(self, kind: str, text: str) -> bytes:
        opening = b"" if self._open == kind else self._close() + self._start({"type": kind, kind: ""})
        self._open = kind
        return opening + self._block_event("delta", {"delta": {"type": f"{kind}_delta", kind: text}})

    def _tool_use(self, call: ToolCall) -> bytes:
        self._called = True
        closing = self._close()
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": arguments_text(call)}
        opened = closing + self._start(block)
        self._open = "tool_use"
        return opened + self._block_event("delta", {"delta": delta}) + self._close()

    def _start(self, block: Fields) -> bytes:
        return self._block_event("start", {"content_block": block})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        closing = self._block_event("stop", {})
        self._open = ""
        self._index += 1
        return closing

    def _block_event(self, what: str, fields: Fields) -> bytes:
        name = f"content_block_{what}"
        return event({"type": name, "index": self._index, **fields}, name)


def _stop_reason(reason: str, called: bool) -> str:
    if called:
        return "tool_use"
    return {"stop": "end_turn", "length": "max_tokens"}.get(reason, "stop_sequence")


def _usage(prompt_tokens: int, output_tokens: int) -> Fields:
    return {"input_tokens": prompt_tokens, "output_tokens": output_tokens}
