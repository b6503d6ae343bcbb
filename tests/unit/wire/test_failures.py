import json

import pytest

from ollama_dist.core.outcomes import Result
from ollama_dist.wire.failures import classify, early_error, error_text, result_of_in_band_error
from tests.support import recordings

CHAT = "/api/chat"

UNUSUAL = {
    "model 'none' not found": Result.MISSING,
    "model 'tiny:7b' not found": Result.MISSING,
    "model 'a b' not found": Result.MISSING,
    'model "none" not found, try pulling it first': Result.MISSING,
    "404 page not found": Result.UNSUPPORTED,
    "This server does not support embeddings. Start it with `--embeddings`": Result.UNSUPPORTED,
    'template: :1:53: executing "" at <.Thinking>: can\'t evaluate field Thinking in type *api.Message': (
        Result.UNSUPPORTED
    ),
}
"""Every other refusal on record is the caller's own matter, some of them with status 500."""


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_recorded_refusals_mean_what_they_meant(version: str) -> None:
    for exchange in recordings.exchanges(version):
        if recordings.is_inference(exchange) and exchange.status >= 400:
            expected = UNUSUAL.get(error_text(exchange.answer), Result.REJECTED)
            result = classify(exchange.status, exchange.answer, exchange.path)
            assert (exchange.id, result) == (exchange.id, expected)


@pytest.mark.parametrize("version", ["0.11.11", "0.33.0-rc2"])
def test_recorded_failures_mean_what_they_meant(version: str) -> None:
    expected = {404: Result.UNSUPPORTED, 500: Result.FAILED, 503: Result.BUSY}
    refused = [failure for failure in recordings.failures(version) if failure.status >= 400]
    assert {failure.status for failure in refused} >= {500, 503}
    for failure in refused:
        assert classify(failure.status, failure.tail, failure.path) is expected[failure.status]


def body(words: str) -> bytes:
    return json.dumps({"error": words}).encode()


@pytest.mark.parametrize(
    ("status", "words", "result"),
    [
        (500, "llama runner process has terminated: exit status 2", Result.FAILED),
        (
            500,
            "model runner has unexpectedly stopped, this may be due to resource limitations",
            Result.FAILED,
        ),
        (500, "timed out waiting for llama-server to start", Result.FAILED),
        (500, "model requires more system memory (9.0 GiB) than is available (3.0 GiB)", Result.BUSY),
        (
            500,
            "unable to load model: x: this model may be incompatible with your version of Ollama.",
            Result.UNSUPPORTED,
        ),
        (500, "template: :1: unclosed action", Result.REJECTED),
        (500, 'option "stop" must be of type array', Result.REJECTED),
        (503, "server busy, please try again.  maximum pending requests exceeded", Result.BUSY),
        (503, "Loading model", Result.BUSY),
        (503, "upstream connect error", Result.FAILED),
        (502, "bad gateway", Result.FAILED),
        (504, "gateway timeout", Result.FAILED),
        (429, "slow down", Result.BUSY),
        (401, "unauthorized", Result.REJECTED),
        (403, "remote inference is unavailable", Result.REJECTED),
        (413, "too large", Result.REJECTED),
        (499, "request canceled", Result.CANCELLED),
        (404, "model '' not found", Result.REJECTED),
        (404, 'model "" not found, try pulling it first', Result.REJECTED),
        (404, "model not found", Result.MISSING),
        (418, "", Result.REJECTED),
        (500, "", Result.FAILED),
    ],
)
def test_status_and_words_together_decide(status: int, words: str, result: Result) -> None:
    assert classify(status, body(words), CHAT) is result


def test_an_answer_without_fault_is_ok() -> None:
    assert classify(200, b"", CHAT) is Result.OK


def test_a_route_the_server_does_not_have_is_told_from_a_missing_model() -> None:
    assert classify(404, b"404 page not found", "/v1/responses") is Result.UNSUPPORTED
    assert classify(405, b"405 method not allowed", CHAT) is Result.UNSUPPORTED
    assert (
        classify(405, b'{"code":"method_not_allowed","error":"method not allowed"}', CHAT)
        is Result.UNSUPPORTED
    )
    assert classify(404, b'{"detail":"Not Found"}', CHAT) is Result.UNSUPPORTED


@pytest.mark.parametrize("route", ["/api/embed", "/v1/embeddings", "/v1/audio/transcriptions"])
def test_what_an_engine_has_not_is_no_fault_of_it(route: str) -> None:
    assert classify(501, body("the embedded engine has none"), route) is Result.UNSUPPORTED


def test_an_error_inside_a_stream_blames_the_place_unless_the_request_is_at_fault() -> None:
    died = "an error was encountered while running the model: unexpected EOF"
    assert result_of_in_band_error(died) is Result.CUT
    assert result_of_in_band_error('invalid format: "5"; expected "json"') is Result.REJECTED
    inner = '{"error":{"code":400,"message":"request (3005 tokens) exceeds the available context size"}}'
    assert result_of_in_band_error(inner) is Result.REJECTED


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b'{"error":"boom"}\n', "boom"),
        (b'data: {"error":{"message":"boom","type":"api_error"}}\n\n', "boom"),
        (b'event: error\ndata: {"type":"error","error":{"message":"boom"}}\n\n', "boom"),
        (b'{"model":"m","response":"{\\"error\\":1}","done":false}\n', ""),
        (b'{"status":"parsing GGUF"}\n', ""),
        (b"data: {}\n\n", ""),
        (b"", ""),
    ],
)
def test_an_answer_that_begins_with_an_error_is_known_by_its_first_bytes(first: bytes, words: str) -> None:
    assert early_error(first) == words


def test_the_words_are_found_in_every_dialect_and_in_no_dialect() -> None:
    assert error_text(b'{"type":"error","error":{"type":"x","message":"boom"},"request_id":"r"}') == "boom"
    assert error_text(b'{"error":{"message":"boom"}}\n') == "boom"
    assert error_text(b" plain words\n") == "plain words"
    assert error_text(b'{"detail":5}') == '{"detail":5}'
    assert len(error_text(b"x" * 10**6)) == 64 * 1024
