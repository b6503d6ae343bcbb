import json
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from ollama_dist.api.openapi.document import MEDIA, document, failures, operation_id
from ollama_dist.api.openapi.words import ASKED, words
from ollama_dist.api.routes import ROUTES, Route
from ollama_dist.core.scopes import Scope
from tests.support import recordings
from tests.support.described import complaints, deref, described, validator
from tests.support.fake_node import MODELS, NODES, STATUS
from tests.support.recordings import Recorded

BY_KEY = {route.key: route for route in ROUTES}
MAIN = (
    *("/", "/api/version", "/api/tags", "/api/ps", "/api/show", "/api/generate", "/api/chat", "/api/embed"),
    *("/api/embeddings", "/api/create", "/api/pull", "/api/push", "/api/copy", "/api/delete", "/v1/models"),
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"),
)


def operation(key: str) -> dict[str, Any]:
    method, path = key.split(" ")
    found: dict[str, Any] = described()["paths"][path][method.lower()]
    return found


def recorded() -> list[Any]:
    """Every recorded answer of the main routes."""
    return [
        pytest.param(exchange, id=f"{version}-{exchange.id}")
        for version in recordings.VERSIONS
        for exchange in recordings.exchanges(version)
        if exchange.path in MAIN and f"{exchange.method} {exchange.path}" in BY_KEY
    ]


def test_every_row_is_described_and_nothing_else() -> None:
    assert set(words().operations) == set(BY_KEY)


def test_the_document_is_openapi() -> None:
    assert [str(error) for error in OpenAPIV31SpecValidator(described()).iter_errors()] == []


def test_each_operation_has_a_name_of_its_own() -> None:
    assert len({operation_id(route) for route in ROUTES}) == len(ROUTES)
    assert operation("POST /api/chat")["operationId"] == "post_api_chat"
    assert operation("GET /")["operationId"] == "get_root"


def test_every_reference_leads_somewhere_and_every_component_is_referred_to() -> None:
    text = json.dumps(described())
    parts = text.split('"#/components/')[1:]
    named = {part.partition('"')[0] for part in parts}
    components = described()["components"]
    there = {f"{kind}/{name}" for kind in ("schemas", "responses", "headers") for name in components[kind]}
    assert named == there


def test_columns_of_the_table_are_all_there() -> None:
    for route in ROUTES:
        told = operation(route.key)
        assert (told["x-runs"], told["x-scope"]) == (route.where, route.scope)
        assert (told["x-idempotent"], told["x-body-limit"]) == (route.idempotent, route.body_limit)


def test_who_may_ask_follows_from_the_scope() -> None:
    assert operation("GET /api/version")["security"] == []
    assert operation("POST /api/chat")["security"] == [{}, {"clientKey": []}, {"clientKeyHeader": []}]
    assert operation("POST /admin/mode")["security"] == [{"adminToken": []}]


def test_a_row_that_takes_a_body_has_one_described() -> None:
    for route in ROUTES:
        assert ("requestBody" in operation(route.key)) == (route.body_limit != 0), route.key


def test_bodies_are_of_the_types_that_are_taken() -> None:
    def types(key: str) -> list[str]:
        return list(operation(key)["requestBody"]["content"])

    assert types("POST /api/blobs/{digest}") == ["application/octet-stream"]
    assert types("POST /v1/audio/transcriptions") == ["multipart/form-data"]
    assert types("DELETE /api/delete") == ["application/json"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.key)
def test_examples_fit_their_schemas(route: Route) -> None:
    body = operation(route.key).get("requestBody", {"content": {}})
    for media in body["content"].values():
        if "example" in media:
            validator(media["schema"]).validate(media["example"])


def test_our_own_bodies_are_those_that_are_read() -> None:
    schemas = described()["components"]["schemas"]
    for shape in ASKED:
        names = {field.alias or name for name, field in shape.model_fields.items()}
        assert set(schemas[shape.__name__]["properties"]) == names
        assert schemas[shape.__name__]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("key", "statuses"),
    [
        ("GET /healthz", [403, 500]),
        ("GET /api/tags", [403, 429, 500, 503]),
        ("POST /api/chat", [400, 403, 404, 408, 413, 429, 500, 502, 503, 504]),
        ("POST /v1/messages", [400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504]),
        ("POST /api/blobs/{digest}", [400, 403, 404, 429, 500, 502, 503]),
        ("POST /admin/mode", [400, 401, 403, 408, 413, 500]),
    ],
)
def test_how_a_row_can_fail_follows_from_its_columns(key: str, statuses: list[int]) -> None:
    assert failures(BY_KEY[key], words().operations[key]) == statuses


def test_errors_are_in_the_dialect_of_the_row() -> None:
    def shape(key: str, status: int) -> str:
        response = deref(operation(key)["responses"][str(status)])
        reference: str = response["content"][MEDIA["json"]]["schema"]["$ref"]
        return reference.rpartition("/")[2]

    assert shape("POST /api/chat", 503) == "OllamaError"
    assert shape("POST /v1/responses", 503) == "OpenAIError"
    assert shape("POST /v1/messages", 401) == "AnthropicError"
    assert shape("GET /admin/stats", 401) == "Problem"


def test_an_answer_to_head_has_no_body() -> None:
    for route in ROUTES:
        if route.method == "HEAD":
            told = [deref(each) for each in operation(route.key)["responses"].values()]
            assert not any("content" in each for each in told)


def test_scheduled_rows_tell_of_our_headers() -> None:
    told = operation("POST /api/generate")
    assert {"X-Ollama-Node", "X-Ollama-Priority"} <= {each["name"] for each in told["parameters"]}
    assert {"X-Request-ID", "X-Ollama-Node", "X-Ollama-Fallback"} <= set(told["responses"]["200"]["headers"])


def test_a_row_without_words_cannot_be_described() -> None:
    unknown = Route("GET", "/api/distributed/unknown", ROUTES[0].where, Scope.PUBLIC)
    with pytest.raises(KeyError):
        document([unknown], words(), version="1")


@pytest.mark.parametrize("exchange", recorded())
def test_what_real_servers_answered_is_as_described(exchange: Recorded) -> None:
    assert (
        complaints(exchange.method, exchange.path, exchange.status, exchange.content_type, exchange.answer)
        == []
    )


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/api/distributed/status", STATUS),
        ("/api/distributed/nodes", NODES),
        ("/api/distributed/models", MODELS),
    ],
)
def test_our_own_answers_are_as_described(path: str, answer: dict[str, Any]) -> None:
    assert complaints("GET", path, 200, MEDIA["json"], json.dumps(answer).encode()) == []
