"""Answers as aiohttp takes them from a handler: whole ones, and ones that are written as they come."""

import re
from collections.abc import Iterable, Mapping
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

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""RFC 9110 §5.5: what makes of one header two, or of a head something else."""


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

    def __init__(self, body: bytes = b"", *, status: int = 200, headers: Iterable[Header] = ()) -> None:
        self._status = status
        self.body = body
        self._lines = [*headers]
        self._request: web.BaseRequest | None = None
        self._head = b""

    @property
    def headers(self) -> NoReturn:
        raise TypeError("the headers of a whole answer are said when it is made, or added")

    def add(self, name: str, value: str) -> None:
        self._lines.append((name, value))

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Make the head, to be written with the body. Raises `ValueError` for one that would be two."""
        self._request = request
        status, lines = self._status, self._lines
        keep_alive = self._keep_alive
        if keep_alive is None:
            keep_alive = self._keep_alive = request.keep_alive
        lines.append(("Date", rfc822_formatted_time()))
        is_newest = request.version >= (1, 1)
        if keep_alive is not is_newest:  # else it is what goes without saying (RFC 9112 §9.3)
            lines.append(("Connection", "keep-alive" if keep_alive else "close"))
        is_head = request.method == "HEAD"
        if status not in _WITHOUT_BODY and (self.body or not is_head):
            lines.append(("Content-Length", str(len(self.body))))
        text = "".join(map("".join, lines))
        if not text.isprintable() and _CONTROL.search(text):
            raise ValueError("a header with a control character in it")
        said = "\r\n".join(map(": ".join, lines))
        self._head = f"{_status_line(is_newest, status)}{said}\r\n\r\n".encode("utf-8", "ignore")
        if is_head or status in _WITHOUT_BODY:
            self.body = b""
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Raises `ConnectionResetError` where the client has left."""
        assert self._request is not None
        assert not data
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        said = self._head + self.body
        transport.write(said)
        self._request.writer.output_size += len(said)


@lru_cache(maxsize=128)
def _status_line(is_newest: bool, status: int) -> str:
    reason = HTTPStatus(status).phrase if status in _KNOWN else ""
    return f"HTTP/1.{is_newest:d} {status} {reason}\r\n"
