"""OpenAI's ``/v1/chat/completions``, ``/v1/completions`` and ``/v1/embeddings``: requests in, answers out.

Source: Ollama's ``openai/openai.go`` and ``middleware/openai.go``.
"""

import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from ollama_dist.core.dialects import Dialect
from ollama_dist.core.errors import BadRequest
from ollama_dist.wire import gojson
from ollama_dist.wire.gotypes import decode
from ollama_dist.wire.llamacpp.asks import (
    MAX_TOP_LOGPROBS,
    ChatAsk,
    EmbedAsk,
    GenerateAsk,
    Message,
    Terms,
    embedded_texts,
)
from ollama_dist.wire.llamacpp.pieces import Finish, Piece, ToolCall
from ollama_dist.wire.llamacpp.vectors import Vector, packed_vector, printed
from ollama_dist.wire.llamacpp.writer import EVENTS, JSON, arguments_text, event
from ollama_dist.wire.structs import OPENAI_CHAT, OPENAI_COMPLETION, OPENAI_EMBEDDINGS

FINGERPRINT: Final = "fp_ollama"

DONE: Final = b"data: [DONE]\n\n"

Fields = dict[str, Any]


# Requests


def read_chat(data: bytes) -> tuple[ChatAsk, bool]:
    """What a body of ``/v1/chat/completions`` asks, and whether usage is to be told in the stream.

    Raises `BadRequest`.
    """
    fields = decode(data, OPENAI_CHAT)
    told = [message or {} for message in fields.get("messages", ())]
    if not told:
        raise BadRequest("[] is too short - 'messages'")
    messages = [message for each in told for message in _messages(each, told)]
    options = _options(fields) | {"stop": _stops(fields.get("stop"))}
    for name in ("seed", "frequency_penalty", "presence_penalty"):
        if name in fields:
            options[name] = fields[name]
    effort = (
        fields["reasoning"].get("effort", "") if "reasoning" in fields else fields.get("reasoning_effort")
    )
    terms = Terms(
        stream=fields.get("stream", False),
        options=options,
        format=_format(fields.get("response_format", {})),
        think=think_of_effort(effort or ""),
        logprobs=fields.get("logprobs", False),
        top_logprobs=_checked_top(fields.get("top_logprobs", 0)),
    )
    tools = [tool for tool in fields.get("tools", ()) if tool]
    return ChatAsk(fields.get("model", ""), messages, tools, terms), _tells_usage(fields)


def read_completion(data: bytes) -> tuple[GenerateAsk, bool]:
    """What a body of ``/v1/completions`` asks, and whether usage is to be told in the stream.

    Raises `BadRequest`.
    """
    fields = decode(data, OPENAI_COMPLETION)
    options = _options(fields) | {"stop": _stops(fields.get("stop"), strict=True)}
    options["top_p"] = fields.get("top_p") or 1.0
    for name in ("frequency_penalty", "presence_penalty"):
        options[name] = fields.get(name, 0.0)
    if "seed" in fields:
        options["seed"] = fields["seed"]
    top_logprobs = max(0, fields.get("logprobs", 0))
    terms = Terms(
        stream=fields.get("stream", False),
        options=options,
        logprobs=top_logprobs > 0,
        top_logprobs=_checked_top(top_logprobs),
    )
    ask = GenerateAsk(
        fields.get("model", ""), fields.get("prompt", ""), fields.get("suffix", ""), terms=terms
    )
    return ask, _tells_usage(fields)


def read_embeddings(data: bytes) -> tuple[EmbedAsk, bool]:
    """What a body of ``/v1/embeddings`` asks, and whether vectors are to be base64. Raises `BadRequest`."""
    fields = decode(data, OPENAI_EMBEDDINGS)
    encoding = fields.get("encoding_format", "")
    if encoding and encoding.lower() not in ("float", "base64"):
        raise BadRequest(
            f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64']."
        )
    told = [""] if fields.get("input") == "" else fields.get("input")
    if told is None or told == []:
        raise BadRequest("invalid input")
    try:
        texts = embedded_texts(told)
    except BadRequest as error:
        raise LateRefusal(str(error)) from error
    return EmbedAsk(fields.get("model", ""), texts, fields.get("dimensions", 0)), encoding.lower() == "base64"


class LateRefusal(BadRequest):
    """Ollama's own handler finds this out, not its translation: the error is printed as such."""


def think_of_effort(effort: str) -> bool | str | None:
    """The ``think`` that stands for a reasoning effort. Raises `BadRequest`."""
    match effort:
        case "":
            return None
        case "none":
            return False
        case "minimal":
            return "low"
        case "low" | "medium" | "high" | "max":
            return effort
        case "xhigh" | "ultra":
            return "max"
    shown = gojson.encode(effort).decode()
    known = '"minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none"'
    raise BadRequest(f"invalid reasoning value: {shown} (must be {known})")


def image_of_url(url: Any) -> str:
    """The base64 in a data URI. Raises `BadRequest`."""
    if isinstance(url, str) and url.startswith(("http://", "https://")):
        raise BadRequest("image URLs are not currently supported, please use base64 encoded data instead")
    head, separator, data = url.partition(";base64,") if isinstance(url, str) else ("", "", "")
    if not separator or head not in _IMAGE_HEADS or not _is_base64(data):
        raise BadRequest("invalid image input")
    return str(data)


_IMAGE_HEADS: Final = ("data:", *(f"data:image/{kind}" for kind in ("jpeg", "jpg", "png", "webp")))


def _is_base64(text: str) -> bool:
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _options(fields: Mapping[str, Any]) -> Fields:
    """OpenAI's defaults of 1.0 count even where the model has its own."""
    options: Fields = {"temperature": fields.get("temperature", 1.0), "top_p": fields.get("top_p", 1.0)}
    if "max_tokens" in fields:
        options["num_predict"] = fields["max_tokens"]
    return options


def _stops(told: Any, *, strict: bool = False) -> list[str] | None:
    if isinstance(told, str):
        return [told]
    if not isinstance(told, list):
        return None
    if strict and (stray := [stop for stop in told if not isinstance(stop, str)]):
        raise BadRequest(f"invalid type for 'stop' field: {_GO_TYPES[gojson.kind(stray[0])]}")
    return [stop for stop in told if isinstance(stop, str)]


_GO_TYPES: Final = {
    "null": "<nil>",
    "bool": "bool",
    "number": "float64",
    "string": "string",
    "object": "map[string]interface {}",
    "array": "[]interface {}",
}


def _format(told: Mapping[str, Any]) -> Any:
    match str(told.get("type", "")).strip().lower():
        case "json_object":
            return "json"
        case "json_schema":
            return (told.get("json_schema") or {}).get("schema")
    return None


def _checked_top(count: int) -> int:
    if not 0 <= count <= MAX_TOP_LOGPROBS:
        raise LateRefusal(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")
    return count


def _tells_usage(fields: Mapping[str, Any]) -> bool:
    return bool((fields.get("stream_options") or {}).get("include_usage"))


def _messages(message: Mapping[str, Any], all_of_them: Sequence[Mapping[str, Any]]) -> list[Message]:
    """One message as Ollama has them: a part of content becomes a message of its own."""
    role = message.get("role", "")
    calls = [_tool_call(call or {}) for call in message.get("tool_calls", ())]
    extras: Fields = {}
    if thinking := message.get("reasoning"):
        extras["thinking"] = thinking
    if calls:
        extras["tool_calls"] = calls
    if call_id := message.get("tool_call_id"):
        extras["tool_call_id"] = call_id
    if role.lower() == "tool" and (name := message.get("name") or _called(call_id, all_of_them)):
        extras["tool_name"] = name
    match message.get("content"):
        case str() as content:
            return [{"role": role, "content": content, **extras}]
        case list() as parts:
            split = [_part(role, part) for part in parts]
            if split and calls:
                split[-1] |= extras
            return [*split]
        case None if calls:
            return [{"role": role, "content": "", **extras}]
        case other:
            raise BadRequest(f"invalid message content type: {_GO_TYPES[gojson.kind(other)]}")


def _part(role: str, part: Any) -> Fields:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"role": role, "content": text}
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            return {"role": role, "images": [image_of_url(url)]}
        case {"type": "input_audio", "input_audio": {"data": str(data)}} if _is_base64(data):
            return {"role": role, "images": [data]}
    raise BadRequest("invalid message format")


def _tool_call(call: Mapping[str, Any]) -> Fields:
    function = call.get("function") or {}
    try:
        arguments = orjson.loads(function.get("arguments", ""))
    except orjson.JSONDecodeError as error:
        raise BadRequest("invalid tool call arguments") from error
    if not isinstance(arguments, dict):
        raise BadRequest("invalid tool call arguments")
    return {"id": call.get("id", ""), "function": {"name": function.get("name", ""), "arguments": arguments}}


def _called(call_id: str | None, messages: Sequence[Mapping[str, Any]]) -> str:
    """The name of the tool whose call has this id; of several the last."""
    for message in reversed(messages):
        for call in message.get("tool_calls", ()):
            if call and call_id and call.get("id") == call_id:
                return str((call.get("function") or {}).get("name", ""))
    return ""


# Answers


class ChatWriter:
    """``/v1/chat/completions``."""

    dialect = Dialect.OPENAI
    stream_type = EVENTS
    whole_type = JSON

    def __init__(self, model: str, number: int, *, usage: bool) -> None:
        self._model = model
        self._id = f"chatcmpl-{number}"
        self._tells_usage = usage
        self._created = 0
        self._called = False

    def piece(self, piece: Piece, at: float, /) -> bytes:
        self._called = self._called or bool(piece.tool_calls)
        if piece.thinking and (piece.text or piece.tool_calls):
            first = self._delta(Piece(thinking=piece.thinking, logprobs=piece.logprobs), at, bare=True)
            return first + self._delta(Piece(piece.text, tool_calls=piece.tool_calls), at)
        return self._delta(piece, at)

    def finish(self, finish: Finish, at: float, /) -> bytes:
        opening = b"" if self._created else self._delta(Piece(), at)
        reason = "tool_calls" if finish.reason == "stop" and self._called else finish.reason
        last = event(self._chunk([{"index": 0, "delta": {}, "finish_reason": reason}]))
        usage = event(self._chunk([]) | {"usage": _usage(finish)}) if self._tells_usage else b""
        return opening + last + usage + DONE

    def whole(self, answer: Piece, finish: Finish, at: float, /) -> bytes:
        message: Fields = {"role": "assistant", "content": answer.text}
        if answer.thinking:
            message["reasoning"] = answer.thinking
        if answer.tool_calls:
            message["tool_calls"] = [_written_call(call) for call in answer.tool_calls]
        reason = "tool_calls" if finish.reason == "stop" and answer.tool_calls else finish.reason
        choice: Fields = {"index": 0, "message": message, "finish_reason": reason}
        if answer.logprobs:
            choice["logprobs"] = {"content": answer.logprobs}
        head = _head(self._id, "chat.completion", int(at), self._model)
        return gojson.encode_line(head | {"choices": [choice], "usage": _usage(finish)})

    def _delta(self, piece: Piece, at: float, *, bare: bool = False) -> bytes:
        delta: Fields = {}
        if not self._created:
            self._created = int(at)
            delta["role"] = "assistant"
        if not bare:
            delta["content"] = piece.text
        if piece.thinking:
            delta["reasoning"] = piece.thinking
        if piece.tool_calls:
            delta["tool_calls"] = [_written_call(call) for call in piece.tool_calls]
        choice: Fields = {"index": 0, "delta": delta, "finish_reason": None}
        if piece.logprobs:
            choice["logprobs"] = {"content": piece.logprobs}
        return event(self._chunk([choice]))

    def _chunk(self, choices: list[Fields]) -> Fields:
        return _head(self._id, "chat.completion.chunk", self._created, self._model) | {"choices": choices}


class CompletionWriter:
    """``/v1/completions``."""

    dialect = Dialect.OPENAI
    stream_type = EVENTS
    whole_type = JSON

    def __init__(self, model: str, number: int, *, usage: bool) -> None:
        self._model = model
        self._id = f"cmpl-{number}"
        self._tells_usage = usage

    def piece(self, piece: Piece, at: float, /) -> bytes:
        return event(self._chunk(piece.text, None, at))

    def finish(self, finish: Finish, at: float, /) -> bytes:
        last = event(self._chunk("", finish.reason, at))
        if not self._tells_usage:
            return last + DONE
        return last + event(self._chunk("", None, at) | {"choices": [], "usage": _usage(finish)}) + DONE

    def whole(self, answer: Piece, finish: Finish, at: float, /) -> bytes:
        head = _head(self._id, "text_completion", int(at), self._model)
        choice = {"text": answer.text, "index": 0, "finish_reason": finish.reason}
        return gojson.encode_line(head | {"choices": [choice], "usage": _usage(finish)})

    def _chunk(self, text: str, reason: str | None, at: float) -> Fields:
        choice = {"text": text, "index": 0, "finish_reason": reason}
        chunk: Fields = {"id": self._id, "object": "text_completion", "created": int(at), "choices": [choice]}
        chunk |= {"model": self._model, "system_fingerprint": FINGERPRINT}
        return chunk | {"usage": _usage(Finish())} if self._tells_usage else chunk


def embeddings_body(model: str, vectors: Sequence[Vector], tokens: int, *, packed: bool) -> bytes:
    """The answer of ``/v1/embeddings``; ``packed``: vectors as base64 of little-endian 32-bit floats."""
    data = [
        {
            "object": "embedding",
            "embedding": packed_vector(vector) if packed else printed(vector),
            "index": index,
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return gojson.encode_line({"object": "list", "data": data, "model": model, "usage": usage})


def model_fields(name: str, created: int, namespace: str) -> Fields:
    """A row of ``/v1/models``."""
    return {"id": name, "object": "model", "created": created, "owned_by": namespace}


def _head(answer_id: str, kind: str, created: int, model: str) -> Fields:
    return {
        "id": answer_id,
        "object": kind,
        "created": created,
        "model": model,
        "system_fingerprint": FINGERPRINT,
    }


def _usage(finish: Finish) -> Fields:
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.output_tokens,
        "total_tokens": finish.prompt_tokens + finish.output_tokens,
    }


def _written_call(call: ToolCall) -> Fields:
    function = {"name": call.name, "arguments": arguments_text(call)}
    return {"id": call.id, "index": call.index, "type": "function", "function": function}
