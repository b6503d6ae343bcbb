"""The four ways callers speak to us. Errors and ends of streams are written differently in each."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Dialect(StrEnum):
    OLLAMA = "ollama"
    OPENAI = "openai"
    RESPONSES = "responses"
    """OpenAI's ``/v1/responses``: errors as in `OPENAI`, streams as named events."""
    ANTHROPIC = "anthropic"


DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        "/api/generate": Dialect.OLLAMA,
        "/api/chat": Dialect.OLLAMA,
        "/api/embed": Dialect.OLLAMA,
        "/api/embeddings": Dialect.OLLAMA,
        "/v1/chat/completions": Dialect.OPENAI,
        "/v1/completions": Dialect.OPENAI,
        "/v1/embeddings": Dialect.OPENAI,
        "/v1/audio/transcriptions": Dialect.OPENAI,
        "/v1/responses": Dialect.RESPONSES,
        "/v1/messages": Dialect.ANTHROPIC,
    }
)
"""The inference routes and the dialect spoken on each."""

FORMS: Final = frozenset({"/v1/audio/transcriptions"})
"""Those that take a multipart form instead of JSON, and may answer with a bare text."""
