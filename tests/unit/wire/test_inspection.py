import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.dialects import DIALECTS, FORMS, Dialect
from ollama_dist.core.ids import RequestId
from ollama_dist.core.names import model_key
from ollama_dist.core.requests import InferenceRequest, Intent, Priority, RunnerOption
from ollama_dist.wire.inspection import BYTES_PER_CONTEXT_TOKEN, inspect
from tests.support import recordings

if sys.version_info >= (3, 14):
    from compression.zstd import compress
else:
    from backports.zstd import compress


def read(route: str, body: Any) -> InferenceRequest:
    return inspect(route, json.dumps(body).encode())


def test_the_model_is_read_as_text_and_as_key() -> None:
    found = read("/api/chat", {"model": "Tiny", "messages": [{"role": "user", "content": "hi"}]})
    assert found.model_text == "Tiny"
    assert found.model == "registry.ollama.ai/library/tiny:latest"
    assert not found.local_only


@pytest.mark.parametrize(
    "body", [{}, {"model": ""}, {"model": None}, {"model": "a b"}, {"model": "x" * 5000}]
)
def test_no_name_and_no_valid_name_leave_no_key_but_are_readable(body: dict[str, Any]) -> None:
    found = read("/api/generate", body)
    assert found.model is None
    assert found.is_readable
    assert found.model_text == (body.get("model") or "")


def test_a_source_suffix_is_taken_off_the_key_and_makes_the_request_local() -> None:
    found = read("/api/chat", {"model": "tiny:cloud"})
    assert found.local_only
    assert found.model == model_key("tiny")


@pytest.mark.parametrize(
    ("route", "body", "intent"),
    [
        ("/api/generate", {"prompt": "x"}, Intent.GENERATE),
        ("/api/generate", {"prompt": "x", "keep_alive": 0}, Intent.GENERATE),
        ("/api/generate", {}, Intent.LOAD),
        ("/api/generate", {"prompt": ""}, Intent.LOAD),
        ("/api/generate", {"prompt": None, "keep_alive": "5m"}, Intent.LOAD),
        ("/api/generate", {"keep_alive": "5"}, Intent.LOAD),
        ("/api/generate", {"keep_alive": -1}, Intent.LOAD),
        ("/api/generate", {"images": ["aGk="]}, Intent.LOAD),
        ("/api/generate", {"keep_alive": 0}, Intent.UNLOAD),
        ("/api/generate", {"keep_alive": 0.0}, Intent.UNLOAD),
        ("/api/generate", {"keep_alive": "0"}, Intent.UNLOAD),
        ("/api/generate", {"prompt": "", "keep_alive": "0s"}, Intent.UNLOAD),
        ("/api/generate", {"Prompt": "x", "KEEP_ALIVE": 0}, Intent.GENERATE),
        ("/api/chat", {"messages": [{"role": "user", "content": ""}]}, Intent.GENERATE),
        ("/api/chat", {}, Intent.LOAD),
        ("/api/chat", {"messages": []}, Intent.LOAD),
        ("/api/chat", {"messages": [], "keep_alive": "0m"}, Intent.UNLOAD),
        ("/api/embed", {"input": "x"}, Intent.EMBED),
        ("/api/embed", {"input": [""]}, Intent.EMBED),
        ("/api/embed", {"input": []}, Intent.LOAD),
        ("/api/embed", {"keep_alive": 0}, Intent.LOAD),
        ("/api/embeddings", {"prompt": "x"}, Intent.EMBED),
        ("/api/embeddings", {}, Intent.LOAD),
        ("/v1/chat/completions", {"messages": []}, Intent.GENERATE),
        ("/v1/completions", {}, Intent.GENERATE),
        ("/v1/embeddings", {"input": ""}, Intent.EMBED),
        ("/v1/responses", {"input": "x"}, Intent.GENERATE),
        ("/v1/messages", {"messages": []}, Intent.GENERATE),
    ],
)
def test_what_the_caller_wants_done(route: str, body: dict[str, Any], intent: Intent) -> None:
    assert read(route, {"model": "tiny", **body}).intent is intent


@pytest.mark.parametrize("route", sorted(DIALECTS))
def test_streaming_is_the_default_only_where_ollama_speaks(route: str) -> None:
    streams_by_default = route in ("/api/generate", "/api/chat")
    assert read(route, {"model": "m"}).stream is streams_by_default
    assert read(route, {"model": "m", "stream": None}).stream is streams_by_default
    assert read(route, {"model": "m", "stream": False}).stream is False
    assert read(route, {"model": "m", "stream": True}).stream is ("embed" not in route and route not in FORMS)


def test_options_that_reload_the_model_are_found_and_others_are_not() -> None:
    options = {
        "num_ctx": 8192.0,
        "num_gpu": -1,
        "use_mmap": False,
        "temperature": 0,
        "num_thread": "x",
        "NUM_BATCH": 1,
    }
    found = read("/api/generate", {"model": "m", "options": options, "shift": False})
    assert found.runner_options == (
        RunnerOption("num_ctx", 8192),
        RunnerOption("use_mmap", False),
        RunnerOption("shift", False),
    )


@pytest.mark.parametrize("options", [None, [], "x", 5, {}])
def test_options_of_any_other_type_reload_nothing(options: Any) -> None:
    assert read("/api/chat", {"model": "m", "options": options}).runner_options == ()


@pytest.mark.parametrize(
    ("route", "body", "size"),
    [
        ("/api/generate", {"prompt": "abc", "system": "de", "suffix": "f", "template": "gh"}, 8),
        ("/api/generate", {"prompt": "é🦙"}, 6),
        ("/api/generate", {"prompt": "a", "context": [1, 2, 3]}, 1 + 3 * BYTES_PER_CONTEXT_TOKEN),
        ("/api/generate", {"prompt": "a", "images": ["QUJD" * 1000]}, 1),
        ("/api/chat", {"messages": [{"role": "system", "content": "ab"}, {"content": "cé"}]}, 5),
        ("/api/chat", {"messages": [{"content": "a", "thinking": "bc", "images": ["QUJD"]}]}, 3),
        ("/api/chat", {"messages": [{"content": "", "tool_calls": [{"function": {}}]}]}, 17),
        ("/api/chat", {"messages": [{"content": "a"}], "tools": [{"type": "function"}]}, 22),
        ("/api/embed", {"input": ["ab", "cde"]}, 5),
        ("/api/embeddings", {"prompt": "ab"}, 2),
        ("/v1/embeddings", {"input": "abc"}, 3),
        ("/v1/completions", {"prompt": "abc", "suffix": "d"}, 4),
        (
            "/v1/chat/completions",
            {
                "messages": [
                    {
                        "content": [
                            {"type": "text", "text": "ab"},
                            {"type": "image_url", "image_url": {"url": "data:x"}},
                        ]
                    }
                ]
            },
            2,
        ),
        ("/v1/responses", {"instructions": "a", "input": "bc"}, 3),
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "ab"}]}]},
            2,
        ),
        (
            "/v1/messages",
            {
                "system": [{"type": "text", "text": "ab"}],
                "messages": [
                    {"content": [{"type": "tool_result", "content": [{"type": "text", "text": "cde"}]}]}
                ],
            },
            5,
        ),
        ("/api/chat", {"messages": {"a": 1}}, 0),
        ("/api/chat", {"messages": [5, None, "x"]}, 1),
    ],
)
def test_the_text_the_engine_has_to_read_is_measured(route: str, body: dict[str, Any], size: int) -> None:
    assert read(route, {"model": "m", **body}).prompt_bytes == size


@pytest.mark.parametrize(
    ("route", "body", "bound"),
    [
        ("/api/generate", {"options": {"num_predict": 12}}, 12),
        ("/api/chat", {"options": {"num_predict": -1}}, None),
        ("/api/chat", {"options": {"num_predict": 0}}, None),
        ("/v1/chat/completions", {"max_tokens": 5}, 5),
        ("/v1/chat/completions", {"max_completion_tokens": 5}, None),
        ("/v1/completions", {"max_tokens": True}, None),
        ("/v1/responses", {"max_output_tokens": 6}, 6),
        ("/v1/messages", {"max_tokens": 7}, 7),
        ("/v1/messages", {"max_tokens": "many"}, None),
    ],
)
def test_the_callers_own_bound_is_found(route: str, body: dict[str, Any], bound: int | None) -> None:
    assert read(route, {"model": "m", **body}).max_tokens == bound


@pytest.mark.parametrize("body", [b"", b"  ", b"{", b"[]", b'"x"', b"nope", b'{"model":5}', b'{"model":[]}'])
def test_what_cannot_be_read_is_a_complaint_and_no_exception(body: bytes) -> None:
    found = inspect("/api/chat", body)
    assert not found.is_readable
    assert found.model is None
    assert found.model_text == ""


def test_a_request_carries_everything_that_was_read() -> None:
    body = {"model": "tiny", "prompt": "hello", "options": {"num_ctx": 512, "num_predict": 3}}
    request = inspect(
        "/api/generate",
        json.dumps(body).encode(),
        request_id=RequestId("a" * 24),
        pin="desk",
        priority=Priority.BATCH,
    )
    assert request.id == "a" * 24
    assert request.route == "/api/generate"
    assert request.dialect is Dialect.OLLAMA
    assert request.model == model_key("tiny")
    assert request.intent is Intent.GENERATE
    assert request.stream
    assert request.runner_options == (RunnerOption("num_ctx", 512),)
    assert (request.prompt_bytes, request.max_tokens) == (5, 3)
    assert (request.pin, request.priority, request.local_only) == ("desk", Priority.BATCH, False)


def test_zstd_is_read_on_the_routes_of_other_dialects() -> None:
    body = json.dumps({"model": "tiny", "input": "hello"}).encode()
    assert inspect("/v1/responses", compress(body), encoding="zstd").model == model_key("tiny")
    assert inspect("/v1/responses", body, encoding="identity").model == model_key("tiny")
    assert not inspect("/api/chat", compress(body), encoding="zstd").is_readable
    assert not inspect("/v1/responses", body, encoding="gzip").is_readable
    assert not inspect("/v1/responses", body, encoding="zstd").is_readable


REFUSED_FOR_THEIR_FORM = {"gen-no-body", "gen-bad-json", "gen-array", "chat-no-body", "chat-bad-json"} | {
    "embed-no-body",
    "embed-bad-json",
    "oai-completions-no-body",
    "ant-bad-json",
    "ant-no-body",
}


def test_recorded_requests_are_read_as_the_real_server_took_them() -> None:
    for exchange in recordings.exchanges("0.33.0-rc2"):
        if not recordings.is_inference(exchange) or exchange.id == "gen-chunked-body":
            continue
        found = inspect(exchange.path, exchange.body)
        assert (exchange.id, found.is_readable) == (exchange.id, exchange.id not in REFUSED_FOR_THEIR_FORM)
        if exchange.status == 200:
            assert found.model is not None
            reasons = {"load": Intent.LOAD, "unload": Intent.UNLOAD}
            answered = json.loads(exchange.answer) if not exchange.is_stream else {}
            expected = reasons.get(answered.get("done_reason", ""), found.intent)
            assert (exchange.id, found.intent) == (exchange.id, expected)
            if found.intent in (Intent.GENERATE, Intent.EMBED) and "_debug_info" not in answered:
                assert (exchange.id, found.stream) == (exchange.id, exchange.is_stream)


@given(st.binary(max_size=60) | st.text('{}[]":,modeltrun 15', max_size=40).map(str.encode))
def test_no_body_makes_it_fail(body: bytes) -> None:
    for route, dialect in DIALECTS.items():
        assert inspect(route, body).dialect is dialect


@pytest.mark.parametrize(
    ("route", "more", "expected"),
    [
        ("/api/chat", {}, False),
        ("/api/chat", {"tools": []}, False),
        ("/api/chat", {"tools": [{"type": "function", "function": {"name": "now"}}]}, True),
        ("/api/generate", {"format": "json"}, True),
        ("/v1/chat/completions", {"response_format": {"type": "json_object"}}, True),
        ("/v1/responses", {"text": {"format": {"type": "json_schema"}}}, True),
        ("/v1/messages", {"tools": [{"name": "now"}]}, True),
    ],
)
def test_what_makes_an_engine_hold_text_back_is_noticed(
    route: str, more: dict[str, Any], expected: bool
) -> None:
    found = read(route, {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **more})
    assert found.gathers is expected


def test_a_form_is_read_with_the_boundary_in_its_type() -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nTiny\r\n'
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nnames\r\n'
        b'--b\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n'
        b'--b\r\nContent-Disposition: form-data; name="response_format"\r\n\r\ntext\r\n--b--\r\n'
    )
    content_type = "multipart/form-data; boundary=b"
    [route] = FORMS
    found = inspect(route, body, content_type=content_type)
    assert (found.model_text, found.model, found.intent) == ("Tiny", model_key("tiny"), Intent.GENERATE)
    assert (found.prompt_bytes, found.stream, found.gathers, found.complaint) == (5, False, False, "")
    assert not inspect(route, body).is_readable
    assert not inspect(route, b'{"model": "tiny"}', content_type="application/json").is_readable
    assert not inspect(route, compress(body), encoding="zstd", content_type=content_type).is_readable
