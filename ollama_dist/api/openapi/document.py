"""The OpenAPI document: one operation for each row of the route table. Pure.

A row says who may ask, who answers and how large a body may be, and from these follow the key an operation
needs, its headers and the ways it can fail. `Words` says what it is for and what its bodies look like.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from ollama_dist.api.openapi.words import Json, Words
from ollama_dist.api.routes import Route, Where
from ollama_dist.core.dialects import Dialect
from ollama_dist.core.scopes import Scope

OPENAPI: Final = "3.1.0"

MEDIA: Final = {
    "json": "application/json",
    "lines": "application/x-ndjson",
    "events": "text/event-stream",
    "text": "text/plain",
    "html": "text/html",
    "javascript": "text/javascript",
    "css": "text/css",
}
"""The content types of answers by what the words call them."""

_TAGS: Final = {
    Dialect.OLLAMA: "Ollama",
    Dialect.OPENAI: "OpenAI",
    Dialect.RESPONSES: "OpenAI",
    Dialect.ANTHROPIC: "Anthropic",
}
_FAILS_AT: Final[dict[Where, tuple[int, ...]]] = {
    Where.HERE: (),
    Where.UNION: (503,),
    Where.HOLDER: (404, 502, 503),
    Where.SOURCE: (404, 502, 503, 504),
    Where.HOLDERS: (404, 502, 503),
    Where.ENTRY: (404, 502, 503),
    Where.PULL: (404, 502, 503, 504),
    Where.SCHEDULED: (404, 502, 503, 504),
}
"""How an answer can fail, by who gives it."""

_ALWAYS_SENT: Final = ("X-Request-ID", "X-Ollama-Distributed", "X-Ollama-Mode")
_SENT_FROM: Final[dict[Where, tuple[str, ...]]] = {
    Where.HOLDER: ("X-Ollama-Node",),
    Where.SOURCE: ("X-Ollama-Node",),
    Where.HOLDERS: ("X-Ollama-Node",),
    Where.PULL: ("X-Ollama-Node",),
    Where.SCHEDULED: (
        "X-Ollama-Node",
        "X-Ollama-Reason",
        "X-Ollama-Attempts",
        "X-Ollama-Fallback",
        "X-Ollama-Fallback-Reason",
        "X-Ollama-Queue",
        "Age",
    ),
}
_HEARD_AT: Final[dict[Where, tuple[str, ...]]] = {
    Where.SOURCE: ("X-Ollama-Node",),
    Where.HOLDERS: ("X-Ollama-Node",),
    Where.PULL: ("X-Ollama-Node",),
    Where.SCHEDULED: ("X-Ollama-Node", "X-Ollama-Priority"),
}
"""The headers of a request that count, by who answers it."""

_WAITED_FOR: Final = (429, 503)
"""Statuses that may say when to come back."""


def document(routes: Iterable[Route], words: Words, *, version: str) -> Json:
    """The whole document. Raises KeyError for a row that nothing is said of."""
    paths: dict[str, Json] = {}
    refusals: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = operation(route, words)
        for status in failures(route, words.operations[route.key]):
            refusals[_failure_name(route, status)] = _failure(route, status, words)
    shared = words.shared
    return {
        "openapi": OPENAPI,
        "info": {**shared["info"], "version": version},
        "servers": [{"url": "/"}],
        "tags": shared["tags"],
        "paths": paths,
        "components": {
            "schemas": words.schemas,
            "responses": dict(sorted(refusals.items())),
            "headers": shared["response_headers"],
            "securitySchemes": shared["security"],
        },
    }


def operation(route: Route, words: Words) -> Json:
    """What a row and the words about it come to."""
    said = words.operations[route.key]
    described: Json = {
        "operationId": operation_id(route),
        "tags": [_tag(route)],
        **{name: said[name] for name in ("summary", "description") if name in said},
        "security": _security(route.scope),
        "parameters": _parameters(route, said, words),
        "responses": _responses(route, said, words),
        "x-scope": route.scope.value,
        "x-runs": route.where.value,
        "x-idempotent": route.idempotent,
        "x-body-limit": route.body_limit,
    }
    if body := _body(said):
        described["requestBody"] = body
    return described


def operation_id(route: Route) -> str:
    """``post_api_chat`` for ``POST /api/chat``."""
    names = re.findall("[a-z0-9]+", route.path.lower()) or ["root"]
    return "_".join([route.method.lower(), *names])


def failures(route: Route, said: Json) -> list[int]:
    """The statuses of this operation that are errors, in order."""
    found = {403, 500, *_FAILS_AT[route.where], *said.get("refuses", ())}
    if route.body_limit != 0 or "{" in route.path:
        found.add(400)
    if "{" in route.path:
        found.add(404)
    if route.body_limit:
        found |= {408, 413}
    if route.scope is Scope.ADMIN or (
        route.scope is not Scope.PUBLIC and route.dialect is not Dialect.OLLAMA
    ):
        found.add(401)
    if route.scope not in (Scope.PUBLIC, Scope.ADMIN):
        found.add(429)
    return sorted(found)


def _tag(route: Route) -> str:
    if not route.is_ours:
        return _TAGS[route.dialect]
    return "Operators" if route.scope is Scope.ADMIN else "Cluster"


def _security(scope: Scope) -> list[Json]:
    if scope is Scope.PUBLIC:
        return []
    if scope is Scope.ADMIN:
        return [{"adminToken": []}]
    return [{}, {"clientKey": []}, {"clientKeyHeader": []}]


# What goes in


def _parameters(route: Route, said: Json, words: Words) -> list[Json]:
    found = []
    if "{" in route.path:
        name = route.path.partition("{")[2].partition("}")[0]
        schema = {"type": "string", "pattern": "^[^/]+$"}
        shared = words.shared["parameters"][name]
        found.append({"name": name, "in": "path", "required": True, "schema": schema, **shared})
    found += [{"name": name, "in": "query", **query} for name, query in said.get("query", {}).items()]
    headers = words.shared["request_headers"]
    found += [{"name": name, "in": "header", **headers[name]} for name in _HEARD_AT.get(route.where, ())]
    return found


def _body(said: Json) -> Json | None:
    required = not said.get("optional", False)
    if said.get("bytes"):
        return {"required": required, "content": {"application/octet-stream": {}}}
    if "form" in said:
        return {"required": required, "content": {"multipart/form-data": {"schema": _schema(said["form"])}}}
    if "body" not in said:
        return None
    example = {"example": said["example"]} if "example" in said else {}
    return {"required": required, "content": {MEDIA["json"]: {"schema": _schema(said["body"]), **example}}}


# What comes out


def _responses(route: Route, said: Json, words: Words) -> Json:
    good = {str(status): _answer(route, answer, words) for status, answer in said["answers"].items()}
    return good | {
        str(status): {"$ref": f"#/components/responses/{_failure_name(route, status)}"}
        for status in failures(route, said)
    }


def _answer(route: Route, answer: Json, words: Words) -> Json:
    content = {
        media: {"schema": _shown(route, name, answer[name], words)}
        for name, media in MEDIA.items()
        if name in answer and route.method != "HEAD"
    }
    described = {"description": answer["says"], "headers": _headers(_SENT_FROM.get(route.where, ()))}
    return described | ({"content": content} if content else {})


def _shown(route: Route, kind: str, shape: Any, words: Words) -> Json:
    """The schema of an answer, or of each record of a stream: in those an error has its place, too."""
    if kind not in ("lines", "events"):
        return _schema(shape)
    record = {"anyOf": [_schema(shape), _schema(_error_name(route, words))]}
    if kind == "lines":
        return record
    data = {"type": "string", "contentMediaType": MEDIA["json"], "contentSchema": record}
    return {"type": "object", "required": ["data"], "properties": {"event": {"type": "string"}, "data": data}}


def _failure_name(route: Route, status: int) -> str:
    form = "ours" if route.is_ours else route.dialect.value
    return f"{form}_{status}" if route.method != "HEAD" else f"bare_{status}"


def _failure(route: Route, status: int, words: Words) -> Json:
    more = ("Retry-After",) if status in _WAITED_FOR else ()
    described: Json = {
        "description": words.shared["statuses"][status],
        "headers": _headers(more, always=status != 403),
    }
    if route.method == "HEAD":
        return described
    content = {MEDIA["json"]: {"schema": _schema(_error_name(route, words))}}
    if status == 404:
        content[MEDIA["text"]] = {"schema": {"type": "string"}}
    return {**described, "content": content}


def _headers(more: Iterable[str], *, always: bool = True) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*_ALWAYS_SENT * always, *more)}


def _error_name(route: Route, words: Words) -> str:
    name: str = words.shared["errors"]["ours" if route.is_ours else route.dialect.value]
    return name


def _schema(shape: Any) -> Json:
    """A name of a schema as a reference to it, anything else as it is."""
    return {"$ref": f"#/components/schemas/{shape}"} if isinstance(shape, str) else shape
