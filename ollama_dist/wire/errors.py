"""Errors in the caller's own dialect, as bodies and inside a stream that has begun.

Shapes: Ollama's ``server/routes.go``, ``openai/openai.go`` and ``anthropic/anthropic.go`` (``NewError``).
Inside streams Ollama has none for ``/v1``; there the shapes are those clients raise on (``_streaming.py``
of the openai and anthropic packages).
"""

from typing import Any, Final

from ollama_dist.core.dialects import Dialect
from ollama_dist.wire import gojson

JSON_TYPE: Final = "application/json; charset=utf-8"

_OPENAI_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def error_body(
    dialect: Dialect, status: int, message: str, *, code: str | None = None, request_id: str | None = None
) -> tuple[str, bytes]:
    """The content type and body that tell ``message`` with ``status``.

    ``code`` is a name for programs; Ollama itself tells none, so leave it out where an answer has to be
    Ollama's to the byte. ``request_id`` is shown where the dialect has a place for it.
    """
    return JSON_TYPE, gojson.encode(_error(dialect, status, message, code, request_id))


def stream_error(
    dialect: Dialect,
    message: str,
    *,
    status: int = 500,
    code: str | None = None,
    request_id: str | None = None,
    mid_record: bool = False,
) -> bytes:
    """What to send in a stream that has begun, so that the dialect's clients raise; nothing may follow it.

    ``mid_record`` is whether the bytes sent so far stop inside a line or an event
    (`ollama_dist.wire.ends.EndWatch.is_mid_record`): that one is then ended first, and a client
    raises on it instead.
    """
    error = _error(dialect, status, message, code, request_id)
    match dialect:
        case Dialect.OLLAMA:
            return b"\n" * mid_record + gojson.encode_line(error)
        case Dialect.OPENAI:
            event = b"data: %b\n\n" % gojson.encode(error)
        case Dialect.RESPONSES:
            event = b"event: error\ndata: %b\n\n" % gojson.encode(_responses_event(error))
        case _:
            event = b"event: error\ndata: %b\n\n" % gojson.encode(error)
    return b"\n\n" * mid_record + event


def _error(
    dialect: Dialect, status: int, message: str, code: str | None, request_id: str | None
) -> dict[str, Any]:
    match dialect:
        case Dialect.OLLAMA:
            return {"error": message} if code is None else {"error": message, "code": code}
        case Dialect.ANTHROPIC:
            kind = _ANTHROPIC_TYPES.get(status, "api_error")
            error = {"type": "error", "error": {"type": kind, "message": message}}
            return error if request_id is None else {**error, "request_id": f"req_{request_id}"}
    kind = _OPENAI_TYPES.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _responses_event(error: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's ``error`` event, and beside it the ``error`` object: it is on this that its client raises."""
    inner = error["error"]
    return {
        "type": "error",
        "code": inner["code"] or inner["type"],
        "message": inner["message"],
        "param": None,
    } | error
