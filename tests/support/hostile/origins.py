"""Web pages: Ollama's rules about their origins, on every row of the table."""

from collections.abc import Iterator
from typing import Final

from ollama_dist.api.routes import ROUTES, Route
from tests.support.hostile.vectors import AGENT, CLOSE, HOST, Vector

_STRANGE: Final = (
    *(
        "null",
        "https://evil.example",
        "http://localhost.evil.example",
        "http://evil.example:11434",
        "file:/x",
    ),
    *(
        "http://127.0.0.1.nip.io",
        "http://localhost@evil.example",
        "chrome-extension://abcdef",
        "ftp://localhost",
    ),
    *(
        "http://[::1]",
        "HTTP://LOCALHOST",
        "http://localhost/",
        "localhost",
        "http://",
        "*",
        "http://localhost, null",
    ),
)
_FEW_STRANGE: Final = _STRANGE[:3]

_ALLOWED: Final = ("http://localhost:3000", "https://127.0.0.1", "http://0.0.0.0:8080", "app://obsidian.md")

_PARAMETERS: Final = {"{model}": "tiny", "{digest}": "sha256:00", "{key}": "k", "{id}": "d"}


def _request(method: str, path: str, headers: str, body: bytes = b"") -> tuple[bytes]:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    line = f"{method} {path} HTTP/1.1\r\n{headers}{length}".encode()
    return (line + HOST + AGENT + CLOSE + b"\r\n" + body,)


def filled(route: Route) -> str:
    """The path of ``route`` with something for its parameter."""
    path = route.path
    for name, value in _PARAMETERS.items():
        path = path.replace(name, value)
    return path


def vectors() -> Iterator[Vector]:
    for number, route in enumerate(ROUTES):
        path, body = filled(route), b'{"model":"tiny"}' if route.method in ("POST", "DELETE") else b""
        for origin in _STRANGE if number % 6 == 4 else _FEW_STRANGE:
            for method in (route.method, "OPTIONS"):
                yield _turned_away(
                    f"{method} {path} from {origin}", _request(method, path, f"Origin: {origin}\r\n", body)
                )
        twice = "Origin: http://localhost:3000\r\nOrigin: https://evil.example\r\n"
        yield _turned_away(f"{route.key} with two origins", _request(route.method, path, twice, body))
        for origin in _ALLOWED[number % 2 :: 2]:
            yield _preflight(path, origin)
    yield from _let_in()
    yield from _without_origin()


def _turned_away(name: str, sent: tuple[bytes]) -> Vector:
    return Vector(name, sent, frozenset({403}), body=b"", headers=(("access-control-allow-origin", None),))


def _preflight(path: str, origin: str) -> Vector:
    asked = f"Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n"
    told = (("access-control-allow-origin", origin), ("access-control-allow-credentials", None))
    return Vector(
        f"preflight of {path} from {origin}",
        _request("OPTIONS", path, asked),
        frozenset({204}),
        body=b"",
        headers=told,
    )


def _let_in() -> Iterator[Vector]:
    for origin in _ALLOWED:
        told = (
            ("access-control-allow-origin", origin),
            ("vary", "Origin"),
            ("access-control-allow-credentials", None),
        )
        ask = _request("GET", "/v1/models/tiny", f"Origin: {origin}\r\n")
        yield Vector(f"a model from {origin}", ask, frozenset({200}), (1,), headers=told)
        show = _request(
            "POST", "/api/show", f"Origin: {origin}\r\nSec-Fetch-Site: cross-site\r\n", b'{"model":"tiny"}'
        )
        yield Vector(f"show from {origin}", show, frozenset({200}), (1,), headers=told)
    for own in ("http://localhost", "https://localhost"):
        show = _request("POST", "/api/show", f"Origin: {own}\r\n", b'{"model":"tiny"}')
        yield Vector(f"its own page {own}", show, frozenset({200}), (1,))


def _without_origin() -> Iterator[Vector]:
    """Browsers name the origin of all that is not safe, so cross-site and without one has lost it on the way.

    Programs send no Sec-Fetch-Site, so no client of Ollama's is turned away by this.
    """
    for route in ROUTES:
        path, asked = filled(route), "Sec-Fetch-Site: cross-site\r\n"
        if route.method in ("POST", "DELETE"):
            sent = _request(route.method, path, asked, b'{"model":"tiny"}')
            yield _turned_away(f"{route.key} from another site", sent)
    for site, method, path, status, asks in (
        ("cross-site", "GET", "/v1/models/tiny", 200, 1),
        ("same-origin", "POST", "/api/show", 200, 1),
        ("same-site", "POST", "/api/show", 200, 1),
        ("none", "POST", "/api/show", 200, 1),
    ):
        body = b'{"model":"tiny"}' if method == "POST" else b""
        sent = _request(method, path, f"Sec-Fetch-Site: {site}\r\n", body)
        yield Vector(f"{method} {path} {site}", sent, frozenset({status}), (asks,))
