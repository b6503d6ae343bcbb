"""Small answers the way Go's net/http and Gin send them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from aiohttp import web

from ollama_dist.core.errors import BadRequest
from ollama_dist.wire import gojson
from ollama_dist.wire.gotypes import Struct, decode
from tests.support.recordings import Recorded

JSON: Final = "application/json; charset=utf-8"
GO_BUFFER_BYTES: Final = 2048
"""Go announces the length of what fits its buffer and sends the rest in chunks."""


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, *, early: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.early = early
        """Found before the handler proper began: on ``/v1`` such errors are written by other code."""


def decoded(body: bytes, struct: Struct, *, when_empty: str = "missing request body") -> dict[str, Any]:
    """The fields of ``body``; raises `Refused` in Ollama's words."""
    try:
        return decode(body, struct)
    except gojson.EmptyBody:
        raise Refused(400, when_empty, early=True) from None
    except BadRequest as error:
        raise Refused(400, str(error), early=True) from None


def json_answer(status: int, document: Any, *, line: bool = False, chunked: bool = False) -> web.Response:
    """A JSON body; with ``line`` as the ``/v1`` middleware writes it: its own type, and a line end."""
    body = gojson.encode(document) + b"\n" * line
    response = web.Response(status=status, body=body)
    response.headers["Content-Type"] = "application/json" if line else JSON
    if chunked or len(body) > GO_BUFFER_BYTES:
        response.enable_chunked_encoding()
    return response


def text_answer(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=text.encode(), headers={"Content-Type": "text/plain", **(headers or {})}
    )


async def send_lines(request: web.Request, lines: list[dict[str, Any]], line_s: float) -> web.StreamResponse:
    """Progress, a line every ``line_s`` seconds."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    for number, line in enumerate(lines):
        await asyncio.sleep(line_s if number else 0)
        await response.write(gojson.encode_line(line))
    await response.write_eof()
    return response


def lines_answer(lines: list[dict[str, Any]], *, stream: bool) -> web.Response:
    """Progress, line by line, or its last line alone."""
    if stream:
        body = flushed([gojson.encode_line(line) for line in lines])
        return web.Response(body=body, headers={"Content-Type": "application/x-ndjson"})
    status = 500 if "error" in lines[-1] else 200
    return web.Response(
        status=status, body=gojson.encode(lines[-1]), headers={"Content-Type": "application/json"}
    )


def recorded_answer(exchange: Recorded) -> web.Response:
    """An answer as it is on record, for requests whose answer depends on nothing else."""
    is_chunked = ("Transfer-Encoding", "chunked") in exchange.answer_headers
    response = web.Response(
        status=exchange.status, body=flushed(exchange.chunks) if is_chunked else exchange.answer
    )
    for name, value in exchange.answer_headers:
        if name not in ("Transfer-Encoding", "Content-Length"):
            response.headers[name] = value
    return response


def moved_answer(status: int, location: str, text: str, method: str) -> web.Response:
    if method != "GET":
        return web.Response(status=307, headers={"Location": location})
    body = f'<a href="{location}">{text}</a>.\n\n'
    headers = {"Location": location, "Content-Type": "text/html; charset=utf-8"}
    return web.Response(status=status, body=body.encode(), headers=headers)


async def flushed(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """A body of which every part is a chunk of its own."""
    for chunk in chunks:
        yield chunk


async def without_own_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Go names no server, and no type for an answer without a body."""
    response.headers.popall("Server", None)
    if isinstance(response, web.Response) and not response.body:
        response.headers.popall("Content-Type", None)
