"""Moving an answer to the client as it arrives, and ending it honestly.

A failure after the first byte cannot be taken back: it ends the stream with the dialect's own in-band error
and then an unclean end of the transport, so that no client can take the torso for a whole.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Sequence
from typing import Final, Protocol, cast

from aiohttp import web

from ollama_dist.api.connections import HIGH_WATER_BYTES
from ollama_dist.api.exchange import Exchange
from ollama_dist.api.heads import Incoming
from ollama_dist.api.responses import Header, framed
from ollama_dist.backends.http1 import Sink
from ollama_dist.core.errors import DistError, UpstreamFailed
from ollama_dist.core.outcomes import Result
from ollama_dist.node.answers import BrokenOff
from ollama_dist.wire.errors import stream_error

STREAMS: Final = ("application/x-ndjson", "text/event-stream")
"""Content types in which an error has a place after the beginning."""

STALL_S: Final = 120.0
"""A client that takes nothing for so long has its answer taken away."""


class Source(Protocol):
    """Where the bytes of an answer come from."""

    async def more(self) -> bytes:
        """The next bytes; ``b""`` at an honest end. Raises `UpstreamFailed` at any other."""
        ...


class Pouring(Source, Protocol):
    """A source that can let what comes run into a sink, with nobody woken for it."""

    @property
    def is_over(self) -> bool:
        """Whether all there is has been read; how it ended ``more`` tells at once."""
        ...

    def pour(self, sink: Sink) -> Awaitable[None]:
        """Until the sink has enough, or ``more`` has something to tell."""
        ...


class ClientStalled(DistError):
    """The client stopped reading."""

    code = "client_stalled"


async def relay(
    exchange: Exchange,
    source: Source,
    *,
    status: int,
    headers: Sequence[Header],
    first: bytes = b"",
    length: int | None = None,
    explain: bool = True,
    splice: bool = False,
) -> web.StreamResponse:
    """Answer with ``first`` and then all that ``source`` gives.

    ``length`` is the Content-Length where it is known, else the answer is chunked. A source that fails ends
    the answer as a failure, which the source itself remembers; ``explain`` is whether the client is told why
    in its dialect, which a node that relays on does itself. With ``splice`` a source that can runs straight
    into the client's transport. Raises `ClientStalled`, and `ConnectionError` when the client has left.
    """
    request = exchange.request
    is_framed = length is not None or request.version >= (1, 1)
    has_place_for_words = any(name.lower() == "content-type" and _is_stream(value) for name, value in headers)
    marked = [*exchange.standing, *exchange.headers, *headers]
    del headers  # they are said, and would lie here for as long as the answer lasts
    response = await request.begin(status, marked, length=length, holds_head=bool(first))
    del marked
    is_poured = splice and length is None and is_framed and hasattr(source, "pour")
    pouring = cast(Pouring, source) if is_poured else None
    data = first
    try:
        while data or (data := await source.more()):
            if pouring is not None and pouring.is_over:
                await source.more()
                break  # what is left is written with the end
            await response.write(data)
            await _keep_pace(request)
            if pouring is not None:
                await pouring.pour(_chunks_to(request))
                await _keep_pace(request)
            data = b""
    except UpstreamFailed as failure:
        if not explain and isinstance(failure, BrokenOff) and failure.result is Result.GAVE_OUT:
            # The engine ended this in due form, and the node that relays on can tell the reason only then.
            await response.write_eof(data)
            return response
        if data:
            await response.write(data)
        explain = explain and has_place_for_words
        await _end_as_failure(exchange, response, failure, explain=explain, is_framed=is_framed)
    else:
        await response.write_eof(data)
    return response


def _is_stream(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in STREAMS


def _chunks_to(request: Incoming) -> Sink:
    """Writes each piece as one chunk to the client, whose head must have been written.

    What comes after a client has left is not taken: the plain way finds out then.
    """
    connection, transport = request.protocol, request.transport
    if transport is None:
        return lambda _data: False
    write = transport.write

    def take(data: bytes) -> bool:
        try:
            write(framed(data))
        except RuntimeError:  # it is closed
            return False
        return not connection._paused  # what it has to send has not grown beyond its high water

    return take


async def _keep_pace(request: Incoming) -> None:
    """Wait for a client that reads more slowly than the engine writes."""
    transport = request.transport
    if transport is None or transport.get_write_buffer_size() <= HIGH_WATER_BYTES:
        return
    try:
        async with asyncio.timeout(STALL_S):
            await request.drain()
    except TimeoutError as error:
        transport.abort()
        raise ClientStalled(f"the client read nothing for {STALL_S:.0f} s") from error


async def _end_as_failure(
    exchange: Exchange,
    response: web.StreamResponse,
    failure: UpstreamFailed,
    *,
    explain: bool,
    is_framed: bool,
) -> None:
    transport = exchange.request.transport
    broken = failure if isinstance(failure, BrokenOff) else None
    is_for_words = not (broken is not None and (broken.is_told or broken.lacks_only_a_line_end))
    with contextlib.suppress(ConnectionError):  # the client may have left meanwhile: then nobody is deceived
        if explain and is_for_words:
            await response.write(
                stream_error(
                    exchange.route.dialect,
                    str(failure),
                    request_id=exchange.id,
                    mid_record=broken is not None and broken.is_mid_record,
                )
            )
        if transport is not None:
            if not is_framed:
                _reset_on_close(transport)
            transport.close()  # what is written goes out first; the terminating chunk is never sent


def _reset_on_close(transport: asyncio.Transport) -> None:
    """Where the connection's end is the answer's, only a reset tells a torso from a whole."""
    handle = transport.get_extra_info("socket")
    if handle is not None:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
