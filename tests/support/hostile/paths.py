"""Spellings of paths: what is no exact path of the table leads nowhere, whatever a program behind would read.

Go's mux cleans a path and decodes it before it looks it up, so Ollama serves some of these. Here nothing is
cleaned: what is authorised, what is done and what the engine is asked for are one and the same text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.support.hostile.vectors import AGENT, CLOSE, HOST, Vector

NOWHERE: Final = frozenset({400, 404})


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table: what its exact path comes to on a node that wants no key."""

    method: str
    path: str
    status: int
    asks_engine: int = 0
    """How often the engine sees the request itself."""
    body: bytes = b""


_SHOW, _GONE = b'{"model":"tiny"}', b'{"model":"gone"}'
_CHAT = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}],"stream":false}'

_ROWS: Final = (
    _Row("POST", "/api/show", 200, 1, _SHOW),
    _Row("POST", "/v1/chat/completions", 200, 1, _CHAT),
    _Row("DELETE", "/api/delete", 404, 1, _GONE),
    _Row("GET", "/api/tags", 200),
    _Row("POST", "/admin/mode", 401, 0, b'{"mode":"standalone"}'),
)

_LOCKED_ROWS: Final = _ROWS[:2] + _ROWS[3:4]

_QUERIES: Final = (
    *(
        "?",
        "?x=1",
        "?/../..",
        "?%00",
        "?a=%2f..%2f",
        "?http://evil.example/",
        "??",
        "?;=&",
        "?../admin/stats",
    ),
    *("?#", "?%zz", "?\\", "?key=" + "k" * 4000),
)

_AFTER: Final = (
    *(
        "%00",
        "%20",
        "%09",
        "%0a",
        "%0d%0a",
        "%0d%0aX-A:%20b",
        "%2e",
        "%2f",
        "%5c",
        "%3f",
        "%3fx=1",
        "%23",
        "%3b",
    ),
    *(
        "%252f",
        "%252e%252e",
        "%c0%af",
        "%e0%80%af",
        "%c0%ae%c0%ae",
        "%ff",
        "%ef%bc%8f",
        "%u002f",
        "%",
        "%zz",
        "%2",
    ),
    *(
        ".",
        "..",
        "/.",
        "/..",
        "/./",
        "/../",
        "/%2e",
        "/%2e%2e",
        "/.%2e",
        "/%2E.",
        "/..;",
        "/..;/",
        "/.;x",
        "/..%00",
    ),
    *(
        "/..%2f",
        "/..%5c",
        "/..\\",
        "\\",
        "\\..",
        ";",
        ";x=y",
        ";/",
        ".json",
        "~",
        "*",
        ":",
        "@",
        "&x",
        "=",
        "+",
        "$",
    ),
    *(
        "!",
        "'",
        "(",
        ")",
        ",",
        "|",
        "^",
        "`",
        "{",
        "}",
        "[",
        "]",
        '"',
        "<",
        ">",
        "#",
        "#x",
        "x",
        "/x",
        "/0",
        "-",
        "_",
    ),
    "a" * 4000,
    "/a" * 2000,
)

_BEFORE: Final = (
    *(
        "/.",
        "/..",
        "/x/..",
        "/../..",
        "/%2e",
        "/%2e%2e",
        "/.%2e",
        "/x/%2e%2e",
        "/%2e%2e%2f",
        "/..%2f",
        "/..;",
        "/;",
    ),
    *(
        "/%2f",
        "/%5c",
        "/\\",
        "\\",
        "/ ",
        "/%20",
        "/%00",
        "/x",
        "/api",
        "/v1",
        "//x",
        "/*",
        "/%c0%af",
        "/~",
        "x",
        ".",
    ),
    *("%2f", "@", ":", "?", "#", "*", "%", "http:", "localhost", "localhost:80", "evil.example:80", "%2f%2f"),
)

_SLASHES: Final = (
    *(
        "%2f",
        "%2F",
        "%5c",
        "%5C",
        "\\",
        "%252f",
        "%255c",
        "%c0%af",
        "%e0%80%af",
        "%ef%bc%8f",
        "%u2215",
        "/./",
        "/.//",
    ),
    *(
        "/x/../",
        "/%2e/",
        "/x/%2e%2e/",
        "/x/..;/",
        "/;/",
        "/;x=y/",
        "/%20/",
        "/%00/",
        "/%2f",
        "%2f/",
        "/\\",
        "\\/",
    ),
    *(".", ":", "", "/*/", "/%09", "%0a"),
)
"""In place of the last slash of a path."""

_BYTES: Final = (
    b"\xff",
    b"\xc0\xaf",
    b"\xc3\xa9",
    b"\x80",
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\t",
    b" x",
    b"\x0b",
    b"\x85",
)
"""No text of a request line. A blank right before the version is skipped, as RFC 9112 §3 allows."""


def _request(method: str, target: bytes, body: bytes, last: bytes = CLOSE) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return method.encode() + b" " + target + b" HTTP/1.1\r\n" + HOST + AGENT + length + last + b"\r\n" + body


def _vector(
    row: _Row,
    target: str | bytes,
    status: frozenset[int],
    asks: int = 0,
    *,
    reaches: str | None = None,
    location: str | None = None,
) -> Vector:
    raw = target.encode() if isinstance(target, str) else target
    sent = (_request(row.method, raw, row.body),)
    return Vector(f"{row.method} {raw[:60]!r}", sent, status, (asks,), reaches, location)


def vectors() -> Iterator[Vector]:
    """On a node that wants no key."""
    for row in _ROWS:
        exact = frozenset({row.status})
        for query in ("", *_QUERIES):
            yield _vector(row, row.path + query, exact, row.asks_engine, reaches=row.path)
        yield from _detours(row)
    yield from _parameters()


def locked_vectors() -> Iterator[Vector]:
    """The same without a key on a node that wants one: none is answered by what it asks for."""
    for row in _LOCKED_ROWS:
        exact = frozenset({401, 403})
        for query in ("", *_QUERIES):
            yield _vector(row, row.path + query, exact)
        yield from _detours(row)
    for vector in _parameters():
        status = frozenset({401, 403}) if any(vector.executed) else vector.status
        yield Vector(vector.name, vector.sent, status, location=vector.location)


def _detours(row: _Row) -> Iterator[Vector]:
    for target, status, location in _moved(row):
        yield _vector(row, target, frozenset({status}), location=location)
    for spelling in _spellings(row.path):
        yield _vector(row, spelling, NOWHERE)


def _moved(row: _Row) -> Iterator[tuple[str, int, str]]:
    """Doubled and trailing slashes: the status and the place a client is sent to."""
    first, _, rest = row.path[1:].partition("/")
    trailing = 301 if row.method == "GET" else 307
    for query in ("", "?x=//y/"):
        yield f"{row.path}/{query}", trailing, row.path + query
        yield f"/{row.path}{query}", 307, row.path + query
        yield f"///{row.path}{query}", 307, row.path + query
        yield f"{row.path}//{query}", 307, f"{row.path}/{query}"
        yield f"/{row.path}/{query}", 307, f"{row.path}/{query}"
        if rest:
            yield f"/{first}//{rest}{query}", 307, row.path + query
            yield f"/{first}/////{rest}{query}", 307, row.path + query


def _spellings(path: str) -> Iterator[str | bytes]:
    head, last = path.rsplit("/", 1)
    yield from (path + after for after in _AFTER)
    yield from (before + path for before in _BEFORE)
    yield from (head + slash + last for slash in _SLASHES if slash or head)
    yield from (path.encode() + raw for raw in _BYTES)
    yield from (head.encode() + b"/" + raw + last.encode() for raw in _BYTES)
    yield from (path.upper(), path.title(), head + "/" + last.capitalize(), path.swapcase())
    yield from (f"/%{ord(path[1]):02x}{path[2:]}", f"/%25{ord(path[1]):02x}{path[2:]}")
    yield "/" + "".join(f"%{ord(char):02x}" for char in path[1:])
    yield from (f"{scheme}{path}" for scheme in ("http://localhost", "https://localhost", "HTTP://localhost"))
    yield from (
        f"http://{host}{path}" for host in ("evil.example", "localhost:80", "user@localhost", "[::1]", "")
    )
    yield from (
        f"https://evil.example{path}",
        f"ftp://localhost{path}",
        f"//evil.example{path}",
        f"file://{path}",
    )
    yield from (f"http:{path}", f"http:/{path}", f"javascript:{path}", f"http://localhost/..{path}", path[1:])
    yield from (path * 2, path + "/.." + path, path.replace("/", "//../"))


_NAMES: Final = {
    "tiny": "tiny",
    "%74iny": "tiny",
    "%74%69%6e%79": "tiny",
    "%2574iny": "%2574iny",
    "tiny:latest": "tiny:latest",
    "tiny%3Alatest": "tiny:latest",
    "tiny@x": "tiny@x",
    "tiny.": "tiny.",
    "...": "...",
    "..tiny": "..tiny",
    "tiny;x=y": "tiny%3Bx%3Dy",
    "..;": "..%3B",
    "%2e%2e;": "..%3B",
    "tiny%3fx=1": "tiny%3Fx%3D1",
    "tiny%23x": "tiny%23x",
    "tiny%26x": "tiny%26x",
    "tiny%20x": "tiny%20x",
    "tiny+x": "tiny%2Bx",
    "tiny%252f..": "tiny%252f..",
    "%252e%252e": "%252e%252e",
    "tiny%25": "tiny%25",
    "%7etiny": "~tiny",
    "t%c3%ady": "t%C3%ADy",
    "tiny*": "tiny%2A",
    "{model}": "%7Bmodel%7D",
    "http:": "http:",
    "tiny?x=/../..": "tiny",
    "tiny?": "tiny",
}
"""A parameter as sent, and what the engine sees of it: read once and written once."""

_NO_NAMES: Final = (
    *(
        ".",
        "..",
        "%2e",
        "%2E%2e",
        ".%2e",
        "%2e.",
        "%2f",
        "a%2fb",
        "a%2Fb",
        "..%2f..",
        "%2e%2e%2fapi%2ftags",
        "a/b",
    ),
    *(
        "a/../b",
        "../tags",
        "../../api/tags",
        "./tiny",
        "tiny/..",
        "tiny/.",
        "tiny/../../..",
        "%5c",
        "a%5cb",
        "a\\b",
    ),
    *(
        "..%5c..",
        "%00",
        "tiny%00",
        "%00tiny",
        "tiny%0a",
        "tiny%0d%0aHost:%20x",
        "%09",
        "tiny%7f",
        "%1b",
        "tiny%0b",
    ),
    *(
        "%c0%af",
        "%c0%ae%c0%ae",
        "%e0%80%af",
        "%f0%80%80%af",
        "%ff",
        "%fe",
        "%80",
        "%c3",
        "%ed%a0%80",
        "%zz",
        "%",
        "%2",
    ),
    *(
        "tiny%",
        "%u002f",
        "%%32%66",
        "tiny%e2%80%a8",
        "tiny%c2%85",
        "tiny%e2%80%ae",
        "%ef%bb%bftiny",
        "%c2%a0",
    ),
)


def _parameters() -> Iterator[Vector]:
    ask = _Row("GET", "/v1/models/", 200, 1)
    blob = _Row("HEAD", "/api/blobs/", 200, 1)
    for row in (ask, blob):
        for sent, seen in _NAMES.items():
            yield _vector(row, row.path + sent, frozenset({200, 400, 404}), 1, reaches=row.path + seen)
        for name in _NO_NAMES:
            yield _vector(row, row.path + name, NOWHERE)
            yield _vector(row, f"{row.path}{name}?x=1", NOWHERE)
        for raw in _BYTES:
            yield _vector(row, row.path.encode() + b"tiny" + raw, NOWHERE)
        moved = 301 if row.method == "GET" else 307
        yield _vector(row, f"{row.path}tiny/", frozenset({moved}), location=f"{row.path}tiny")
        yield _vector(row, f"/{row.path}tiny", frozenset({307}), location=f"{row.path}tiny")
