"""What dispatch has to know of a request, read from a body that itself travels on untouched.

Rules: which fields count and what an empty prompt means per route (Ollama's ``server/routes.go``), which
options make a loaded model reload (``server/sched.go``), defaults of ``stream`` per dialect.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import orjson

from ollama_dist.core.dialects import DIALECTS, FORMS, Dialect
from ollama_dist.core.ids import RequestId
from ollama_dist.core.names import InvalidModelName, ModelKey, Source, parse_model_ref
from ollama_dist.core.requests import EMBED, GENERATE, InferenceRequest, Intent, Priority, RunnerOption
from ollama_dist.wire import gojson
from ollama_dist.wire.compressed import CannotDecompress, decompress_zstd
from ollama_dist.wire.durations import is_zero
from ollama_dist.wire.forms import MalformedForm, read_form

RUNNER_OPTIONS: Final = (
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    "draft_num_predict",
)
"""Options whose change reloads the model; ``shift``, a field of its own, is the eighth."""

_RUNNER_FIELDS: Final = frozenset({"options", "shift"})
"""Where these are said."""

HOLDING_FIELDS: Final = frozenset({"tools", "format", "response_format", "text"})
"""Fields that may make an engine hold text back until a tool call or a document is whole."""

FORM_FIELDS: Final = ("model", "prompt", "language")
"""What counts of a form."""

MAX_NAME_LENGTH: Final = 1024
"""No model name with all its parts, a scheme and a suffix is as long (host 350, other parts 80)."""

BYTES_PER_CONTEXT_TOKEN: Final = 4
"""What one token of a ``context`` list counts as text: the usual length of a token in English."""


NOBODYS: Final = RequestId("")
"""The id of what is only looked at."""


def inspect(
    route: str,
    body: bytes,
    *,
    encoding: str | None = None,
    content_type: str = "",
    request_id: RequestId = NOBODYS,
    pin: str | None = None,
    priority: Priority = Priority.NORMAL,
) -> InferenceRequest:
    """Read ``body`` as the engine behind ``route`` (a key of `DIALECTS`) will.

    ``encoding`` is the request's Content-Encoding: zstd is understood on ``/v1``, as Ollama does on
    ``/v1/responses``. ``content_type`` counts on the routes that take a form: it has the boundary. Fields of
    a wrong type count as absent (the engine refuses them), but without a readable model there is only a
    complaint. ``request_id``, ``pin`` and ``priority`` are what is known of the request besides.
    """
    dialect = DIALECTS[route]
    try:
        if encoding and encoding.lower() != "identity":
            if encoding.lower() != "zstd" or dialect is Dialect.OLLAMA or route in FORMS:
                raise CannotDecompress(f"{route} takes no body encoded as {encoding[:40]!r}")
            body = decompress_zstd(body)
        fields = read_form(content_type, body, FORM_FIELDS) if route in FORMS else gojson.read_object(body)
        text = fields.get("model")
        if text is None:
            text = ""
        elif type(text) is not str:
            raise gojson.MalformedJson("model must be a string")
    except (gojson.MalformedJson, CannotDecompress, MalformedForm) as error:
        return InferenceRequest(
            request_id,
            route,
            dialect,
            "",
            None,
            Intent.GENERATE,
            False,
            pin=pin,
            priority=priority,
            complaint=str(error),
        )
    if len(text) <= MAX_NAME_LENGTH:
        text, key, local_only = _model(text)
    else:
        key, local_only = None, False
    intent, stream, prompt_bytes, max_tokens = _READERS[route](fields)
    return InferenceRequest(
        request_id,
        route,
        dialect,
        text,
        key,
        intent,
        stream,
        () if _RUNNER_FIELDS.isdisjoint(fields) else _runner_options(dialect, fields),
        prompt_bytes,
        max_tokens,
        not HOLDING_FIELDS.isdisjoint(fields) and any(map(fields.get, HOLDING_FIELDS)),
        pin,
        priority,
        local_only,
    )


@lru_cache(maxsize=512)
def _model(text: str) -> tuple[str, ModelKey | None, bool]:
    """``text``, its key, and whether its suffix is this node's own engine's to read.

    The same few names come again and again, and are kept in records.
    """
    try:
        name, source = parse_model_ref(text)
    except InvalidModelName:
        return text, None, False
    return text, name.key, source is not Source.ANY


# One reader per route


_Found = tuple[Intent, bool, int, int | None]
"""What is wanted, whether as a stream, how many bytes of text are to be read, and a bound of the answer."""


def _generate(fields: dict[str, Any]) -> _Found:
    text = sum(_weight(fields.get(name)) for name in ("prompt", "system", "suffix", "template"))
    context = fields.get("context")
    if isinstance(context, list):
        text += BYTES_PER_CONTEXT_TOKEN * len(context)
    intent = GENERATE if fields.get("prompt") else _load_or_unload(fields)
    return intent, fields.get("stream") is not False, text, _num_predict(fields)


def _chat(fields: dict[str, Any]) -> _Found:
    messages = fields.get("messages")
    intent = GENERATE if messages else _load_or_unload(fields)
    text = _weight(messages)
    if tools := fields.get("tools"):
        text += _printed_size(tools)
    tokens = _num_predict(fields) if "options" in fields else None
    return intent, fields.get("stream") is not False, text, tokens


def _embed(fields: dict[str, Any]) -> _Found:
    texts = fields.get("input")
    return EMBED if texts else Intent.LOAD, False, _weight(texts), None


def _embeddings(fields: dict[str, Any]) -> _Found:
    prompt = fields.get("prompt")
    return EMBED if prompt else Intent.LOAD, False, _weight(prompt), None


def _openai_chat(fields: dict[str, Any]) -> _Found:
    text = _weight(fields.get("messages")) + _printed_size(fields.get("tools"))
    return GENERATE, fields.get("stream") is True, text, _positive(fields.get("max_tokens"))


def _openai_completion(fields: dict[str, Any]) -> _Found:
    text = _weight(fields.get("prompt")) + _weight(fields.get("suffix"))
    return GENERATE, fields.get("stream") is True, text, _positive(fields.get("max_tokens"))


def _openai_embeddings(fields: dict[str, Any]) -> _Found:
    return EMBED, False, _weight(fields.get("input")), None


def _responses(fields: dict[str, Any]) -> _Found:
    text = _weight(fields.get("input")) + _weight(fields.get("instructions"))
    text += _printed_size(fields.get("tools"))
    bound = _positive(fields.get("max_output_tokens"))
    return GENERATE, fields.get("stream") is True, text, bound


def _messages(fields: dict[str, Any]) -> _Found:
    text = _weight(fields.get("messages")) + _weight(fields.get("system"))
    text += _printed_size(fields.get("tools"))
    return GENERATE, fields.get("stream") is True, text, _positive(fields.get("max_tokens"))


def _transcription(fields: dict[str, Any]) -> _Found:
    return GENERATE, False, _weight(fields.get("prompt")) + _weight(fields.get("language")), None


_READERS: Final[Mapping[str, Callable[[dict[str, Any]], _Found]]] = MappingProxyType(
    {
        "/api/generate": _generate,
        "/api/chat": _chat,
        "/api/embed": _embed,
        "/api/embeddings": _embeddings,
        "/v1/chat/completions": _openai_chat,
        "/v1/completions": _openai_completion,
        "/v1/embeddings": _openai_embeddings,
        "/v1/audio/transcriptions": _transcription,
        "/v1/responses": _responses,
        "/v1/messages": _messages,
    }
)


# What the fields say


def _load_or_unload(fields: dict[str, Any]) -> Intent:
    return Intent.UNLOAD if is_zero(fields.get("keep_alive")) else Intent.LOAD


def _runner_options(dialect: Dialect, fields: dict[str, Any]) -> tuple[RunnerOption, ...]:
    if dialect is not Dialect.OLLAMA:
        return ()
    options = fields.get("options")
    found = []
    if isinstance(options, dict):
        for name in RUNNER_OPTIONS:
            value = options.get(name)
            if isinstance(value, float):
                value = int(value)
            if isinstance(value, int) and not (name == "num_gpu" and value < 0):
                found.append(RunnerOption(name, value))
    shift = fields.get("shift")
    if isinstance(shift, bool):
        found.append(RunnerOption("shift", shift))
    return tuple(found)


def _num_predict(fields: dict[str, Any]) -> int | None:
    options = fields.get("options")
    return _positive(options.get("num_predict")) if isinstance(options, dict) else None


def _positive(value: Any) -> int | None:
    """A bound above zero; zero and less mean no bound."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 1:
        return int(value)
    return None


_TEXT_FIELDS: Final = frozenset(("content", "text", "thinking", "reasoning", "output", "arguments"))
_MAX_DEPTH: Final = 6
"""Text lies at most this deep: messages, message, parts, part, result parts, part."""


def _weight(value: Any, depth: int = _MAX_DEPTH) -> int:
    """Bytes of the text in ``value``: messages, content parts and plain strings; pictures count nothing."""
    if type(value) is str:
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    total = 0
    if type(value) is list and depth:
        for item in value:
            is_plain = type(item) is dict and len(item) == 2 and "role" in item
            if is_plain and type(content := item.get("content")) is str and content.isascii():
                total += len(content)  # as nearly all messages are
            else:
                total += _weight(item, depth - 1)
    elif type(value) is dict and depth:
        for name, inner in value.items():
            if name in _TEXT_FIELDS:
                total += _weight(inner, depth - 1)
            elif name == "tool_calls":
                total += _printed_size(inner)
    return total


def _printed_size(value: Any) -> int:
    """Bytes of ``value`` printed as JSON, which is about how templates put tools into the prompt."""
    if not value:
        return 0
    try:
        return len(orjson.dumps(value))
    except TypeError:  # nested too deep to print
        return 0
