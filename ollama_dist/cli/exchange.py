"""One question over HTTP and its answer, with one deadline for the whole of it.

The standard library's client bounds each read, not the exchange, and takes a sixth of the time a command may
need only to be imported. HTTP/1.0 it is: the answer ends where the connection does, never chunked (RFC 1945).
"""

import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ollama_dist.node.setting_values import Address

BIGGEST_ANSWER: Final = 32 * 1024 * 1024
BIGGEST_HEAD: Final = 65_536

NO_HEADERS: Final[Mapping[str, str]] = {}

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


def ask_lines(
    address: Address,
    method: str,
    path: str,
    *,
    patience_s: float,
    body: bytes | None = None,
    bearer: str | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
) -> Iterator[Answer]:
    """Send a request and give the lines of its answer as they come, each with the answer's status.

    Without a length in its head the answer ends where the connection does. Waits at most ``patience_s`` for
    each piece; raises as `ask`. Closing the iterator hangs up.
    """
    with socket.create_connection((address.host, address.port), timeout=patience_s) as connection:
        connection.sendall(_request(address, method, path, body, bearer, headers))
        held, status, length = b"", 0, None
        while True:
            part = connection.recv(65_536)
            held += part
            if not status:
                head = _HEAD.match(held)
                if head is None:
                    if part and len(held) < BIGGEST_HEAD:
                        continue
                    raise BadAnswer("not HTTP" if held else "closed without an answer")
                status, held = int(head[1]), held[head.end() :]
                found = _LENGTH.search(head[2])
                length = int(found[1]) if found else None
            *lines, held = held.split(b"\n")
            for line in lines:
                length = None if length is None else length - len(line) - 1
                yield Answer(status, line)
            if not part or length == len(held):
                if held:
                    yield Answer(status, held)
                if length is not None and length != len(held):
                    raise BadAnswer("the answer broke off")
                return
            if len(held) > BIGGEST_ANSWER:
                raise BadAnswer(f"a line of more than {BIGGEST_ANSWER} bytes")


def _request(
    address: Address,
    method: str,
    path: str,
    body: bytes | None,
    bearer: str | None,
    headers: Mapping[str, str] = NO_HEADERS,
) -> bytes:
    lines = [f"{method} {path} HTTP/1.0", f"Host: {address}", "Accept: application/json"]
    if bearer is not None:
        lines.append(f"Authorization: Bearer {bearer}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
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
