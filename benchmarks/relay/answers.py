"""The whole answers of the fake engine: what an Ollama was recorded to say, one file per route."""

import json
from pathlib import Path
from typing import Final

from tests.support.recordings import by_id

VERSION: Final = "0.17.7"
MODEL: Final = "tiny"

RECORDED: Final = {
    "tags": "tags",
    "ps": "ps-one",
    "version": "version-get",
    "show": "show-ok",
    "embed": "embed-completion-model",
    "chat": "chat-once",
    "generate": "gen-once",
    "completion": "oai-chat",
}
"""The file the engine reads, and the exchange whose answer goes into it."""


def write_answers(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    exchanges = by_id(VERSION)
    for file, exchange in RECORDED.items():
        (folder / file).write_bytes(exchanges[exchange].answer)


def prompt(chunks: int, size: int, pace_us: int) -> str:
    """What makes the engine answer with such a stream; the percent signs become the request's number."""
    return f"bench:{chunks}:{size}:{pace_us}:%%%%%%%%"


def chat_body(text: str, *, stream: bool) -> bytes:
    """A conversation, the same for Ollama's own route and for OpenAI's."""
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": MODEL, "messages": messages, "stream": stream}).encode()


def embed_body() -> bytes:
    return json.dumps({"model": MODEL, "input": "why is the sky blue?"}).encode()
