"""Headers that tell whose request it is: who forwards is not this machine, and no engine sees any."""

from collections.abc import Iterator
from typing import Final

from tests.support.hostile.vectors import AGENT, CLOSE, HOST, Vector

_FORWARDING: Final = (
    *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Server"),
    *(
        "X-Forwarded",
        "X-Forwarded-User",
        "X-Forwarded-Prefix",
        "Forwarded",
        "Forwarded-For",
        "Via",
        "X-Real-IP",
    ),
    *(
        "X-Client-IP",
        "Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "CF-Ray",
        "CDN-Loop",
        "Fastly-Client-IP",
    ),
    *(
        "X-Cluster-Client-IP",
        "X-Original-Forwarded-For",
        "X-Original-Host",
        "X-Original-URL",
        "X-ProxyUser-Ip",
    ),
    *("X-Envoy-External-Address", "X-Remote-IP", "X-Remote-Addr", "Tailscale-User-Login"),
)

_VALUES: Final = ("127.0.0.1", "", "for=127.0.0.1;host=localhost", "unknown")

_FOREIGN: Final = (
    "desk.local",
    "x.localhost",
    "192.168.1.20",
    "10.0.0.1:11434",
    "0.0.0.0",
    "[fd00::1]",
    "node.internal",
)
"""Good hosts, but not this machine's own to itself: what a proxy in between is called."""

_HERE: Final = (
    "localhost",
    "LOCALHOST:1",
    "localhost.",
    "127.0.0.1",
    "127.8.8.8:11434",
    "[::1]",
    "[::1]:11434",
)

_KEPT: Final = (
    *("Authorization: Bearer canary", "authorization: Basic Y2FuYXJ5", "Proxy-Authorization: Bearer canary"),
    *("Cookie: canary=1", "Cookie2: canary", "Set-Cookie: canary=1", "X-Api-Key: canary", "api-key: canary"),
    *("X-Auth-Token: canary", "X-Ollama-Request-Id: canary", "X-Ollama-Node: solo", "X-Ollama-Refusal: busy"),
    *(
        "X-Ollama-Priority: high",
        "X-Ollama-Queue: show",
        "X-Ollama-Cache: allow",
        "X-Ollama-Mode: standalone",
    ),
    *(
        "X-Ollama-Distributed: true",
        "X-Ollama-Cluster: canary",
        "X-Request-ID: canary",
        "Origin: http://localhost",
    ),
    *(
        "Referer: http://canary/",
        "X-Http-Method-Override: DELETE",
        "X-Original-Url: /api/delete",
        "TE: trailers",
    ),
    *(
        "X-Rewrite-Url: /api/delete",
        "Max-Forwards: 1",
        "Keep-Alive: 1",
        "Proxy-Connection: close",
        "Range: bytes=0-1",
    ),
    *(
        "If-None-Match: *",
        "If-Modified-Since: Mon, 01 Jan 2024 00:00:00 GMT",
        "X-Fake-Fault: {}",
        "Warning: canary",
    ),
    *(
        "Sec-Fetch-Site: none",
        "DNT: 1",
        "OpenAI-Organization: canary",
        "OpenAI-Project: canary",
        "Signature: canary",
    ),
)

_WAYS: Final = (
    (b"GET", b"/v1/models/tiny", b"", 401),
    (b"POST", b"/api/show", b'{"model":"tiny"}', 403),
    (b"POST", b"/api/generate", b'{"model":"tiny"}', 403),
)
"""What the engine sees on three ways, and how Ollama's clients and OpenAI's hear that a key is missing."""


def _request(way: tuple[bytes, bytes, bytes, int], headers: bytes, host: bytes = HOST) -> tuple[bytes]:
    method, path, body, _ = way
    line = method + b" " + path + b" HTTP/1.1\r\n" + host + AGENT + headers
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return (line + length + CLOSE + b"\r\n" + body,)


def trust_vectors() -> Iterator[Vector]:
    """On a node that wants keys of all but its own machine, from that machine and without a key."""
    for way in _WAYS:
        refused, where = frozenset({way[3]}), way[1].decode()
        for host in _HERE:
            sent = _request(way, b"", f"Host: {host}\r\n".encode())
            yield Vector(f"{where} at {host}", sent, frozenset({200}), (1,))
        for host in _FOREIGN:
            yield Vector(f"{where} at {host}", _request(way, b"", f"Host: {host}\r\n".encode()), refused)
        old = _request(way, b"", b"")[0].replace(b"HTTP/1.1", b"HTTP/1.0")
        yield Vector(f"{where} at nobody's", (old,), refused)
        for number, name in enumerate(_FORWARDING):
            value = _VALUES[number % len(_VALUES)]
            for spelt in (name, name.lower(), name.upper()):
                line = f"{spelt}: {value}\r\n".encode()
                yield Vector(f"{where} with {line!r}", _request(way, line), refused)
            yield Vector(f"{where} with {name} twice", _request(way, line * 2), refused)


def canary_vectors() -> Iterator[Vector]:
    """On a node that wants no keys: what the engine sees of them is held against a list, for all vectors."""
    for way in _WAYS:
        for header in (*_KEPT, *(f"{name}: 127.0.0.1" for name in _FORWARDING)):
            name, _, value = header.partition(":")
            for line in (header, f"{name.swapcase()}:{value}"):
                sent = _request(way, line.encode() + b"\r\n")
                yield Vector(f"{way[1].decode()} with {line}", sent, frozenset({200}), (1,))
