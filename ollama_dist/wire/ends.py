"""How an answer really ended.

A careless reader takes a closed connection for success. When a runner dies, Ollama ends the answer in proper
form, terminating chunk included, and in every dialect but its own without a word. So success is only what
carries the end marker of its dialect.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ollama_dist.core.dialects import Dialect
from ollama_dist.core.outcomes import NO_USAGE, Result, Usage
from ollama_dist.core.values import value
from ollama_dist.wire.failures import result_of_in_band_error
from ollama_dist.wire.outline import (
    CONTAINER,
    Document,
    Outline,
    document_of,
    is_container,
    object_in,
    outline_of,
)
from ollama_dist.wire.tail import Line, Tail, Whole

REPEATS: Final = 31
"""Ollama gives a model up when a token came this often in a row (``llm/server.go``: more than 30 repeats)."""


class End(StrEnum):
    """How an answer ended."""

    COMPLETE = "complete"
    """The end marker of its dialect was seen."""
    ERROR = "error"
    """The engine said in the answer that it failed."""
    CUT = "cut"
    """It stopped without an end marker."""
    GAVE_OUT = "gave_out"
    """It stopped without one, cleanly, after the same token over and over: Ollama's repeat guard."""


@value(frozen=True, slots=True)
class Verdict:
    """What is to be said of an answer that is over."""

    end: End
    message: str = ""
    """The engine's words where the end is an error."""
    usage: Usage = NO_USAGE
    records: int = 0
    """Lines or events that came, about as many as tokens; 1 for an answer that was not streamed."""
    size: int = 0
    """Bytes that came."""

    @property
    def result(self) -> Result:
        """The end of the attempt, given that its bytes were relayed."""
        match self.end:
            case End.COMPLETE:
                return Result.OK
            case End.GAVE_OUT:
                return Result.GAVE_OUT
            case End.ERROR:
                return result_of_in_band_error(self.message)
        return Result.CUT


class EndWatch:
    """Watches the body of one 200 answer go by, cut anywhere, chunk framing taken off.

    ``stream`` is whether the caller asked for a stream: it tells a shortcut answer (one object, no line end)
    from a stream that lost its last byte. ``is_text`` is whether the answer is a bare text, of whose end only
    the transport can tell. Costs less than a microsecond per piece; for memory see `Tail`.
    """

    __slots__ = ("_dialect", "_is_text", "_tail", "feed")

    def __init__(self, dialect: Dialect, *, stream: bool, is_text: bool = False) -> None:
        self._dialect = dialect
        self._is_text = is_text
        self._tail = Tail(_LINES_KEPT[dialect]) if stream else Whole()
        self.feed = self._tail.feed
        """Take the next piece of the body."""

    @property
    def has_begun(self) -> bool:
        """Whether any byte came."""
        return self._tail.size > 0

    @property
    def is_mid_record(self) -> bool:
        """Whether the bytes so far stop inside a line or an event, so that more would become part of it."""
        if isinstance(self._tail, Whole):
            return self.has_begun
        if not self._tail.is_at_line_end and self._tail.unfinished():
            return True
        if self._dialect is Dialect.OLLAMA:
            return False
        lines = self._tail.lines()
        return bool(lines) and lines[-1] not in (b"", b"\r")

    @property
    def lacks_only_a_line_end(self) -> bool:
        """Whether the bytes so far would be a complete answer if the record they stop in were ended."""
        tail = self._tail
        if isinstance(tail, Whole):
            return False
        rest = tail.unfinished()
        ended = [*tail.lines(), *([rest] if rest else [])]
        if self._dialect is Dialect.OLLAMA:
            return bool(rest) and _judge_lines(ended, b"", clean=False)[0] is End.COMPLETE
        events = _events([*ended, b""], b"")
        return self.is_mid_record and _judge_events(self._dialect, events, clean=False)[0] is End.COMPLETE

    def finish(self, *, clean: bool) -> Verdict:
        """The verdict. ``clean`` is whether the answer ended as its HTTP framing announced."""
        tail = self._tail
        if self._is_text:
            return Verdict(End.COMPLETE if clean else End.CUT, records=1, size=tail.size)
        if isinstance(tail, Whole):
            records = int(self.has_begun)
            end, message, usage = _judge_body(self._dialect, tail.outline(), clean=clean)
        elif self._dialect is Dialect.OLLAMA:
            records = tail.newlines or int(self.has_begun)
            end, message, usage = _judge_lines(tail.last(1), b"", clean=clean)
            if end is not End.COMPLETE:  # then more than its last line counts
                end, message, usage = _judge_lines(tail.lines(), tail.unfinished(), clean=clean)
        else:
            records = tail.newlines // _LINES_PER_EVENT[self._dialect]
            events = _events(tail.last(_CLOSING_LINES[self._dialect]), b"")
            end, message, usage = _judge_events(self._dialect, events, clean=clean)
            if end is not End.COMPLETE or len(events) <= _CLOSING_EVENTS:
                events = _events(tail.lines(), tail.unfinished())
                end, message, usage = _judge_events(self._dialect, events, clean=clean)
        return Verdict(end, message, usage, records, tail.size)


_LINES_PER_EVENT: Final = {Dialect.OPENAI: 2, Dialect.RESPONSES: 3, Dialect.ANTHROPIC: 3}
_LINES_KEPT: Final = {
    Dialect.OLLAMA: REPEATS + 1,
    **{dialect: (REPEATS + 1) * lines for dialect, lines in _LINES_PER_EVENT.items()},
}

_Judgement = tuple[End, str, Usage]
_Record = Outline | Document


def usage_of_whole(dialect: Dialect, body: bytes) -> Usage | None:
    """What an answer says of tokens and times that was not streamed, is here as a whole and ended well.

    None for one that did not, of which an `EndWatch` has more to say. Not for bare texts.
    """
    if len(body) > _LONG_BYTES:
        body = _without_numbers(body)
    top = object_in(body)
    if top is not None and (usual := _USUAL.get(dialect)) and (usage := usual(top)):
        return usage
    end, _, usage = _judge_body(dialect, outline_of(body) if top is None else Document(top), clean=True)
    return usage if end is End.COMPLETE else None


_LONG_BYTES: Final = 1024
_NUMBERS: Final = b'"embeddings":[['


def _without_numbers(body: bytes) -> bytes:
    """``body`` without its embeddings, nearly all of it, where these are nothing but numbers."""
    before = body.find(_NUMBERS, 0, _LONG_BYTES)
    begin, end = before + len(_NUMBERS), body.rfind(b"]]")
    if before < 0 or end < begin or body.find(b'"', begin, end) >= 0:
        return body
    return body[: begin - 1] + body[end + 1 :]


def _usual_ollama(top: Mapping[str, Any]) -> Usage | None:
    """Of one that says that it is done and has no place for an error, as nearly every answer; else None."""
    if "error" in top or "type" in top or type(top.get("response")) in _CONTAINERS:
        return None
    if top.get("done") is True or type(top.get("embeddings")) is list:
        return _ollama_usage(top)
    return None


def _usual_openai(top: Mapping[str, Any]) -> Usage | None:
    """The same of one with one choice, whose end has a reason, and with a count."""
    choices, usage = top.get("choices"), top.get("usage")
    if type(choices) is not list or len(choices) != 1 or type(usage) is not dict:
        return None
    (choice,), written = choices, usage.get("completion_tokens")
    if type(choice) is not dict or type(written) is not int or not _UNUSUAL.isdisjoint(top):
        return None
    reason = choice.get("finish_reason")
    return Usage(written) if type(reason) is str and reason else None


_UNUSUAL: Final = frozenset({"error", "response", "type"})
"""Fields that may tell of an error."""

_USUAL: Final = {Dialect.OLLAMA: _usual_ollama, Dialect.OPENAI: _usual_openai}
_CONTAINERS: Final = (dict, list)


# Newline-delimited JSON


def _judge_lines(lines: list[Line], rest: Line, *, clean: bool) -> _Judgement:
    records = [line for line in lines if line]
    if rest:
        return _judge_shortcut(_outlined(rest), alone=not records, clean=clean)
    last = _outlined(records[-1]) if records else Outline()
    if not last.is_whole:
        return End.CUT, "", NO_USAGE
    if error := _error(last):
        return End.ERROR, error, NO_USAGE
    if last.top.get("done") is True:
        return End.COMPLETE, "", _ollama_usage(last.top)
    if clean and _repeats(Dialect.OLLAMA, records):
        return End.GAVE_OUT, "", NO_USAGE
    return End.CUT, "", NO_USAGE


def _judge_shortcut(record: _Record, *, alone: bool, clean: bool) -> _Judgement:
    """Loading, unloading and rendering answer a streaming request with one object and no line end."""
    facts = record.facts
    is_shortcut = facts.get("done_reason") in ("load", "unload") or "_debug_info" in facts
    if alone and clean and record.is_whole and is_shortcut:
        return End.COMPLETE, "", _ollama_usage(record.top)
    return End.CUT, "", NO_USAGE


# Server-sent events


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    data: Line


def _events(lines: list[Line], rest: Line) -> list[_Event]:
    """The finished events in ``lines``; an empty one stands for one that is unfinished."""
    events = []
    name = ""
    data: Line = b""
    for line in lines:
        line = line.removesuffix(b"\r") if isinstance(line, bytes) else line
        if isinstance(line, Outline):
            data = line
        elif not line:
            if data:
                events.append(_Event(name, data))
            name, data = "", b""
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode("utf-8", "replace")
        elif line.startswith(b"data:"):
            data = line[5:].strip()
    if name or data or rest:
        events.append(_Event("", b""))
    return events


def _judge_events(dialect: Dialect, events: list[_Event], *, clean: bool) -> _Judgement:
    if not events:
        return End.CUT, "", NO_USAGE
    is_done = events[-1].data == b"[DONE]"
    records = [_outlined(event.data) for event in events[-_CLOSING_EVENTS:] if event.data != b"[DONE]"]
    usage = _last_usage(dialect, records)
    last = records[-1] if records else Outline()
    kind = last.text("type") or events[-1].name
    errors = [error for record in records if (error := _error(record))]
    match dialect:
        case Dialect.OPENAI:
            finished = is_done and any(record.fact("choices.finish_reason") for record in records)
        case Dialect.RESPONSES:
            finished = kind in ("response.completed", "response.incomplete")
        case _:
            finished = kind == "message_stop"
    if finished and last.is_whole:
        return End.COMPLETE, "", usage
    if errors:
        return End.ERROR, errors[-1], usage
    if clean and not is_done and _repeats(dialect, [event.data for event in events]):
        return End.GAVE_OUT, "", usage
    return End.CUT, "", usage


_CLOSING_EVENTS: Final = 4
"""The end of an answer is said within its last few events: finish, usage, end marker, or an error."""

_CLOSING_LINES: Final = {
    dialect: (_CLOSING_EVENTS + 1) * lines for dialect, lines in _LINES_PER_EVENT.items()
}
"""Lines enough for one more than these: what comes before is then of no account."""


# Answers that are one JSON object


def _judge_body(dialect: Dialect, body: _Record, *, clean: bool) -> _Judgement:
    if not clean or not body.is_whole:
        return End.CUT, "", NO_USAGE
    if error := _error(body):
        return End.ERROR, error, NO_USAGE
    if _is_finished(dialect, body):
        return End.COMPLETE, "", _usage(dialect, body)
    if _REPEATED.search(_text(body)):
        return End.GAVE_OUT, "", NO_USAGE
    return End.CUT, "", NO_USAGE


_WITHOUT_DONE: Final = ("embeddings", "embedding", "_debug_info")
"""Answers of Ollama's that do not say that they are done; each has one of these."""


def _is_finished(dialect: Dialect, body: _Record) -> bool:
    if dialect is Dialect.OLLAMA:
        said = body.top
        return said.get("done") is True or any(map(is_container, map(said.get, _WITHOUT_DONE)))
    match dialect:
        case Dialect.OPENAI:
            if body.fact("choices.finish_reason"):
                return True
            is_list = body.fact("object") == "list" and body.fact("data") == CONTAINER
            return is_list or isinstance(body.fact("text"), str)
        case Dialect.RESPONSES:  # its status says completed even when the repeat guard ended it
            counted = body.number("usage.input_tokens") + body.number("usage.output_tokens") > 0
            return body.text("status") in ("completed", "incomplete") and counted
    return bool(body.fact("stop_reason"))


# What records say


def _outlined(line: Line) -> _Record:
    return document_of(line) if isinstance(line, bytes) else line


def _error(record: _Record) -> str:
    """The words of an error in any of the dialects' shapes; empty where there is none."""
    top = record.top
    if not ("error" in top or "type" in top or is_container(top.get("response"))):
        return ""
    facts = record.facts
    for path in ("error.message", "response.error.message", "error"):
        if path in facts and facts[path] not in (None, CONTAINER):
            return str(facts[path]) or "unknown error"
    if facts.get("error") == CONTAINER or facts.get("type") in ("error", "response.failed"):
        return record.text("message") or "unknown error"
    return ""


def _token(dialect: Dialect, record: _Record) -> str | None:
    """The text a record adds, white space off; None where it adds none."""
    for path in _TOKEN_PATHS[dialect]:
        if path in record.facts:
            text = record.text(path)
            if text:
                return text.strip()
    return None


_TOKEN_PATHS: Final = {
    Dialect.OLLAMA: ("response", "message.content", "thinking", "message.thinking"),
    Dialect.OPENAI: ("choices.delta.content", "choices.text", "choices.delta.reasoning"),
    Dialect.RESPONSES: ("delta",),
    Dialect.ANTHROPIC: ("delta.text", "delta.thinking"),
}


def _repeats(dialect: Dialect, records: list[Line]) -> bool:
    """Whether the last records all add the same text."""
    if len(records) < REPEATS:
        return False
    tokens = {_token(dialect, _outlined(record)) for record in records[-REPEATS:]}
    return len(tokens) == 1 and None not in tokens


_REPEATED: Final = re.compile(r"(\S(?:.{0,62}?\S)??)\s*(?:\1\s*){30}\Z|\s{31}\Z", re.DOTALL)
"""A text that ends with the same word 31 times."""

_TEXT_PATHS: Final = (
    "response",
    "message.content",
    "choices.message.content",
    "choices.text",
    "output.content.text",
    "content.text",
)


def _text(body: _Record) -> str:
    return next((text for path in _TEXT_PATHS if (text := body.text(path))), "")


def _usage(dialect: Dialect, record: _Record) -> Usage:
    if dialect is Dialect.OLLAMA:
        return _ollama_usage(record.top)
    for before in ("usage.", "response.usage.", "message.usage."):
        if before.partition(".")[0] not in record.top:
            continue
        for output in ("completion_tokens", "output_tokens"):
            if written := record.number(before + output):
                return Usage(int(written))
    return NO_USAGE


def _last_usage(dialect: Dialect, records: list[_Record]) -> Usage:
    return next(
        (usage for record in reversed(records) if (usage := _usage(dialect, record)) != NO_USAGE), NO_USAGE
    )


def _ollama_usage(top: Mapping[str, Any]) -> Usage:
    said = top.get
    try:
        return Usage(
            int(said("eval_count", 0)), said("load_duration", 0) / 1e9, said("eval_duration", 0) / 1e9
        )
    except (TypeError, ValueError, OverflowError):  # what an engine counts is a number
        return NO_USAGE
