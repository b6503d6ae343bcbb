"""Answers as aiohttp takes them from a handler: whole ones, and ones that are written as they come."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

Header = tuple[str, str]

_WITHOUT_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
"""RFC 9110 §6.4.1."""

_BYTES: Final = "application/octet-stream"


class StreamResponse(web.StreamResponse):
    """Does not tell by what program it was written: Ollama's answers have no ``Server`` header either."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall("Server", None)


class Response(web.StreamResponse):
    """A whole answer: its head is made in one go, and written together with its body.

    aiohttp's own does the same with more ado, for it can do more: compress, set cookies, be read from a file.
    """

    def __init__(self, body: bytes = b"", *, status: int = 200, headers: Iterable[Header] = ()) -> None:
        super().__init__(status=status)
        for name, value in headers:
            self.headers.add(name, value)
        self.body = body
        self._writer: AbstractStreamWriter | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Hand the head over, to be written with the body. Raises `ValueError` for one that would be two."""
        headers, body = self.headers, self.body
        if self.status in _WITHOUT_BODY:
            self.body = b""
        elif request.method == "HEAD":
            if body:
                headers["Content-Length"] = str(len(body))
            self.body = b""
        else:
            headers["Content-Length"] = str(len(body))
            if body:
                headers.setdefault("Content-Type", _BYTES)
        headers["Date"] = rfc822_formatted_time()
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        is_newest = request.version >= (1, 1)
        if self._keep_alive is not is_newest:  # else it is what goes without saying (RFC 9112 §9.3)
            headers["Connection"] = "keep-alive" if self._keep_alive else "close"
        version = "1.1" if is_newest else "1.0"
        self._writer = request.writer
        await self._writer.write_headers(f"HTTP/{version} {self.status} {self.reason}", headers)
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:
        assert self._writer is not None
        assert not data
        await self._writer.write_eof(self.body)
