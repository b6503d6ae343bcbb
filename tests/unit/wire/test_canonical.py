from dataclasses import replace
from typing import Any

import pytest

from ollama_dist.core.dialects import Dialect
from ollama_dist.core.requests import Intent
from ollama_dist.wire.canonical import canonical
from tests.support.views import request

CHAT = request()
OPENAI = replace(CHAT, dialect=Dialect.OPENAI, route="/v1/chat/completions")


def test_spelling_does_not_matter() -> None:
    one = b'{"model":"tiny","prompt":"a","options":{"seed":1,"top_k":2}}'
    other = b' {"Prompt": "\\u0061", "options": {"top_k":2, "seed":1}, "model":"tiny", "keep_alive": "9m"} '
    assert canonical(CHAT, one) == canonical(CHAT, other) != None  # noqa: E711


@pytest.mark.parametrize("change", [{"prompt": "b"}, {"stream": False}, {"format": "json"}, {"model": "x"}])
def test_what_is_said_does(change: dict[str, Any]) -> None:
    import json

    said = {"model": "tiny", "prompt": "a", "options": {"seed": 1}}
    assert canonical(CHAT, json.dumps(said).encode()) != canonical(CHAT, json.dumps(said | change).encode())


@pytest.mark.parametrize(
    ("options", "settled"),
    [
        ('{"temperature":0}', True),
        ('{"temperature":0.0}', True),
        ('{"seed":42}', True),
        ('{"seed":-1}', False),
        ('{"temperature":0.1}', False),
        ('{"temperature":false}', False),
        ("{}", False),
        ("null", False),
        ("[]", False),
    ],
)
def test_only_what_temperature_or_seed_settle_is_settled(options: str, settled: bool) -> None:
    assert (canonical(CHAT, b'{"options":%b}' % options.encode()) is not None) is settled


def test_openai_says_it_on_top() -> None:
    assert canonical(OPENAI, b'{"temperature":0}') is not None
    assert canonical(OPENAI, b'{"options":{"temperature":0}}') is None


def test_an_embedding_is_always_settled_and_a_load_never() -> None:
    assert canonical(replace(CHAT, intent=Intent.EMBED), b'{"input":"a"}') is not None
    assert canonical(replace(CHAT, intent=Intent.LOAD), b'{"options":{"seed":1}}') is None


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"options":{"seed":1}', b'{"seed":' + b"[" * 400 + b"]" * 400 + b"}"]
)
def test_what_cannot_be_read_is_not_settled(body: bytes) -> None:
    assert canonical(CHAT, body) is None
