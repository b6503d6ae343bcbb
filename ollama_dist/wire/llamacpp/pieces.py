"""What comes back from llama-server, stream by stream, as pieces that every dialect can be written from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ollama_dist.core.errors import UpstreamCut, UpstreamFailed


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    index: int
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer, or all of it."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[Mapping[str, Any], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.thinking or self.tool_calls or self.logprobs)


@dataclass(frozen=True, slots=True)
class Finish:
    """How an answer ended. Durations in nanoseconds."""

    reason: str = "stop"
    """stop, length, load or unload."""
    prompt_tokens: int = 0
    prompt_ns: int = 0
    output_tokens: int = 0
    output_ns: int = 0
    total_ns: int = 0
    load_ns: int = 0
    context: Sequence[int] | None = None


def gathered(pieces: Sequence[Piece]) -> Piece:
    """All of an answer in one piece."""
    return Piece(
        "".join(piece.text for piece in pieces),
        "".join(piece.thinking for piece in pieces),
        tuple(call for piece in pieces for call in piece.tool_calls),
        tuple(logprob for piece in pieces for logprob in piece.logprobs),
    )


class StreamFailed(UpstreamCut):
    """The runner told of an error in the middle of its answer."""

    code = "stream_failed"


class PromptReader:
    """Reads the events of ``/completion`` and ``/infill``."""

    def __init__(self, *, top_logprobs: bool) -> None:
        self._top_logprobs = top_logprobs
        self.finish: Finish | None = None
        """Set when the answer is whole."""

    def read(self, data: bytes) -> list[Piece]:
        """The pieces in one event. Raises `StreamFailed` or `UpstreamFailed`."""
        event = _event(data)
        if event is None:
            return []
        logprobs = _logprobs(event.get("completion_probabilities"), self._top_logprobs)
        piece = Piece(str(event.get("content") or ""), logprobs=logprobs)
        if event.get("stop"):
            reason = "length" if event.get("stop_type") == "limit" else "stop"
            self.finish = _finish(reason, event.get("timings"))
        return [piece] if piece else []


class ChatReader:
    """Reads the events of ``/v1/chat/completions``.

    A tool call is handed out whole. Thoughts, and the answer after them, begin without white space.
    """

    def __init__(self, *, top_logprobs: bool) -> None:
        self._top_logprobs = top_logprobs
        self._calls: dict[int, _OpenCall] = {}
        self._thought = False
        self._spoke = False
        self.finish: Finish | None = None
        """Set when the answer is whole."""

    def read(self, data: bytes) -> list[Piece]:
        """The pieces in one event. Raises `StreamFailed` or `UpstreamFailed`."""
        event = _event(data)
        choices = event.get("choices") if event else None
        if event is None or not choices:
            return []
        choice = choices[0]
        delta = choice.get("delta") or {}
        logprobs = _logprobs((choice.get("logprobs") or {}).get("content"), self._top_logprobs)
        piece = Piece(
            self._text(delta.get("content") or ""),
            self._thinking(delta.get("reasoning_content") or ""),
            self._tool_calls(delta.get("tool_calls") or ()),
            logprobs,
        )
        pieces = [piece] if piece else []
        if reason := choice.get("finish_reason"):
            self.finish = _finish("length" if reason == "length" else "stop", event.get("timings"))
            if self._calls:
                pieces.append(Piece(tool_calls=self._close_calls()))
        return pieces

    def _thinking(self, text: str) -> str:
        text = text if self._thought else text.lstrip()
        self._thought = self._thought or bool(text)
        return text

    def _text(self, text: str) -> str:
        text = text.lstrip() if self._thought and not self._spoke else text
        self._spoke = self._spoke or bool(text)
        return text

    def _tool_calls(self, deltas: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
        """The calls that are whole because another has begun."""
        whole: tuple[ToolCall, ...] = ()
        for delta in deltas:
            index = delta.get("index", 0)
            if index not in self._calls:
                whole += self._close_calls()
                self._calls[index] = _OpenCall(index)
            function = delta.get("function") or {}
            call = self._calls[index]
            call.id += delta.get("id") or ""
            call.name += function.get("name") or ""
            call.arguments.append(function.get("arguments") or "")
        return whole

    def _close_calls(self) -> tuple[ToolCall, ...]:
        calls, self._calls = self._calls, {}
        return tuple(call.close() for call in calls.values())


@dataclass(slots=True)
class _OpenCall:
    index: int
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def close(self) -> ToolCall:
        text = "".join(self.arguments).strip()
        try:
            arguments = orjson.loads(text) if text else {}
        except orjson.JSONDecodeError as error:
            raise StreamFailed(f"the model called {self.name!r} with arguments that are no JSON") from error
        if not isinstance(arguments, dict):
            raise StreamFailed(f"the model called {self.name!r} with arguments that are no object")
        return ToolCall(_call_id(self.id), self.index, self.name, arguments)


_MADE_UP_ID: Final = re.compile(r"[0-9A-Za-z]{32}")


def _call_id(told: str) -> str:
    """An id llama.cpp made up is shortened to one like Ollama's; one the model chose is left alone."""
    return f"call_{told[:8].lower()}" if _MADE_UP_ID.fullmatch(told) else told


def _event(data: bytes) -> dict[str, Any] | None:
    if data == b"[DONE]":
        return None
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UpstreamFailed("the runner's stream makes no sense") from error
    if not isinstance(event, dict):
        raise UpstreamFailed("the runner's stream makes no sense")
    if told := event.get("error"):
        raise StreamFailed(str(told.get("message", "")) if isinstance(told, dict) else str(told))
    return event


def _finish(reason: str, timings: Mapping[str, Any] | None) -> Finish:
    told = timings or {}
    return Finish(
        reason,
        prompt_tokens=int(told.get("cache_n", 0)) + int(told.get("prompt_n", 0)),
        prompt_ns=int(told.get("prompt_ms", 0) * 1e6),
        output_tokens=int(told.get("predicted_n", 0)),
        output_ns=int(told.get("predicted_ms", 0) * 1e6),
    )


def _logprobs(told: Sequence[Mapping[str, Any]] | None, with_top: bool) -> tuple[Mapping[str, Any], ...]:
    return tuple(_logprob(entry, with_top) for entry in told or ())


def _logprob(entry: Mapping[str, Any], with_top: bool) -> dict[str, Any]:
    token = str(entry.get("token", ""))
    written: dict[str, Any] = {
        "token": token,
        "logprob": float(entry.get("logprob", 0.0)),
        "bytes": list(token.encode("utf-8", "surrogatepass")),
    }
    if with_top:
        written["top_logprobs"] = [_logprob(other, False) for other in entry.get("top_logprobs") or ()]
    return written
