"""Answers of Ollama's own routes. Source: Ollama's ``api/types.go``, the order of fields included."""

from collections.abc import Sequence
from typing import Any, Final

from ollama_dist.core.dialects import Dialect
from ollama_dist.wire import gojson
from ollama_dist.wire.llamacpp.pieces import Finish, Piece, ToolCall
from ollama_dist.wire.llamacpp.vectors import Vector, printed
from ollama_dist.wire.llamacpp.writer import JSON_UTF8, timestamp

NDJSON: Final = "application/x-ndjson"

Fields = dict[str, Any]


class ChatWriter:
    """``/api/chat``."""

    dialect = Dialect.OLLAMA
    stream_type = NDJSON
    whole_type = JSON_UTF8

    def __init__(self, model: str) -> None:
        self._model = model

    def piece(self, piece: Piece, at: float, /) -> bytes:
        line = self._head(piece, at) | {"done": False}
        if piece.logprobs:
            line["logprobs"] = piece.logprobs
        return gojson.encode_line(line)

    def finish(self, finish: Finish, at: float, /) -> bytes:
        return gojson.encode_line(self._end(Piece(), finish, at))

    def whole(self, answer: Piece, finish: Finish, at: float, /) -> bytes:
        return gojson.encode(self._end(answer, finish, at))

    def rendered(self, prompt: str, at: float) -> bytes:
        """What a request for the prompt alone gets."""
        message = {"role": "", "content": ""}
        head = {"model": self._model, "created_at": timestamp(at), "message": message, "done": False}
        return gojson.encode(head | {"_debug_info": {"rendered_template": prompt}})

    def _head(self, piece: Piece, at: float) -> Fields:
        message: Fields = {"role": "assistant", "content": piece.text}
        if piece.thinking:
            message["thinking"] = piece.thinking
        if piece.tool_calls:
            message["tool_calls"] = [_call(call) for call in piece.tool_calls]
        return {"model": self._model, "created_at": timestamp(at), "message": message}

    def _end(self, answer: Piece, finish: Finish, at: float) -> Fields:
        line = self._head(answer, at) | {"done": True, "done_reason": finish.reason}
        if answer.logprobs:
            line["logprobs"] = answer.logprobs
        return line | _metrics(finish)


class GenerateWriter:
    """``/api/generate``."""

    dialect = Dialect.OLLAMA
    stream_type = NDJSON
    whole_type = JSON_UTF8

    def __init__(self, model: str) -> None:
        self._model = model

    def piece(self, piece: Piece, at: float, /) -> bytes:
        line = self._head(piece, at) | {"done": False}
        if piece.logprobs:
            line["logprobs"] = piece.logprobs
        return gojson.encode_line(line)

    def finish(self, finish: Finish, at: float, /) -> bytes:
        return gojson.encode_line(self._end(Piece(), finish, at))

    def whole(self, answer: Piece, finish: Finish, at: float, /) -> bytes:
        return gojson.encode(self._end(answer, finish, at))

    def rendered(self, prompt: str, at: float) -> bytes:
        """What a request for the prompt alone gets."""
        head = {"model": self._model, "created_at": timestamp(at), "response": "", "done": False}
        return gojson.encode(head | {"_debug_info": {"rendered_template": prompt}})

    def _head(self, piece: Piece, at: float) -> Fields:
        line: Fields = {"model": self._model, "created_at": timestamp(at), "response": piece.text}
        if piece.thinking:
            line["thinking"] = piece.thinking
        return line

    def _end(self, answer: Piece, finish: Finish, at: float) -> Fields:
        line = self._head(answer, at) | {"done": True, "done_reason": finish.reason}
        if finish.context is not None:
            line["context"] = finish.context
        line |= _metrics(finish)
        if answer.logprobs:
            line["logprobs"] = answer.logprobs
        return line


def embed_body(model: str, vectors: Sequence[Vector], *, total_ns: int, load_ns: int, tokens: int) -> bytes:
    """The answer of ``/api/embed``."""
    counts = {"total_duration": total_ns, "load_duration": load_ns, "prompt_eval_count": tokens}
    told = {name: count for name, count in counts.items() if count}
    return gojson.encode({"model": model, "embeddings": [printed(vector) for vector in vectors]} | told)


def embeddings_body(vector: Vector) -> bytes:
    """The answer of ``/api/embeddings``."""
    return gojson.encode({"embedding": printed(vector)})


def _call(call: ToolCall) -> Fields:
    function = {"index": call.index, "name": call.name, "arguments": call.arguments}
    return {"id": call.id, "function": function}


def _metrics(finish: Finish) -> Fields:
    told = {
        "total_duration": finish.total_ns,
        "load_duration": finish.load_ns,
        "prompt_eval_count": finish.prompt_tokens,
        "prompt_eval_duration": finish.prompt_ns,
        "eval_count": finish.output_tokens,
        "eval_duration": finish.output_ns,
    }
    return {name: count for name, count in told.items() if count}
