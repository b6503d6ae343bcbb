"""Bodies that are too much: too large, too deep, too slow, or small only until they are opened."""

import sys
from collections.abc import Iterator
from typing import Final

from ollama_dist.api.routes import ROUTES, Route
from tests.support.hostile.origins import filled
from tests.support.hostile.vectors import AGENT, CLOSE, HOST, Vector
from tests.support.solo_node import ADMIN_TOKEN

if sys.version_info >= (3, 14):
    from compression.zstd import compress
else:
    from backports.zstd import compress

_TOKEN: Final = f"Authorization: Bearer {ADMIN_TOKEN}\r\n".encode()
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_MIB: Final = 2**20

_DEEP: Final = (
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"model":"tiny","options":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    b'{"model":"tiny","prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"model":"tiny","n":' + b"1" * 100_000 + b"} x",
    b'{"model":"tiny"',
    b"\xff\xfe{}",
    b'"tiny"',
)


def _head(route: Route, more: bytes) -> bytes:
    return f"{route.method} {filled(route)} HTTP/1.1\r\n".encode() + HOST + AGENT + _TOKEN + more + b"\r\n"


def _length(size: int) -> bytes:
    return b"Content-Length: %d\r\n" % size


def too_large() -> Iterator[Vector]:
    """More is announced than the row takes: refused before any of it is sent. Or it comes unannounced."""
    for route in ROUTES:
        if route.body_limit:
            for size in (route.body_limit + 1, 2**40, 2**62):
                sent = (_head(route, _length(size)),)
                yield Vector(f"{route.key} with {size} bytes", sent, frozenset({413}))
        if route.body_limit == _MIB:
            chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            yield Vector(f"{route.key} in chunks", (_head(route, _CHUNKED) + chunk * 17,), frozenset({413}))
    route = next(route for route in ROUTES if route.path == "/api/show")
    chunk = b"%x\r\n" % _MIB + b" " * _MIB + b"\r\n"
    # Whoever goes on sending for long after the answer may lose it.
    yield Vector("POST /api/show in chunks", (_head(route, _CHUNKED) + chunk * 65,), frozenset())


def too_slow() -> Iterator[Vector]:
    for route in ROUTES:
        if route.body_limit != 0:
            yield Vector(
                f"{route.key} of 100 bytes", (_head(route, _length(100)) + b"{",), frozenset({408}), (0, 1)
            )
            yield Vector(
                f"{route.key} in chunks", (_head(route, _CHUNKED) + b"5\r\n{",), frozenset({408}), (0, 1)
            )


def too_deep() -> Iterator[Vector]:
    """The engine says what is wrong with its routes' bodies, and we say it of ours."""
    for route in ROUTES:
        if route.body_limit:
            for body in _DEEP:
                sent = (_head(route, _length(len(body)) + CLOSE) + body,)
                refused = frozenset({400, 404, 413})
                yield Vector(f"{route.key} of {body[:30]!r}", sent, refused, (0, 1))


def bombs() -> Iterator[Vector]:
    """A thousand to one and more, in the codings clients know; whoever opens them keeps within bounds."""
    bomb = compress(b"\0" * (80 * _MIB))
    assert len(bomb) * 1000 < 80 * _MIB
    routes = [route for route in ROUTES if route.path.startswith("/v1/") and route.body_limit]
    for route in routes:
        yield _bomb(route, b"zstd", bomb)
        for coding in (b"gzip", b"br", b"deflate", b"zstd, zstd", b"x"):
            yield _bomb(route, coding, bomb)
    yield _bomb(routes[0], b"ZSTD", bomb * 20)
    yield _bomb(routes[0], b"zstd", compress(b"") * 100_000)


def _bomb(route: Route, coding: bytes, body: bytes) -> Vector:
    more = b"Content-Encoding: " + coding + b"\r\n" + _length(len(body)) + CLOSE
    refused = frozenset({400, 404, 413, 415})
    return Vector(f"{route.key} {coding!r} {len(body)}", (_head(route, more) + body,), refused, (0, 1))
