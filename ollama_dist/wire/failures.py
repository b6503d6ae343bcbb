"""What an engine's refusal means: whose fault it is, and so whether another place may do better.

From the recorded answers of Ollama 0.5 to 0.33 and their sources (``server/routes.go``, ``server/sched.go``,
``llm/server.go``, ``llm/llama_server.go``). The status alone does not tell: a mistyped option gets a 500.
"""

import re
from typing import Final

import orjson

from ollama_dist.core.dialects import FORMS
from ollama_dist.core.outcomes import Result
from ollama_dist.wire import gojson

MAX_EXAMINED_BYTES: Final = 64 * 1024
"""No error text of any engine is longer; of a longer body the rest is not looked at."""

_Rules = tuple[tuple[re.Pattern[str], Result], ...]


def _rules(*rows: tuple[str, Result]) -> _Rules:
    return tuple((re.compile(pattern, re.IGNORECASE | re.DOTALL), result) for pattern, result in rows)


_BY_WORDS: Final = _rules(
    (r"server busy|maximum pending requests exceeded|loading model|overloaded", Result.BUSY),
    (r"requires more system memory", Result.BUSY),
    (r"^model '' not found|^model \"\" not found", Result.REJECTED),
    (r"^model (['\"]).*\1 not found|^model not found", Result.MISSING),
    (
        r"may be incompatible with your version|unsupported model|unknown model architecture",
        Result.UNSUPPORTED,
    ),
    (r"^template: .*can't evaluate field", Result.UNSUPPORTED),
    (r"does not support embeddings", Result.UNSUPPORTED),
    (r"^request canceled", Result.CANCELLED),
)
"""What is plain from the words, whatever the status. The first that matches counts."""

_CALLERS_FAULT: Final = re.compile(
    r"^option \".*\" must be of|^invalid format: |^invalid json schema|^failed to parse grammar"
    r"|^template: |^template error: |^unqualified name: |^invalid model (?:name|path)|does not support"
    r"|exceeds? the (?:available )?context|exceeds maximum context|\"code\":\s*4\d\d\b"
    r"|^json: cannot unmarshal|^illegal base64|^invalid (?:input|think)|image: unknown format",
    re.IGNORECASE | re.DOTALL,
)
"""Words that lay the fault on the request even when the status is 500 or, in a stream, 200."""


def classify(status: int, body: bytes, route: str) -> Result:
    """What an answer with ``status`` and ``body`` on ``route`` means, before anything of it was relayed.

    `Result.REJECTED` is an answer like any other and goes to the caller as it is; so do `Result.MISSING` and
    `Result.UNSUPPORTED` when no other place is left. For a 200 whose first line is an error (see
    `early_error`) pass 500. ``route`` is the upstream path.
    """
    if status < 400:
        return Result.OK
    text = error_text(body)
    if status in (404, 405) and not _is_told_by_handler(body):
        return Result.UNSUPPORTED
    for pattern, result in _BY_WORDS:
        if pattern.search(text):
            return result
    if status in (429, 529):
        return Result.BUSY
    if status == 499:
        return Result.CANCELLED
    if status == 501 and ("embed" in route or route in FORMS):
        return Result.UNSUPPORTED
    if status < 500 or (status == 500 and _CALLERS_FAULT.search(text)):
        return Result.REJECTED
    return Result.FAILED


def result_of_in_band_error(text: str) -> Result:
    """The end of an attempt whose answer, already being relayed, ended with the error ``text``."""
    return Result.REJECTED if _CALLERS_FAULT.search(text) else Result.CUT


def early_error(first: bytes) -> str:
    """The error in the ``first`` bytes of a 200 answer's body when it is nothing but one; else empty.

    Servers up to 0.11 answer a streaming request with 200 before they know whether the model will speak. The
    bytes must hold the whole first line or event.
    """
    data = first.lstrip()
    if data.startswith(b"event: error"):
        data = data.partition(b"\n")[2]
    data = data.removeprefix(b"data:").lstrip()
    if not data.startswith((b'{"error"', b'{"type":"error"', b'{"code":', b'{"type": "error"')):
        return ""
    return error_text(data.partition(b"\n")[0])


def error_text(body: bytes) -> str:
    """The message in an error body of any dialect, or the body itself as text."""
    body = body[:MAX_EXAMINED_BYTES]
    try:
        document = gojson.loads(body)
    except gojson.MalformedJson:
        return body.decode("utf-8", "replace").strip()
    if isinstance(document, dict):
        error = document.get("error")
        if isinstance(error, dict):
            error = error.get("message")
        if isinstance(error, str):
            return error
    return body.decode("utf-8", "replace").strip()


def _is_told_by_handler(body: bytes) -> bool:
    """Whether a handler wrote this and not the router: errors of handlers are JSON objects with an error."""
    try:
        document = orjson.loads(body[:MAX_EXAMINED_BYTES])
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and "error" in document and document.get("code") != "method_not_allowed"
