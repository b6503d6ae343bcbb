"""Where a request ends: heads and bodies that two readers could read two ways.

The journal of the engine counts what was done: what a strict reader does, never more than Go's ``net/http``
does with the same bytes. That one takes a lone line feed for a line's end; nothing here has a reason to.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from tests.support.hostile.vectors import AGENT, CLOSE, HOST, Vector

_BODY: Final = b'{"model":"tiny"}'
_LENGTH: Final = b"Content-Length: %d\r\n" % len(_BODY)
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_CHUNKS: Final = b"10\r\n" + _BODY + b"\r\n0\r\n\r\n"

_TAKEN, _REFUSED, _TOO_SLOW, _TOO_LARGE, _UNKNOWN_CODING, _UNKNOWN_VERSION = 200, 400, 408, 413, 501, 505


def _post(head: bytes = _LENGTH, body: bytes = _BODY, last: bytes = b"", path: bytes = b"/api/show") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + AGENT + head + last + b"\r\n" + body


def _get(extra: bytes = b"", last: bytes = b"") -> bytes:
    return b"GET /v1/models/tiny HTTP/1.1\r\n" + HOST + AGENT + extra + last + b"\r\n"


_HIDDEN: Final = _get()
_LAST: Final = _get(last=CLOSE)

_LINES: Final = (
    *(
        b"Foo\r\n",
        b"Foo Bar\r\n",
        b": x\r\n",
        b":\r\n",
        b" : x\r\n",
        b"=x\r\n",
        b"Foo;x\r\n",
        b"GET / HTTP/1.1\r\n",
    ),
    *(
        b"Fo o: x\r\n",
        b"Foo : x\r\n",
        b"Foo\t: x\r\n",
        b" Foo: x\r\n",
        b"\tFoo: x\r\n",
        b"Fo\to: x\r\n",
        b"Foo\x0b: x\r\n",
    ),
    *(
        b"Foo: a\r\n b\r\n",
        b"Foo: a\r\n\tb\r\n",
        b"Foo:\r\n x\r\n",
        b"Foo: a\r\n \r\n",
        b"Foo: a\r\n  b: c\r\n",
    ),
    *(
        b"Foo: a\nBar: b\r\n",
        b"Foo: a\n\r\n",
        b"Foo: a\n\n",
        b"Foo: a\n b\r\n",
        b"\nFoo: a\r\n",
        b"Foo\n: a\r\n",
    ),
    *(
        b"Foo: a\rBar: b\r\n",
        b"Foo: a\r\r\n",
        b"\rFoo: a\r\n",
        b"Foo\r: a\r\n",
        b"Foo: \ra\r\n",
        b"Foo:\r a\r\n",
    ),
    *(
        b"Foo: a\x00b\r\n",
        b"Foo: \x00\r\n",
        b"Fo\x00o: x\r\n",
        b"\x00: x\r\n",
        b"Foo: x\x00\r\n",
        b"Foo\x00: x\r\n",
    ),
    *(b"Foo: a%cb\r\n" % byte for byte in (*range(1, 9), 11, 12, *range(14, 32), 127)),
    *(b"Fo%co: x\r\n" % byte for byte in b'"(),/;<=>?@[\\]{}\x01\x1f\x7f\x80\xff'),
    *("Naïve: x\r\n".encode(), "Content\u2010Length: 3\r\n".encode(), "Ｈost: localhost\r\n".encode()),
    *(
        b"Content_Length: 3\r\n",
        b"content_length: 3\r\n",
        b"Transfer_Encoding: chunked\r\n",
        b"X_Forwarded_For: ::1\r\n",
    ),
    *(b"X_Api_Key: x\r\n", b"Transfer-Encoding: chunked\r\nTransfer_Encoding: x\r\n"),
    *(b"Content-Type: a\r\nContent-Type: b\r\n", b"Host: localhost\r\n", b"host: localhost\r\n"),
)
"""Lines of a head that make it none."""

_LENGTHS: Final = (
    *(
        "+16",
        "-16",
        "-0",
        "+0",
        "-1",
        "0x10",
        "0X10",
        "1_6",
        "16.0",
        "1.6e1",
        "16e0",
        "16;",
        "16,",
        ",16",
        "16,16",
    ),
    *(
        "16, 16",
        "16,17",
        "16 16",
        "1 6",
        "16 x",
        "x",
        "''",
        '"16"',
        "(16)",
        "16\t16",
        "٣",
        "１６",
        "²",
        "16\x0b",
    ),
    *(
        "",
        " ",
        "\t",
        ",",
        "0,16",
        "16, 0",
        "18446744073709551616",
        "-9223372036854775808",
    ),
    *(
        "99999999999999999999",
        "340282366920938463463374607431768211472",
        "0" * 5000 + "x",
        "1" * 400,
        "null",
        "NaN",
    ),
    *("Infinity", "0b10000", "0o20", "16L", "16n", "16h", "%31%36", "16%00", "16#", "16/", "\\x31\\x36"),
)

_CODINGS: Final = (
    *("xchunked", "chunkedx", "chunked,chunked", "chunked, chunked", "identity", "identity,chunked"),
    *("chunked,identity", "chunked, identity", "identity, chunked", "gzip", "gzip,chunked", "gzip, chunked"),
    *(
        "chunked, gzip",
        "deflate, chunked",
        "compress",
        "br, chunked",
        "x",
        "cow",
        ",chunked",
        "chunked,",
        ",",
        ",,",
    ),
    *(
        "",
        '"chunked"',
        "'chunked'",
        "chunked;q=1",
        "chunked; a=b",
        "chunked ;",
        ";chunked",
        "chunked x",
        "x chunked",
    ),
    *(
        "chunked\tx",
        "ch unked",
        "chunke",
        "hunked",
        "chunked\x0b",
        "\x0bchunked",
        "chunked\x0c",
        "ſhunked",
        "ｃhunked",
    ),
    *("chunked\\", "{chunked}", "chunked/1", "chunked=1", "0", "null", "trailers", "identity, identity"),
)

_TWO_LENGTHS: Final = (
    ("16", "16"),
    ("16", "17"),
    ("16", "0"),
    ("0", "16"),
    ("0", "0"),
    ("16", ""),
    ("", "16"),
    ("16", "x"),
)

_BOTH: Final = (
    *((_CHUNKED, b"Content-Length: %d\r\n" % length) for length in (0, 1, 4, 16, len(_CHUNKS), 100)),
    *(
        (b"transfer-encoding: chunked\r\n", b"content-length: 4\r\n"),
        (b"Transfer-Encoding: identity\r\n", _LENGTH),
    ),
    *((b"Transfer-Encoding:\tchunked\r\n", b"Content-Length: 4\r\n"), (b"Transfer-Encoding: x\r\n", _LENGTH)),
    *(
        (b"Transfer-Encoding: chunked \r\n", b"Content-Length: 4\r\n"),
        (b"Transfer-Encoding:chunked\r\n", _LENGTH),
    ),
    *(
        (b"Transfer-Encoding:\r\n", _LENGTH),
        (b"Transfer-Encoding : chunked\r\n", _LENGTH),
        (_CHUNKED, _CHUNKED),
    ),
    *((b"Transfer-Encoding: identity\r\n", _CHUNKED), (_CHUNKED, b"Transfer-Encoding: identity\r\n")),
    *((b"Transfer-Encoding\x0b: chunked\r\n", _LENGTH), (b"Transfer-Encoding\r\n : chunked\r\n", _LENGTH)),
    *((b" Transfer-Encoding: chunked\r\n", _LENGTH), (b"X: y\nTransfer-Encoding: chunked\r\n", _LENGTH)),
    *((b"X: y\rTransfer-Encoding: chunked\r\n", _LENGTH), (b"Transfer-Encoding:\n chunked\r\n", _LENGTH)),
    *((b"X:\x00Transfer-Encoding: chunked\r\n", _LENGTH), (b"Transfer-Encoding: chunked\r\n\x0b", _LENGTH)),
)
"""Two ways to say how long the body is."""

_BAD_CHUNKS: Final = (
    *(
        b"x\r\n",
        b"\r\n",
        b"-10\r\n",
        b"+10\r\n",
        b"0x10\r\n",
        b"10x\r\n",
        b"1 0\r\n",
        b" 10\r\n",
        b"10 \r\n",
        b"\t10\r\n",
    ),
    *(
        b"10\t\r\n",
        b"10\n",
        b"10\r",
        b"10\r\r\n",
        b"\n10\r\n",
        b"10;\n",
        b"10;a=b\n",
        b"10;a\r",
        b"10,\r\n",
        b'"10"\r\n',
    ),
    *(
        b"1g\r\n",
        b"10000000000000000\r\n",
        b"fffffffffffffffff\r\n",
    ),
    *(
        b"f" * 400 + b"\r\n",
        b"10;\x00\r\n",
        b"10;a=\x01\r\n",
        b"10;a=\n\r\n",
        b"\x0010\r\n",
    ),
    *(b"10\x00\r\n", b"1_0\r\n", b"10.\r\n", b"10h\r\n", b"\xb2\r\n", b"10:\r\n", b"10=\r\n"),
)
"""In place of the line before a chunk of sixteen bytes."""

_ENDLESS: Final = (
    b"ffffffffffffffff\r\n",
    b"8000000000000000\r\n",
    b"7fffffffffffffff\r\n",
    b"1e1\r\n",
    b"11\r\n",
)
"""Lines before a chunk that is longer than what comes."""

_BAD_ENDS: Final = (
    *(
        b"0\r\n\r\n",
        b"x\r\n0\r\n\r\n",
        b"\n0\r\n\r\n",
        b"\r0\r\n\r\n",
        b"\r\n0\n\n",
        b"\r\n0\n\r\n",
        b"\r\n-0\r\n\r\n",
    ),
    *(
        b"\r\n0x0\r\n\r\n",
        b"\r\n0 \r\n\r\n",
        b"\r\n0\r\nFoo\r\n\r\n",
        b"\r\n0\r\nFo o: x\r\n\r\n",
        b"\r\n0\r\n: x\r\n\r\n",
    ),
    *(
        b"\r\n0\r\nFoo: a\nBar: b\r\n\r\n",
        b"\r\n0\r\nFoo: a\x00\r\n\r\n",
        b"\r\n0\r\n Foo: x\r\n\r\n",
        b"\r\n0\r\rx\r\n\r\n",
    ),
    b"\r\n0\r\nContent-Length: 5\r\n\r\n",
)
"""In place of the end of a chunk and of the body. A trailer may not say again what the head has said, nor how
long the body is."""

_GOOD_CHUNKS: Final = (
    *(
        _CHUNKS,
        b"0010\r\n" + _BODY + b"\r\n000\r\n\r\n",
        b"8\r\n" + _BODY[:8] + b"\r\n8\r\n" + _BODY[8:] + b"\r\n0\r\n\r\n",
    ),
    *(b"10;a=b\r\n" + _BODY + b"\r\n0;c\r\n\r\n", b'10;a="b c"\r\n' + _BODY + b"\r\n0\r\n\r\n"),
    *(
        b"10\r\n" + _BODY + b"\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"10\r\n" + _BODY + b"\r\n0\r\nUser-Agent: smuggled\r\n\r\n",
    ),
    b"".join(b"1\r\n%c\r\n" % byte for byte in _BODY) + b"0\r\n\r\n",
)

_REQUEST_LINES: Final = (
    *(
        (b"GET /v1/models/tiny\r\n", _UNKNOWN_VERSION),
        (b"GET /v1/models/tiny HTTP/0.9\r\n", _UNKNOWN_VERSION),
    ),
    *((b"GET /v1/models/tiny HTTP/2.0\r\n", _UNKNOWN_VERSION), (b"GET /v1/models/tiny HTTP/2\r\n", _REFUSED)),
    *(
        (b"GET /v1/models/tiny HTTP/%s\r\n" % version, _REFUSED)
        for version in (b"1", b"1.2", b"3.0", b"1.10", b"11")
    ),
    *(
        (b"GET /v1/models/tiny HTTP/%s\r\n" % version, _REFUSED)
        for version in (b"01.1", b"1.01", b"1,1", b"x", b"-1.1")
    ),
    *(
        (b"GET /v1/models/tiny HTTP/%s\r\n" % version, _REFUSED)
        for version in (b"", b"1.", b".1", b"1.1x", b"1.1 x")
    ),
    *(
        (b"GET /v1/models/tiny %s/1.1\r\n" % name, _REFUSED)
        for name in (b"http", b"HTTPS", b"HTTP ", b"ICE", b"XTTP")
    ),
    *(
        (b"%s /v1/models/tiny HTTP/1.1\r\n" % method, _REFUSED)
        for method in (b"get", b"Get", b"gET", b"GETX", b"GE")
    ),
    *(
        (b"%s /v1/models/tiny HTTP/1.1\r\n" % method, _REFUSED)
        for method in (b"FOO", b"G ET", b"", b"1", b"PRI", b"GET\t")
    ),
    *(
        (b"%s /v1/models/tiny HTTP/1.1\r\n" % method, _REFUSED)
        for method in (b"\x00GET", b"GET\x00", b"G\xffT", b'"GET"')
    ),
    *(
        (line, _REFUSED)
        for line in (b"GET\r\n", b"GET \r\n", b"GET  HTTP/1.1\r\n", b"HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n")
    ),
    *(
        (line, _REFUSED)
        for line in (b"/v1/models/tiny\r\n", b" GET /v1/models/tiny HTTP/1.1\r\n", b"\x16\x03\x01\r\n")
    ),
    *((line, _REFUSED) for line in (b"GET /v1/models/tiny HTTP/1.1\n", b"GET /v1/models/tiny HTTP/1.1\r")),
    *(
        (line, _REFUSED)
        for line in (b"GET\t/v1/models/tiny\tHTTP/1.1\r\n", b"GET\x0b/v1/models/tiny HTTP/1.1\r\n")
    ),
    *(
        (line, _REFUSED)
        for line in (b"GET /v1/models/tiny\tHTTP/1.1\r\n", b"GET /v1/models/tiny HTTP/1.1 GET /\r\n")
    ),
    *(
        (line, _REFUSED)
        for line in (b"GET /v1/\nmodels/tiny HTTP/1.1\r\n", b"GET /v1/models/tiny\x00 HTTP/1.1\r\n")
    ),
    *(
        (line, _REFUSED)
        for line in (b"GET /v1/models/tiny\r HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    ),
)

_UNREAD: Final = (
    (b"GET /nowhere", 404),
    (b"PUT /api/show", 405),
    (b"POST /admin/mode", 401),
    (b"POST //api/show", 307),
)
"""Requests that are answered without a look at their body."""

_ODD: Final = (
    _LAST.replace(b" HTTP/", b"   HTTP/"),
    _LAST.replace(b" HTTP/", b" RTSP/"),
    b"\r\n\r\n" + _LAST,
    _post(_CHUNKED, b"0" * 9000 + _CHUNKS),
)
"""What the parser takes and Go does not: RFC 9112 §2.2 and §3 allow all but the name of a protocol that reads
the same. Where a request ends is not in doubt, so nothing can hide there."""

_OVERSIZED: Final = (
    ("a header of 9,000 bytes", b"Foo: " + b"x" * 9000 + b"\r\n"),
    ("a name of 9,000 bytes", b"F" * 9000 + b": x\r\n"),
    ("130 headers", b"".join(b"Foo-%d: x\r\n" % number for number in range(130))),
    ("5,000 headers", b"a: b\r\n" * 5000),
    ("a head of two megabytes", b"".join(b"Foo-%d: %s\r\n" % (n, b"x" * 8000) for n in range(250))),
)


def vectors() -> Iterator[Vector]:
    yield from _heads()
    yield from _versions()
    yield from _lengths_and_codings()
    yield from _chunks()
    yield from _several()


def _vector(name: object, *sent: bytes, status: int = _REFUSED, executed: Iterable[int] = (0,)) -> Vector:
    return Vector(f"{name!r}", sent, frozenset({status}), tuple(executed))


def _heads() -> Iterator[Vector]:
    for line in _LINES:
        yield _vector((line, "at the end of GET"), _get(line))
        yield _vector(
            (line, "in front of the Host"),
            b"GET /v1/models/tiny HTTP/1.1\r\n" + line + HOST + AGENT + b"\r\n",
        )
        yield _vector(
            (line, "in a POST, and one more in its body"),
            _post(line + b"Content-Length: %d\r\n" % len(_HIDDEN), _HIDDEN),
        )
    for name, line in _OVERSIZED:
        yield _vector(name, _get(line))
        yield _vector((name, "in two parts"), _get()[:-2] + line[:100], line[100:] + b"\r\n")
    yield _vector(
        "a request line of 9,000 bytes",
        b"GET /v1/models/tiny?" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    )


def _versions() -> Iterator[Vector]:
    for line, status in _REQUEST_LINES:
        yield _vector(line, line + HOST + AGENT + b"\r\n", status=status)
        more = line + HOST + AGENT + b"\r\n" + _HIDDEN
        yield Vector(f"{line!r} and one more", (more,), frozenset({status, _REFUSED}))


def _lengths_and_codings() -> Iterator[Vector]:
    for value in _LENGTHS:
        line = f"Content-Length: {value}\r\n".encode()
        yield _vector(("length", value[:30]), _post(line))
        yield _vector(("length", value[:30], "and one more"), _post(line, _HIDDEN))
    yield _vector(
        "a length beyond all bounds", _post(b"Content-Length: 9223372036854775808\r\n"), status=_TOO_LARGE
    )
    for first, second in _TWO_LENGTHS:
        for name in ("Content-Length", "content-length"):
            line = f"Content-Length: {first}\r\n{name}: {second}\r\n".encode()
            yield _vector((line, "two lengths"), _post(line))
            yield _vector((line, "two lengths and one more"), _post(line, _BODY + _HIDDEN))
    for coding in _CODINGS:
        line = f"Transfer-Encoding: {coding}\r\n".encode()
        yield _coded((coding,), line, _CHUNKS)
        yield _coded((coding, "and one more"), line, _CHUNKS + _HIDDEN)
        yield _coded((coding, "and a body that is one"), line, _HIDDEN)
    for one, other in _BOTH:
        for head in (one + other, other + one):
            yield _coded((head, "both"), head, _CHUNKS)
            yield _coded((head, "both, and one more"), head, b"0\r\n\r\n" + _HIDDEN)
            yield _coded((head, "both, in two parts"), head, b"4\r\n", _HIDDEN)
    old = b"POST /api/show HTTP/1.0\r\n" + HOST + AGENT
    yield _vector("chunks before 1.1", old + _CHUNKED + b"\r\n" + _CHUNKS)
    yield _vector(
        "chunks before 1.1, kept alive",
        old + _CHUNKED + b"Connection: keep-alive\r\n\r\n" + _CHUNKS + _HIDDEN,
    )


def _coded(name: tuple[object, ...], head: bytes, *body: bytes) -> Vector:
    """Refused, be it for its coding or for what follows: the parser looks at all of it first."""
    first, *more = body
    return Vector(f"{name!r}", (_post(head, first), *more), frozenset({_REFUSED, _UNKNOWN_CODING}))


def _chunks() -> Iterator[Vector]:
    for line in _BAD_CHUNKS:
        body = line + _BODY + b"\r\n0\r\n\r\n"
        yield _vector(("chunk", line[:30]), _post(_CHUNKED, body))
        yield _vector(("chunk", line[:30], "and one more"), _post(_CHUNKED, body + _HIDDEN))
        yield _vector(("chunk", line[:30], "later"), _post(_CHUNKED, b""), body)
    for line in _ENDLESS:
        yield _vector(("chunk", line), _post(_CHUNKED, line + _BODY), status=_TOO_SLOW)
        yield _vector(("chunk", line, "later"), _post(_CHUNKED, b""), line + _BODY, status=_TOO_SLOW)
    for end in _BAD_ENDS:
        body = b"10\r\n" + _BODY + end
        yield _vector(("end", end), _post(_CHUNKED, body))
        yield _vector(("end", end, "and one more"), _post(_CHUNKED, body + _HIDDEN))
    for body in _GOOD_CHUNKS:
        yield _vector(("chunks", body), _post(_CHUNKED, body), status=_TAKEN, executed=(1,))
        yield _vector(("chunks", body, "later"), _post(_CHUNKED, b""), body, status=_TAKEN, executed=(1,))
        for more in (_HIDDEN, _LAST):
            yield _last(("chunks", body, more[-9:]), _post(_CHUNKED, body) + more)


def _last(name: object, *sent: bytes) -> Vector:
    """A request after which nothing more is heard: done, or refused with what came at the same time."""
    return Vector(f"{name!r} and more", sent, frozenset({_TAKEN, _REFUSED}), (0, 1))


def _several() -> Iterator[Vector]:
    """One after the other, one inside the other, and what else is asked of a connection."""
    yield _vector("two", _post() + _LAST, status=_TAKEN, executed=(2,))
    yield _vector("two, one by one", _post(), _LAST, status=_TAKEN, executed=(2,))
    yield _vector("ten", _get() * 9 + _LAST, status=_TAKEN, executed=(10,))
    yield _vector("forty", _get() * 39 + _LAST, status=_TAKEN, executed=(40,))
    inside = b"Content-Length: %d\r\n" % len(_HIDDEN)
    hiding = _get(inside) + _HIDDEN
    yield _vector("one in the body of a GET", hiding + _LAST, status=_TAKEN, executed=(2,))
    yield _vector("one in the body, later", _get(inside), _HIDDEN, _LAST, status=_TAKEN, executed=(2,))
    for line, status in _UNREAD:
        unread = hiding.replace(b"GET /v1/models/tiny", line, 1)
        yield _vector((line, "with one in its body"), unread, _LAST, status=status, executed=(1,))
    for options in (
        b"close",
        b"close, keep-alive",
        b"keep-alive, close",
        b"close\r\nConnection: keep-alive",
        b"CLOSE",
    ):
        yield _last(("connection", options), _get(b"Connection: " + options + b"\r\n"), _HIDDEN)
    for named in (b"Transfer-Encoding", b"Content-Length", b"Host", b"User-Agent"):
        line = b"Connection: " + named + b"\r\n" + _LENGTH
        yield _vector(("named", named), _post(line), _LAST, status=_TAKEN, executed=(2,))
    for wish in (b"websocket", b"h2c", b"HTTP/2.0", b"TLS/1.0", b"x", b"websocket, h2c"):
        line = b"Connection: Upgrade\r\nUpgrade: " + wish + b"\r\n"
        for sent in (_get(line), _post(line + _LENGTH), _post(line + _CHUNKED, _CHUNKS)):
            yield _vector(("upgrade", wish, sent[:4]), sent + _HIDDEN, status=_TAKEN, executed=(1,))
    for target in (b"localhost:443", b"evil.example:443", b"localhost", b"http://localhost/", b"[::1]:1"):
        tunnel = b"CONNECT " + target + b" HTTP/1.1\r\n" + HOST + AGENT
        for head in (tunnel, tunnel + inside):
            opened = head + b"\r\n" + _HIDDEN
            yield Vector(f"a tunnel to {target!r} {len(head)}", (opened,), frozenset({400, 404, 405}))
    for odd in _ODD:
        yield _vector(("odd", odd[:40]), odd, status=_TAKEN, executed=(1,))
