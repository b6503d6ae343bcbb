"""What a caller wants of a model, in Ollama's own terms: every dialect is brought to these first.

Sources: Ollama's ``server/routes.go`` (``GenerateHandler``, ``ChatHandler``, ``EmbedHandler``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ollama_dist.core.errors import BadRequest
from ollama_dist.wire import gojson
from ollama_dist.wire.durations import keep_alive_seconds
from ollama_dist.wire.gojson import EmptyBody
from ollama_dist.wire.gotypes import Struct, decode
from ollama_dist.wire.structs import CHAT, EMBED, EMBEDDINGS, GENERATE

MAX_TOP_LOGPROBS: Final = 20

Message = Mapping[str, Any]
"""As in ``/api/chat``: role, content, and perhaps thinking, images, tool_calls, tool_name, tool_call_id."""


class BadFormat(BadRequest):
    """A ``format`` that is neither ``json`` nor a schema: Ollama finds out late and answers 500."""

    status = 500
    code = "bad_format"


@dataclass(frozen=True, slots=True)
class Terms:
    """How the answer is to be made."""

    stream: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None
    """Seconds; None: as it is."""
    format: Any = None
    """None, ``"json"`` or a JSON schema."""
    think: bool | str | None = None
    truncate: bool = True
    """Drop the oldest of a prompt that is too long, instead of refusing it."""
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    render_only: bool = False
    """Tell the prompt, do not run it."""


@dataclass(frozen=True, slots=True)
class ChatAsk:
    model: str
    messages: Sequence[Message] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    terms: Terms = Terms()
    relaxed: bool = False
    """Thinking asked of a model that cannot is passed over, not refused."""

    @property
    def is_empty(self) -> bool:
        """Nothing to answer: load, or with keep_alive 0 let go."""
        return not self.messages


@dataclass(frozen=True, slots=True)
class GenerateAsk:
    model: str
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: Sequence[int] | None = None
    raw: bool = False
    images: Sequence[str] = ()
    """Base64."""
    terms: Terms = Terms()

    @property
    def is_empty(self) -> bool:
        return not self.prompt


@dataclass(frozen=True, slots=True)
class EmbedAsk:
    model: str
    texts: Sequence[str] = ()
    dimensions: int = 0
    truncate: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None


def read_body(data: bytes, struct: Struct) -> dict[str, Any]:
    """The fields of ``struct`` in ``data``. Raises `BadRequest` in Ollama's words."""
    try:
        return decode(data, struct)
    except EmptyBody as error:
        raise BadRequest("missing request body") from error


def read_chat(data: bytes) -> ChatAsk:
    """A body of ``/api/chat``. Raises `BadRequest`."""
    fields = read_body(data, CHAT)
    return ChatAsk(
        fields.get("model", ""),
        [message or {} for message in fields.get("messages", ())],
        [tool for tool in fields.get("tools", ()) if tool],
        _terms(fields),
    )


def read_generate(data: bytes) -> GenerateAsk:
    """A body of ``/api/generate``. Raises `BadRequest`."""
    fields = read_body(data, GENERATE)
    return GenerateAsk(
        fields.get("model", ""),
        fields.get("prompt", ""),
        fields.get("suffix", ""),
        fields.get("system", ""),
        fields.get("template", ""),
        fields.get("context"),
        fields.get("raw", False),
        fields.get("images", ()),
        _terms(fields),
    )


def read_embed(data: bytes) -> EmbedAsk:
    """A body of ``/api/embed``. Raises `BadRequest`."""
    fields = read_body(data, EMBED)
    return EmbedAsk(
        fields.get("model", ""),
        embedded_texts(fields.get("input")),
        fields.get("dimensions", 0),
        fields.get("truncate", True),
        fields.get("options", {}),
        keep_alive_seconds(fields.get("keep_alive")),
    )


def read_embeddings(data: bytes) -> EmbedAsk:
    """A body of ``/api/embeddings``. Raises `BadRequest`."""
    fields = read_body(data, EMBEDDINGS)
    prompt = fields.get("prompt", "")
    return EmbedAsk(
        fields.get("model", ""),
        [prompt] if prompt else (),
        options=fields.get("options", {}),
        keep_alive=keep_alive_seconds(fields.get("keep_alive")),
    )


def embedded_texts(told: Any) -> Sequence[str]:
    """What ``input`` asks to embed. Raises `BadRequest`."""
    match told:
        case None | "":
            return ()
        case str():
            return (told,)
        case list() if all(isinstance(text, str) for text in told):
            return told
    raise BadRequest("invalid input type")


def check_format(told: Any) -> Any:
    """The ``format`` a request asks for, or None. Raises `BadFormat` in Ollama's words."""
    if told is None or told == "":
        return None
    if told == "json" or isinstance(told, dict):
        return told
    shown = gojson.encode(gojson.encode(told).decode()).decode()
    raise BadFormat(f'invalid format: {shown}; expected "json" or a valid JSON Schema object')


def _terms(fields: Mapping[str, Any]) -> Terms:
    top_logprobs = fields.get("top_logprobs", 0)
    if not 0 <= top_logprobs <= MAX_TOP_LOGPROBS:
        raise BadRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")
    return Terms(
        stream=fields.get("stream", True),
        options=fields.get("options", {}),
        keep_alive=keep_alive_seconds(fields.get("keep_alive")),
        format=fields.get("format"),
        think=fields.get("think"),
        truncate=fields.get("truncate", True),
        shift=fields.get("shift", True),
        logprobs=fields.get("logprobs", False),
        top_logprobs=top_logprobs,
        render_only=fields.get("_debug_render_only", False),
    )
