"""The four ways callers speak to us. Errors and ends of streams are written differently in each."""

from enum import StrEnum


class Dialect(StrEnum):
    OLLAMA = "ollama"
    OPENAI = "openai"
    RESPONSES = "responses"
    """OpenAI's ``/v1/responses``: errors as in `OPENAI`, streams as named events."""
    ANTHROPIC = "anthropic"
