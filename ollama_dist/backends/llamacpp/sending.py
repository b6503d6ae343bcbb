"""Answers on their way to a client, streamed or whole; a failure within a stream looks like one."""

import asyncio
import contextlib
import time
from typing import Final

from aiohttp import web

from ollama_dist.backends.llamacpp.inference import Answer, Rendered, Running, Shortcut
from ollama_dist.core.dialects import Dialect
from ollama_dist.core.errors import DistError, UpstreamFailed
from ollama_dist.wire.errors import stream_error
from ollama_dist.wire.llamacpp.native import ChatWriter, GenerateWriter
from ollama_dist.wire.llamacpp.pieces import Piece, gathered
from ollama_dist.wire.llamacpp.writer import JSON_UTF8, Writer

HIGH_WATER_BYTES: Final = 64 * 1024
"""Bytes waiting for a slow client beyond which we wait for it before reading more."""

STALL_S: Final = 120.0
"""A client that takes nothing for so long has its answer taken away."""


class ClientStalled(DistError):
    """The client stopped reading."""

    code = "client_stalled"


class StreamReply(web.StreamResponse):
    """Does not tell by what program it was written: Ollama's answers have no ``Server`` header either."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall("Server", None)


class Reply(StreamReply, web.Response):
    """A whole answer, as reticent."""


def reply(body: bytes, content_type: str = JSON_UTF8, status: int = 200) -> web.Response:
    headers = {"Content-Type": content_type} if body else {}
    return Reply(status=status, body=body, headers=headers)


async def send(
    request: web.BaseRequest, writer: Writer, answer: Answer, *, stream: bool
) -> web.StreamResponse:
    """Give ``answer`` to the client in the dialect of ``writer``.

    Raises `UpstreamFailed` as long as nothing was sent, `ClientStalled`, and ConnectionError when the client
    has left.
    """
    match answer:
        case Rendered(prompt):
            assert isinstance(writer, (ChatWriter, GenerateWriter)), "only Ollama's own routes render"
            return reply(writer.rendered(prompt, time.time()))
        case Shortcut(finish):
            if stream and not isinstance(writer, (ChatWriter, GenerateWriter)):
                return reply(writer.finish(finish, time.time()), writer.stream_type)
            return reply(writer.whole(Piece(), finish, time.time()), writer.whole_type)
        case Running() if stream:
            return await _stream(request, writer, answer)
        case Running():
            pieces = [piece async for batch in answer.batches() for piece in batch]
            finish = await answer.finish()
            return reply(writer.whole(gathered(pieces), finish, time.time()), writer.whole_type)


async def _stream(request: web.BaseRequest, writer: Writer, running: Running) -> web.StreamResponse:
    batches = running.batches()
    first = await anext(batches, None)
    response = StreamReply(headers={"Content-Type": writer.stream_type} | _uncached(writer.dialect))
    if request.version >= (1, 1):
        response.enable_chunked_encoding()
    await response.prepare(request)
    try:
        if first is not None:
            await _write(request, response, writer, first)
            async for batch in batches:
                await _write(request, response, writer, batch)
        last = writer.finish(await running.finish(), time.time())
    except UpstreamFailed as failure:
        await _end_as_failure(request, response, writer, failure)
    else:
        await response.write(last)
        await response.write_eof()
    return response


def _uncached(dialect: Dialect) -> dict[str, str]:
    """Ollama says this of streams in the younger two dialects."""
    return {"Cache-Control": "no-cache"} if dialect in (Dialect.RESPONSES, Dialect.ANTHROPIC) else {}


async def _write(
    request: web.BaseRequest, response: web.StreamResponse, writer: Writer, batch: list[Piece]
) -> None:
    now = time.time()
    await response.write(b"".join(writer.piece(piece, now) for piece in batch))
    transport = request.transport
    if transport is None or transport.get_write_buffer_size() <= HIGH_WATER_BYTES:
        return
    try:
        async with asyncio.timeout(STALL_S):
            await request.writer.drain()
    except TimeoutError as error:
        transport.abort()
        raise ClientStalled(f"the client read nothing for {STALL_S:.0f} s") from error


async def _end_as_failure(
    request: web.BaseRequest, response: web.StreamResponse, writer: Writer, failure: UpstreamFailed
) -> None:
    """Tell it in the dialect, and leave out the end of the body: nobody is to take this for an answer."""
    transport = request.transport
    with contextlib.suppress(ConnectionError):  # the client may have left meanwhile
        await response.write(stream_error(writer.dialect, str(failure)))
        if transport is not None:
            transport.close()  # what is written goes out first
