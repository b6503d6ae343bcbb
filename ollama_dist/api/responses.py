"""Answers as aiohttp takes them from a handler: whole ones, and ones that are written as they come."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NoReturn

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

Header = tuple[str, str]

_KNOWN: Final = frozenset(HTTPStatus)
_WITHOUT_BODY: Final = (204, 304)
"""RFC 9110 §6.4.1."""

_NO_CONTROL: Final = bytes({*range(256)} - {*range(9), *range(10, 32), 127})
"""What does not make of one header two, or of a head something else (RFC 9110 §5.5)."""

_LINE_ENDS: Final = b"\r\n" * 256


class StreamResponse(web.StreamResponse):
    """Does not tell by what program it was written: Ollama's answers have no ``Server`` header either.

    ``holds_head`` is whether the head waits for the first of the body, to be written with it.
    """

    def __init__(
        self, *, status: int = 200, headers: Mapping[str, str] | None = None, holds_head: bool = False
    ) -> None:
        super().__init__(status=status, headers=headers)
        self._send_headers_immediately = not holds_head

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall("Server", None)


class Response(web.StreamResponse):
    """A whole answer: its head is made in one go, and written together with its body.

    aiohttp's own does the same with more ado, for it can do more: compress, set cookies, be read from a file.
    What the base class keeps for an answer that is written piece by piece is not even made.
    """

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        standing: tuple[Header, ...] = (),
        headers: Iterable[Header] = (),
    ) -> None:
        """``standing`` are headers that other answers have as well: how they are written is remembered."""
        self._status = status
        self.body = body
        self._standing = standing
        self._lines = [*headers]
        self._request: web.BaseRequest | None = None
        self._said = b""

    @property
    def headers(self) -> NoReturn:
        raise TypeError("the headers of a whole answer are said when it is made, or added")

    def add(self, name: str, value: str) -> None:
        self._lines.append((name, value))

    def said(self, *, keep_alive: bool, is_newest: bool = True, is_head: bool = False) -> bytes:
        """Head and body as they are written. Raises `ValueError` for a head that would be two."""
        status, lines, body = self._status, self._lines, self.body
        if keep_alive is not is_newest:  # else it is what goes without saying (RFC 9112 §9.3)
            lines.append(("Connection", "keep-alive" if keep_alive else "close"))
        if status in _WITHOUT_BODY:
            body, end = b"", b"\r\n"
        elif body or not is_head:
            end = b"Content-Length: %d\r\n\r\n" % len(body)
        else:
            end = b"\r\n"
        begun = _begun(is_newest, status, self._standing)
        return b"".join((begun, _written(lines), _date(), end, b"" if is_head else body))

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Make what is to be written. Raises `ValueError`."""
        self._request = request
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        self._said = self.said(
            keep_alive=bool(self._keep_alive),
            is_newest=request.version >= (1, 1),
            is_head=request.method == "HEAD",
        )
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Raises `ConnectionResetError` where the client has left."""
        assert self._request is not None
        assert not data
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        transport.write(self._said)
        self._request.writer.output_size += len(self._said)


class Streamed(web.StreamResponse):
    """An answer that is written as it comes, by ``write``; ``ended`` hears that it was ended as it must be.

    Its head is written with the first of its body. For clients of HTTP/1.1, whose connection goes on.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        ended: Callable[[], None],
        status: int,
        headers: Iterable[Header],
        length: int | None,
    ) -> None:
        self._put = write
        self._ended = ended
        self._is_chunked = length is None
        framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
        self._said = b"".join((_begun(True, status, ()), _written([*headers, framing]), _date(), b"\r\n"))

    def write_head(self) -> None:
        said, self._said = self._said, b""
        self._put(said)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Raises `ConnectionResetError` where the client has left."""
        if data:
            said, self._said = self._said, b""
            self._put(b"".join((said, framed(data) if self._is_chunked else data)))

    async def write_eof(self, data: bytes = b"") -> None:
        """Raises `ConnectionResetError` where the client has left."""
        said, self._said = self._said, b""
        if not self._is_chunked:
            rest = said + data
        else:
            rest = b"".join((said, framed(data) if data else b"", b"0\r\n\r\n"))
        if rest:
            self._put(rest)
        self._ended()


def framed(data: bytes | bytearray | memoryview) -> bytes:
    """``data``, of which there is some, as one chunk (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)  # type: ignore[str-format]  # any bytes will do


def refused(status: int) -> Response:
    """What Go's server says to what is no request: the status in words, and the connection is over."""
    text = f"{status} {HTTPStatus(status).phrase}"
    response = Response(text.encode(), status=status, headers=[("Content-Type", "text/plain; charset=utf-8")])
    response.force_close()
    return response


@lru_cache(maxsize=512)
def _begun(is_newest: bool, status: int, standing: tuple[Header, ...]) -> bytes:
    """The beginning of a head as it is written, the status line and some of its headers; as `_written`."""
    reason = HTTPStatus(status).phrase if status in _KNOWN else ""
    return f"HTTP/1.{is_newest:d} {status} {reason}\r\n".encode() + _written(standing)


def _date() -> bytes:
    return _date_at(int(time.time()))


@lru_cache(maxsize=1)
def _date_at(_second: int) -> bytes:
    return f"Date: {rfc822_formatted_time()}\r\n".encode()


def _written(lines: Sequence[Header]) -> bytes:
    """Headers as they are written; raises `ValueError` where one would make two of the head."""
    said = "\r\n".join([*map(": ".join, lines), ""]).encode("utf-8", "ignore")
    if said.translate(None, _NO_CONTROL) != _LINE_ENDS[: 2 * len(lines)]:
        raise ValueError("a header with a control character in it")
    return said
