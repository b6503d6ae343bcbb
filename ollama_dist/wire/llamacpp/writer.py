"""What every dialect's writer does: an answer piece by piece or whole, and the refusal that comes instead."""

from datetime import UTC, datetime
from typing import Any, Final, Protocol

from ollama_dist.core.dialects import Dialect
from ollama_dist.wire import gojson
from ollama_dist.wire.errors import error_body
from ollama_dist.wire.llamacpp.pieces import Finish, Piece, ToolCall

JSON: Final = "application/json"
JSON_UTF8: Final = "application/json; charset=utf-8"
EVENTS: Final = "text/event-stream"


class Writer(Protocol):
    """Writes one answer. ``at`` is the time now, Unix seconds."""

    dialect: Dialect
    stream_type: str
    """The content type of a stream."""
    whole_type: str
    """The content type of an answer in one piece."""

    def piece(self, piece: Piece, at: float, /) -> bytes:
        """The next bytes of the stream."""
        ...

    def finish(self, finish: Finish, at: float, /) -> bytes:
        """The last bytes of the stream, its end marker among them."""
        ...

    def whole(self, answer: Piece, finish: Finish, at: float, /) -> bytes:
        """The answer in one piece."""
        ...


def refusal(dialect: Dialect, status: int, message: str, *, request_id: str, late: bool) -> tuple[str, bytes]:
    """Content type and body of an error. ``late``: the request was understood, but could not be served.

    Ollama prints those of its ``/v1`` routes with a line end and another content type.
    """
    content_type, body = error_body(dialect, status, message, request_id=request_id)
    if late and dialect is not Dialect.OLLAMA:
        return JSON, body + b"\n"
    return content_type, body


def timestamp(at: float) -> str:
    """RFC 3339 in UTC, as Go prints it."""
    return datetime.fromtimestamp(at, UTC).isoformat().removesuffix("+00:00") + "Z"


def event(data: Any, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n" if name else ""
    return head.encode() + b"data: " + gojson.encode(data) + b"\n\n"


def arguments_text(call: ToolCall) -> str:
    """The arguments of a call as JSON text, which is how OpenAI's dialects carry them."""
    return gojson.encode(call.arguments).decode()
