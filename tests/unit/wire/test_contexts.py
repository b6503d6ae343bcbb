import json

import pytest

from ollama_dist.core.contexts import ContextRule, pinned_context
from ollama_dist.core.names import parse_model_name
from ollama_dist.wire.contexts import with_context

RULES = (
    ContextRule("llama3:8b", 8192),
    ContextRule("tiny", 1024),
    ContextRule("hf.co/me/*", 512),
    ContextRule("Q*", 2048),
)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("llama3:8b", 8192),
        ("LLAMA3:8B", 8192),
        ("library/llama3:8b", 8192),
        ("llama3:70b", None),
        ("tiny", 1024),
        ("tiny:latest", 1024),
        ("tiny:other", None),
        ("hf.co/me/some:Q4_K_M", 512),
        ("qwen3:4b", 2048),
        ("me/qwen3", None),
    ],
)
def test_the_first_rule_that_matches_a_models_name_counts(name: str, tokens: int | None) -> None:
    assert pinned_context(RULES, parse_model_name(name).key) == tokens


def test_without_a_model_no_rule_counts() -> None:
    assert pinned_context([ContextRule("*", 1)], None) is None


def test_a_pinned_length_takes_the_place_of_whatever_was_asked() -> None:
    body = (
        b'{"Model":"tiny","prompt":"\\u00e9<","options":{"num_ctx":99,"temperature":0.5},"new_field":[1.0,2]}'
    )
    said = json.loads(with_context(body, 2048))
    assert said == {
        "model": "tiny",
        "prompt": "é<",
        "options": {"num_ctx": 2048, "temperature": 0.5},
        "new_field": [1, 2],
    }


@pytest.mark.parametrize("options", ["", ',"options":null', ',"options":{}'])
def test_a_request_without_options_gets_them(options: str) -> None:
    body = f'{{"model":"tiny"{options}}}'.encode()
    assert json.loads(with_context(body, 2048))["options"] == {"num_ctx": 2048}


def test_options_that_are_none_are_left_for_the_engine_to_complain_of() -> None:
    assert json.loads(with_context(b'{"options":"x"}', 2048)) == {"options": "x"}
