"""Host headers: those of this machine and its network, strangers', and what is no host at all."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.support.hostile.vectors import AGENT, CLOSE, Vector

_GOOD: Final = (
    *("localhost", "LOCALHOST", "LocalHost", "localhost.", "localhost:", "localhost:1", "localhost:65535"),
    *("localhost:11434", "localhost.:11434", "127.0.0.1", "127.0.0.1:11434", "127.1.2.3", "127.255.255.254"),
    *("[::1]", "[::1]:11434", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "0.0.0.0", "0.0.0.0:80", "[::]"),
    *("10.0.0.1", "10.255.255.255:1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255:8"),
    *("[fd00::1]", "[fc00::1]:11434", "[FD00::A]", "[::ffff:10.0.0.1]"),
    *("desk.local", "DESK.LOCAL", "desk.local.", "a.b.c.local:11434", "x.localhost", "x-y.localhost:3000"),
    *("node.internal", "a.internal.", "host.docker.internal:11434", "under_score.local"),
    *(socket.gethostname(), socket.gethostname().upper(), f"{socket.gethostname()}:11434"),
)

_STRANGE: Final = (
    *(
        "evil.example",
        "evil.example:11434",
        "EVIL.example.",
        "localhost.evil.example",
        "evil.localhost.example",
    ),
    *("127.0.0.1.nip.io", "127.0.0.1.evil.example", "127-0-0-1.evil.example", "localhost.localdomain"),
    *(
        "local",
        "internal",
        "notlocal",
        "evillocal",
        "xlocalhost",
        "localhostx",
        "localhost-evil",
        "local.evil",
    ),
    *("internal.evil", "desk.local.evil.example", "desk.locale", "8.8.8.8", "8.8.8.8:11434", "1.1.1.1"),
    *(
        "172.15.255.255",
        "172.32.0.1",
        "192.169.0.1",
        "11.0.0.1",
        "9.255.255.255",
        "126.255.255.255",
        "128.0.0.1",
    ),
    *("169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.1", "198.18.0.1"),
    *("[2001:4860:4860::8888]", "[2001:db8::1]:1", "[fe80::1]", "[ff02::1]", "[::2]", "[::ffff:8.8.8.8]"),
    *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fbff::1]", "[fe00::1]", "[::127.0.0.1]"),
    *(
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "127.0.1",
        "127.0.0.01",
    ),
    *("127.0.0.1.1", "127.0.0", "0", "0x0", "1", "256.0.0.1", "xn--lcalhost-n6a", "-", "_", "localhost_"),
)

_MALFORMED: Final = (
    *("", ":", ":80", ":11434", ".", "..", ".local", ".localhost", "a..local", "localhost..", "..localhost"),
    *("user@localhost", "user:pass@localhost", "@localhost", "localhost@", "evil.example@localhost:1"),
    *("localhost@evil.example", "localhost:80@evil.example", "localhost/", "localhost/x", "/", "/localhost"),
    *(
        "localhost//",
        "localhost\\",
        "\\localhost",
        "localhost\\@evil",
        "localhost#",
        "localhost#x",
        "#localhost",
    ),
    *("localhost?", "localhost?x", "?localhost", "local host", "localhost evil.example", "localhost\tevil"),
    *(
        "localhost :80",
        "localhost: 80",
        "localhost:80 x",
        "localhost:x",
        "localhost:99999",
        "localhost:65536",
    ),
    *("localhost:-1", "localhost:+80", "localhost:0x50", "localhost:8 0", "localhost:80:80", "localhost:80:"),
    *(
        "localhost::80",
        "localhost:123456789012",
        "localhost:1e3",
        "localhost:80.0",
        "localhost:٨٠",
        "localhost:²",
    ),
    *("127.0.0.1:x", "127.0.0.1/", "127.0.0.1@evil", "127.0.0.1 ,", "127.0.0.1%00"),
    *("[::1", "::1", "::1]", "[::1]x", "[::1]:x", "[::1]:99999", "[::1]]", "[[::1]]", "[]", "[:]", "[]:80"),
    *("[::1%25lo]", "[::1%lo]", "[fe80::1%25eth0]", "[1:2]", "[::g]", "[127.0.0.1]", "[localhost]", "[::1 ]"),
    *("[v1.x]", "[::1]/x", "user@[::1]", "1:2:3:4:5:6:7:8", "::ffff:127.0.0.1"),
    *(
        "localhost,localhost",
        "localhost, evil.example",
        "localhost;x",
        "localhost,",
        ",localhost",
        "localhost;",
    ),
    *(
        "loc%61lhost",
        "localhost%00",
        "localhost%2e",
        "localhost%0d%0aX:y",
        "%6c",
        "*",
        "*.local",
        "localhost*",
    ),
    *(
        "http://localhost",
        "http://localhost/",
        "//localhost",
        "https://127.0.0.1:11434",
        "localhost&x",
        "a=b",
    ),
    *("localhost'", '"localhost"', "'localhost'", "<localhost>", "(localhost)", "{localhost}", "$localhost"),
    *(
        "lοcalhost",
        "locаlhost",
        "ｌocalhost",
        "localhost。",
        "127。0。0。1",
        "①②⑦.0.0.1",
        "ſ.local",
        "é.local",
    ),
    *("a" * 64 + ".local", "a." * 200 + "local", "a" * 5000),
)

_MALFORMED_BYTES: Final = (
    *(b"localhost\x00", b"\x00", b"local\x01host", b"localhost\x7f", b"local\x0bhost", b"localhost\x1b[0m"),
    *(b"\xff", b"localhost\xff", b"\xc0\xae", b"localhost\x80", b"loc\xe1lhost", b"\xef\xbb\xbflocalhost"),
)

_TWICE: Final = (
    ("localhost", "localhost"),
    ("localhost", "evil.example"),
    ("evil.example", "localhost"),
    ("", "localhost"),
    ("localhost", ""),
)


@dataclass(frozen=True, slots=True)
class _Way:
    """Where a Host is tried, and what happens there when it is a good one."""

    method: bytes
    path: bytes
    body: bytes
    status: int
    asks_engine: int

    def request(self, hosts: bytes, last: bytes = b"", version: bytes = b"HTTP/1.1") -> tuple[bytes]:
        length = b"Content-Length: %d\r\n" % len(self.body) if self.body else b""
        line = b" ".join((self.method, self.path, version))
        return (line + b"\r\n" + hosts + AGENT + length + last + b"\r\n" + self.body,)

    def let_in(self, name: object, hosts: bytes, version: bytes = b"HTTP/1.1") -> Vector:
        sent = self.request(hosts, CLOSE, version)
        return Vector(self.name(name), sent, frozenset({self.status}), (self.asks_engine,))

    def strange(self, name: object, hosts: bytes) -> Vector:
        return Vector(self.name(name), self.request(hosts, CLOSE), frozenset({403}))

    def malformed(self, name: object, hosts: bytes) -> Vector:
        return Vector(self.name(name), self.request(hosts), frozenset({400}), body=b"400 Bad Request")

    def name(self, host: object) -> str:
        return f"host {host!r} on {self.method.decode()} {self.path.decode()}"


_WAYS: Final = (
    _Way(b"GET", b"/v1/models/tiny", b"", 200, 1),
    _Way(b"DELETE", b"/api/delete", b'{"model":"gone"}', 404, 1),
    _Way(b"GET", b"//api/tags", b"", 307, 0),
)


def vectors() -> Iterator[Vector]:
    for way in _WAYS:
        for host in _GOOD:
            yield way.let_in(host, f"Host: {host}\r\n".encode())
        yield way.let_in("none in HTTP/1.0", b"", b"HTTP/1.0")  # Go takes it, and load balancers send it
        yield way.let_in("in HTTP/1.0", b"Host: localhost\r\n", b"HTTP/1.0")
        yield way.let_in("a lower-case name, blanks", b"host: \t localhost \t\r\n")
        for host in _STRANGE:
            yield way.strange(host, f"Host: {host}\r\n".encode())
        yield from _malformed(way)


def _malformed(way: _Way) -> Iterator[Vector]:
    # Go takes an empty Host, and Ollama lets it in. No browser sends one and no client has a reason to: what
    # is left is a proxy that took the name away, so nobody knows whose name it was.
    for host in _MALFORMED:
        yield way.malformed(host[:40], f"Host: {host}\r\n".encode())
    for raw in _MALFORMED_BYTES:
        yield way.malformed(raw, b"Host: " + raw + b"\r\n")
    for first, second in _TWICE:
        for name in ("Host", "host", "HOST"):
            yield way.malformed((name, first, second), f"Host: {first}\r\n{name}: {second}\r\n".encode())
    yield way.malformed("none", b"")
    yield way.malformed("folded", b"Host: localhost\r\n .evil.example\r\n")
    yield way.malformed("a blank before the colon", b"Host : localhost\r\n")
    yield way.malformed("a null byte in the name", b"Ho\x00st: localhost\r\n")
