"""One question over HTTP and its answer, with one deadline for the whole of it.

The standard library's client bounds each read, not the exchange, and takes a sixth of the time a command may
need only to be imported. HTTP/1.0 it is: the answer ends where the connection does, never chunked (RFC 1945).
"""

import re
import socket
import time
from dataclasses import dataclass
from typing import Final

from ollama_dist.node.setting_values import Address

BIGGEST_ANSWER: Final = 32 * 1024 * 1024

_HEAD: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")
_LENGTH: Final = re.compile(rb"(?im)^content-length:[ \t]*(\d+)[ \t]*\r$")


class BadAnswer(Exception):
    """What came back is not a whole HTTP answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content: bytes


def ask(
    address: Address,
    method: str,
    path: str,
    *,
    patience_s: float,
    body: bytes | None = None,
    bearer: str | None = None,
) -> Answer:
    """Send a request and read its answer, all within ``patience_s``.

    Raises `OSError` (`ConnectionRefusedError`, `TimeoutError`, `socket.gaierror`, …) and `BadAnswer`.
    """
    deadline = time.monotonic() + patience_s
    with socket.create_connection((address.host, address.port), timeout=patience_s) as connection:
        connection.sendall(_request(address, method, path, body, bearer))
        return _parse(_read(connection, deadline))


def _request(address: Address, method: str, path: str, body: bytes | None, bearer: str | None) -> bytes:
    lines = [f"{method} {path} HTTP/1.0", f"Host: {address}", "Accept: application/json"]
    if bearer is not None:
        lines.append(f"Authorization: Bearer {bearer}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def _read(connection: socket.socket, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size <= BIGGEST_ANSWER:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the answer took too long")
        connection.settimeout(remaining)
        part = connection.recv(262_144)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    raise BadAnswer(f"more than {BIGGEST_ANSWER} bytes")


def _parse(data: bytes) -> Answer:
    head = _HEAD.match(data)
    if head is None:
        raise BadAnswer("not HTTP" if data else "closed without an answer")
    content = data[head.end() :]
    length = _LENGTH.search(head[2])
    if length is not None and int(length[1]) != len(content):
        raise BadAnswer(f"{len(content)} of {int(length[1])} bytes")
    return Answer(int(head[1]), content)
