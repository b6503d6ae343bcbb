"""The words of failures: in the dialect of their route, or plain as Go and gin write them without one."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from ollama_dist.api.routes import ROUTES, Route
from ollama_dist.core.dialects import Dialect
from ollama_dist.core.scopes import Scope
from tests.support.hostile.origins import filled
from tests.support.hostile.vectors import AGENT, CLOSE, HOST, Answer, Played, Vector

_BODY: Final = b'{"model":"tiny"}'

_PLAIN: Final = {
    400: b"400 Bad Request",
    404: b"404 page not found",
    405: b"405 method not allowed",
    501: b"501 Not Implemented",
    505: b"505 HTTP Version Not Supported",
}


def _is_ollama(said: Mapping[str, Any]) -> bool:
    return set(said) <= {"error", "code"} and _is_text(said.get("error"))


def _is_ours(said: Mapping[str, Any]) -> bool:
    return set(said) == {"error", "code"} and _is_text(said["error"]) and _is_text(said["code"])


def _is_openai(said: Mapping[str, Any]) -> bool:
    error = said.get("error")
    return (
        set(said) == {"error"}
        and isinstance(error, dict)
        and set(error) == {"message", "type", "param", "code"}
    )


def _is_anthropic(said: Mapping[str, Any]) -> bool:
    error = said.get("error")
    return (
        set(said) <= {"type", "error", "request_id"}
        and said.get("type") == "error"
        and isinstance(error, dict)
        and set(error) == {"type", "message"}
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


_SHAPES: Final[Mapping[Dialect, Callable[[Mapping[str, Any]], bool]]] = {
    Dialect.OLLAMA: _is_ollama,
    Dialect.OPENAI: _is_openai,
    Dialect.RESPONSES: _is_openai,
    Dialect.ANTHROPIC: _is_anthropic,
}

_BY_PATH: Final = {filled(route): route for route in ROUTES}


def wrongs(played: Iterable[Played]) -> list[str]:
    """A line for each failure whose words are neither plain nor in the shape of its route."""
    found = []
    for row in played:
        method, target, *_ = row.vector.sent[0].split(b" ", 2)
        if method == b"HEAD" or not row.answers or row.answers[0].status < 400:
            continue
        route = _BY_PATH.get(target.decode("latin-1").partition("?")[0])
        if not _is_told(route, row.answers[0]):
            found.append(f"{row.vector.name}: {row.answers[0].status} says {row.answers[0].body[:200]!r}")
    return found


def _is_told(route: Route | None, answer: Answer) -> bool:
    kind = (answer.get("content-type") or "").partition(";")[0]
    if answer.status == 403 and answer.body == b"":
        return kind == ""  # only pages get this, as from Ollama
    if kind == "text/plain":
        return answer.body == _PLAIN.get(answer.status)
    said = json.loads(answer.body)
    if route is None:
        return any(is_shaped(said) for is_shaped in _SHAPES.values())
    return _is_ours(said) if route.is_ours else _SHAPES[route.dialect](said)


def _request(route: Route, more: bytes, host: bytes = HOST, method: str = "") -> tuple[bytes]:
    body = _BODY if route.method in ("POST", "DELETE") else b""
    line = f"{method or route.method} {filled(route)} HTTP/1.1\r\n".encode()
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return (line + host + AGENT + more + length + CLOSE + b"\r\n" + body,)


def vectors() -> Iterator[Vector]:
    for route in ROUTES:
        strange = _request(route, b"", b"Host: evil.example\r\n")
        yield Vector(f"{route.key} at a strange host", strange, frozenset({403}))
        wrong = _request(route, b"", method="PATCH")
        yield Vector(f"PATCH {route.path}", wrong, frozenset({405}), body=_PLAIN[405])
        if route.scope is Scope.ADMIN:
            yield Vector(f"{route.key} without the token", _request(route, b""), frozenset({401}))


def keyless_vectors() -> Iterator[Vector]:
    for route in ROUTES:
        if route.scope is not Scope.PUBLIC:
            refused = frozenset({401, 403})
            yield Vector(f"{route.key} without a key", _request(route, b""), refused)
            mistaken = _request(route, b"Authorization: Bearer wrong\r\n")
            yield Vector(f"{route.key} with a wrong key", mistaken, refused | {429})


def engineless_vectors() -> Iterator[Vector]:
    for route in ROUTES:
        if not route.is_ours and route.scope is not Scope.PUBLIC:
            # Lists are told from memory for a while.
            gone = frozenset({200, 404, 502, 503, 504})
            yield Vector(f"{route.key} without an engine", _request(route, b""), gone)
