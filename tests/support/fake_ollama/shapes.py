"""A speech written out in a dialect, in the shapes of the recorded answers of that age.

A shape is an answer on record whose words and numbers are replaced: so the order of fields, what the first
chunk has that later ones have not, and what an age leaves out need no rules here.
"""

import copy
import random
import string
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ollama_dist.wire import gojson
from tests.support.fake_ollama.book import Book, fresh, timestamp
from tests.support.fake_ollama.words import Speech
from tests.support.recordings import Recorded

Record = dict[str, Any]


@dataclass
class Written:
    """An answer ready to be sent: opening bytes, one piece per token, closing bytes."""

    content_type: str
    opening: list[bytes] = field(default_factory=list)
    tokens: list[bytes] = field(default_factory=list)
    closing: list[bytes] = field(default_factory=list)
    """The end marker is in here and nowhere else; the whole of an answer that is one object."""
    repeat: Callable[[str], bytes] | None = None
    """One more token of the caller's choosing; None where there is no stream."""
    dying: list[bytes] = field(default_factory=list)
    """What is sent last when the runner dies."""
    weight: int = 0
    """Tokens in an answer that is one object."""


def write(
    book: Book, path: str, model: str, speech: Speech, *, stream: bool, usage: bool, elapsed_s: float
) -> Written:
    """``speech`` as the answer on ``path``; ``elapsed_s`` is how long ago the request came."""
    written = _WRITERS[path](book, model, speech, stream, usage, int(elapsed_s * 1e9))
    written.weight = speech.output_tokens
    return written


def from_record(exchange: Recorded, *, weight: int) -> Written:
    """A recorded answer, cut where its server flushed; in one piece it is worth ``weight`` tokens."""
    chunks = [fresh(chunk) for chunk in exchange.chunks]
    if exchange.is_stream:
        return Written(exchange.content_type, tokens=chunks[:-1], closing=chunks[-1:], repeat=_no_repeat)
    return Written(exchange.content_type, closing=chunks, weight=weight)


def transcript(speech: Speech, form: str) -> Written:
    """``speech`` as a transcription in the ``response_format`` ``form``."""
    text = speech.text.strip()
    if form == "text":
        return Written("text/plain", closing=[text.encode()], weight=speech.output_tokens)
    body = gojson.encode_line({"text": text})
    return Written("application/json", closing=[body], weight=speech.output_tokens)


def _no_repeat(_word: str) -> bytes:
    return b""


# Ollama's own


def _metrics(speech: Speech, elapsed_ns: int, like: Record) -> Record:
    values = {
        "total_duration": elapsed_ns + 1_000_000,
        "load_duration": 1_000_000,
        "prompt_eval_count": speech.prompt_tokens,
        "prompt_eval_duration": 500_000,
        "eval_count": speech.output_tokens,
        "eval_duration": max(1, elapsed_ns),
    }
    return {name: value for name, value in values.items() if name in like}


def _native(
    route: str, book: Book, model: str, speech: Speech, stream: bool, _usage: bool, elapsed_ns: int
) -> Written:
    is_chat = route == "chat"
    first, *_, last = book.records(f"{route}-stream")
    [whole] = book.records(f"{route}-once")

    def piece(content: str, thinking: str = "", call: Record | None = None) -> bytes:
        record = copy.deepcopy(first) | {"model": model, "created_at": timestamp()}
        holder = record["message"] if is_chat else record
        holder["content" if is_chat else "response"] = content
        if thinking:
            _put_after(holder, "content" if is_chat else "response", "thinking", thinking)
        if call:
            holder["tool_calls"] = [_native_call(book, call)]
        return gojson.encode_line(record)

    closing = copy.deepcopy(last if stream else whole)
    closing |= {"model": model, "created_at": timestamp(), "done_reason": speech.done_reason}
    closing |= _metrics(speech, elapsed_ns, closing)
    if "context" in closing:
        closing["context"] = list(range(259, 259 + speech.prompt_tokens + speech.output_tokens))
    if stream:
        tokens = [piece("", thinking=word) for word in speech.thinking]
        tokens += [piece(word) for word in speech.content]
        if speech.tool_call:
            tokens.append(piece("", call=speech.tool_call))
        written = Written("application/x-ndjson", tokens=tokens, closing=[gojson.encode_line(closing)])
        written.repeat = piece
        written.dying = [gojson.encode_line({"error": DEATH})]
        return written
    holder = closing["message"] if is_chat else closing
    holder["content" if is_chat else "response"] = speech.text
    if speech.thinking:
        _put_after(holder, "content" if is_chat else "response", "thinking", "".join(speech.thinking))
    if speech.tool_call:
        holder["tool_calls"] = [_native_call(book, speech.tool_call)]
    return Written("application/json; charset=utf-8", closing=[gojson.encode(closing)])


DEATH = "an error was encountered while running the model: unexpected EOF"


def _native_call(book: Book, call: Record) -> Record:
    [recorded] = book.records("chat-tools-once")
    made: Record = copy.deepcopy(recorded["message"]["tool_calls"][0])
    made["function"] |= call
    return made | ({"id": _random_id("call_", 8)} if "id" in made else {})


# OpenAI's


def _openai_chat(
    book: Book, model: str, speech: Speech, stream: bool, usage: bool, _elapsed_ns: int
) -> Written:
    if not stream:
        [whole] = book.records("oai-chat")
        message = whole["choices"][0]["message"] | {"content": speech.text}
        if speech.thinking:
            message["reasoning"] = "".join(speech.thinking)
        if speech.tool_call:
            message["tool_calls"] = [_openai_call(speech.tool_call)]
        whole["choices"][0] |= {"message": message, "finish_reason": _finish_reason(speech)}
        whole |= {
            "id": _number_id("chatcmpl-"),
            "model": model,
            "created": _now(),
            "usage": _openai_usage(speech),
        }
        return Written("application/json", closing=[gojson.encode_line(whole)])
    _, second, *_, finish, usage_chunk = book.records("oai-chat-stream-usage")
    shared = {"id": _number_id("chatcmpl-"), "model": model, "created": _now()}

    def piece(content: str, *, of: Record = second, **more: Any) -> bytes:
        record = copy.deepcopy(of) | shared
        record["choices"][0]["delta"] |= {"content": content, **more}
        return _sse(record)

    tokens = [piece("", reasoning=word) for word in speech.thinking]
    tokens += [piece(word) for word in speech.content]
    if speech.tool_call:
        tokens.append(piece("", tool_calls=[_openai_call(speech.tool_call)]))
    if tokens and "role" not in second["choices"][0]["delta"]:
        tokens[0] = tokens[0].replace(b'"delta":{', b'"delta":{"role":"assistant",')
    finish = copy.deepcopy(finish) | shared
    finish["choices"][0]["finish_reason"] = _finish_reason(speech)
    closing = _sse(finish)
    if usage:
        closing += _sse(usage_chunk | shared | {"usage": _openai_usage(speech)})
    written = Written("text/event-stream", tokens=tokens, closing=[closing + b"data: [DONE]\n\n"])
    written.repeat = piece
    written.dying = [_nameless(piece(""), model)]
    return written


def _openai_completion(
    book: Book, model: str, speech: Speech, stream: bool, usage: bool, _elapsed_ns: int
) -> Written:
    shared = {"id": _number_id("cmpl-"), "model": model, "created": _now()}
    if not stream:
        [whole] = book.records("oai-completions")
        whole["choices"][0] |= {"text": speech.text, "finish_reason": speech.done_reason}
        return Written(
            "application/json",
            [],
            [],
            [gojson.encode_line(whole | shared | {"usage": _openai_usage(speech)})],
        )
    first, *_, last, usage_chunk = book.records("oai-completions-stream")
    if not usage:
        first.pop("usage", None)
        last.pop("usage", None)

    def piece(text: str, *, of: Record = first) -> bytes:
        record = copy.deepcopy(of) | shared
        record["choices"][0]["text"] = text
        return _sse(record)

    last["choices"][0]["finish_reason"] = speech.done_reason
    closing = piece("", of=last)
    if usage:
        closing += _sse(usage_chunk | shared | {"usage": _openai_usage(speech)})
    written = Written(
        "text/event-stream",
        tokens=[piece(word) for word in speech.content],
        closing=[closing + b"data: [DONE]\n\n"],
    )
    written.repeat = piece
    written.dying = [_nameless(piece(""), model)]
    return written


def _nameless(chunk: bytes, model: str) -> bytes:
    """What becomes of an error inside a stream: a chunk without words that names no model."""
    return chunk.replace(b'"model":%b' % gojson.encode(model), b'"model":""')


def _openai_call(call: Record) -> Record:
    arguments = gojson.encode(call["arguments"]).decode()
    function = {"name": call["name"], "arguments": arguments}
    return {"id": _random_id("call_", 8), "index": 0, "type": "function", "function": function}


def _openai_usage(speech: Speech) -> Record:
    return {
        "prompt_tokens": speech.prompt_tokens,
        "completion_tokens": speech.output_tokens,
        "total_tokens": speech.prompt_tokens + speech.output_tokens,
    }


def _finish_reason(speech: Speech) -> str:
    return "tool_calls" if speech.tool_call else speech.done_reason


# The younger dialects


def _responses(
    book: Book, model: str, speech: Speech, stream: bool, _usage: bool, _elapsed_ns: int
) -> Written:
    ids = {"resp": _number_id("resp_"), "msg": _number_id("msg_")}
    counted = {"input_tokens": speech.prompt_tokens, "output_tokens": speech.output_tokens}
    counted["total_tokens"] = sum(counted.values())
    if not stream:
        [whole] = book.records("responses-previous")
        whole |= {"id": ids["resp"], "model": model, "created_at": _now(), "completed_at": _now()}
        whole["output"][0]["id"] = ids["msg"]
        whole["output"][0]["content"][0]["text"] = speech.text
        whole["usage"] |= counted
        return Written("application/json", closing=[gojson.encode_line(whole)])
    events = book.records("responses-stream")
    numbers = iter(range(10**9))

    def event(record: Record, text: str) -> bytes:
        record = _renamed(copy.deepcopy(record), ids, model, text)
        record["sequence_number"] = next(numbers)
        if record["type"] == "response.completed":
            record["response"]["usage"] |= counted
        return b"event: %b\n" % record["type"].encode() + _sse(record)

    opening = [event(record, "") for record in events[:4]]
    tokens = [event(events[4], word) for word in speech.content]
    closing = [
        event(record, speech.text) for record in events if record["type"].endswith(("done", "completed"))
    ]
    written = Written("text/event-stream", opening, tokens, closing)
    written.repeat = lambda word: event(events[4], word)
    return written


def _renamed(value: Any, ids: dict[str, str], model: str, text: str) -> Any:
    """``value`` with other ids, another model and another text in the places of the recorded ones."""
    if isinstance(value, list):
        return [_renamed(item, ids, model, text) for item in value]
    if isinstance(value, dict):
        changed = {name: _renamed(inner, ids, model, text) for name, inner in value.items()}
        for name in ("text", "delta"):
            if isinstance(changed.get(name), str) and changed[name] != "":
                changed[name] = text
        if "model" in changed:
            changed |= {"model": model, "created_at": _now()}
        return changed
    if isinstance(value, str):
        prefix, _, number = value.rpartition("_")
        return ids[prefix] if prefix in ids and number.isdecimal() else value
    return value


def _anthropic(
    book: Book, model: str, speech: Speech, stream: bool, _usage: bool, _elapsed_ns: int
) -> Written:
    message_id = _random_id("msg_", 24, "0123456789abcdef")
    counted = {"input_tokens": speech.prompt_tokens, "output_tokens": speech.output_tokens}
    reason = "max_tokens" if speech.done_reason == "length" else "end_turn"
    if not stream:
        [whole] = book.records("ant-messages")
        whole |= {"id": message_id, "model": model, "stop_reason": reason, "usage": counted}
        whole["content"][0]["text"] = speech.text
        return Written("application/json", closing=[gojson.encode_line(whole)])
    start, block, delta, *_, block_stop, message_delta, stop = book.records("ant-messages-stream")

    def event(record: Record) -> bytes:
        return b"event: %b\n" % record["type"].encode() + _sse(record)

    def piece(word: str) -> bytes:
        return event(delta | {"delta": {"type": "text_delta", "text": word}})

    start["message"] |= {"id": message_id, "model": model}
    message_delta |= {"delta": {"stop_reason": reason}, "usage": counted}
    closing = [event(record) for record in (block_stop, message_delta, stop)]
    written = Written(
        "text/event-stream", [event(start), event(block)], [piece(word) for word in speech.content], closing
    )
    written.repeat = piece
    return written


def _sse(record: Record) -> bytes:
    return b"data: %b\n\n" % gojson.encode(record)


def _now() -> int:
    return int(time.time())


def _number_id(prefix: str) -> str:
    return f"{prefix}{random.randrange(999)}"


def _random_id(prefix: str, length: int, alphabet: str = string.ascii_lowercase + string.digits) -> str:
    return prefix + "".join(random.choices(alphabet, k=length))


def _put_after(record: Record, after: str, name: str, value: Any) -> None:
    """Add a field where Go's struct has it: right behind another."""
    items = list(record.items())
    place = [key for key, _ in items].index(after) + 1
    record.clear()
    record.update([*items[:place], (name, value), *items[place:]])


_WRITERS: dict[str, Callable[[Book, str, Speech, bool, bool, int], Written]] = {
    "/api/generate": lambda *given: _native("gen", *given),
    "/api/chat": lambda *given: _native("chat", *given),
    "/v1/chat/completions": _openai_chat,
    "/v1/completions": _openai_completion,
    "/v1/responses": _responses,
    "/v1/messages": _anthropic,
}
