"""Reading what a caller sends, within bounds of size and of patience."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Protocol, runtime_checkable

from aiohttp import web

from ollama_dist.api.framing import expects_to_go_on
from ollama_dist.core.errors import BadRequest, TooLarge

PATIENCE_S: Final = 10.0
SLOWEST_BYTES_PER_S: Final = 1024
"""After `PATIENCE_S` a body must have come in at least this fast, or its sender is not really sending."""


class TooSlow(BadRequest):
    """The body dribbles in."""

    status = 408
    code = "too_slow"


class BrokenBody(BadRequest):
    """What came is no part of a body."""

    code = "broken_body"


DIVERTED_BYTES: Final = 2**20
"""Of a body this long and longer the rest goes past the parser."""

_HELD_BYTES: Final = 256 * 1024
"""What may wait here to be sent on; a loop reads as much at once, and so much more may come."""


class Rest:
    """What is still to come of a body of known length, taken from its connection before a parser sees it."""

    def __init__(self, size: int, transport: asyncio.Transport) -> None:
        self._left = size
        self._transport = transport
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._is_wanted = True
        self._is_lost = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        """Take what came. Of a body that nobody wants any more, and beyond its end, it is dropped."""
        if not self._is_wanted or not self._left:
            return
        part = data[: self._left]
        self._left -= len(part)
        self._held += len(part)
        self._parts.append(part)
        if self._held >= _HELD_BYTES:
            self._transport.pause_reading()
        self._wake()

    def lose(self) -> None:
        """The client has left."""
        self._is_lost = True
        self._wake()

    def drop(self) -> None:
        """Nobody wants more of it. What comes is read all the same: a client reads its answer after that."""
        self._is_wanted = False
        self._parts.clear()
        if not self._is_lost:
            self._transport.resume_reading()

    async def next(self) -> bytes:
        """The next bytes; ``b""`` at the end. Raises `ConnectionResetError`."""
        while not self._parts:
            if not self._left:
                return b""
            if self._is_lost:
                raise ConnectionResetError("the client left before its body came")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        part = self._parts.popleft()
        self._held -= len(part)
        if self._held < _HELD_BYTES and not self._is_lost:
            self._transport.resume_reading()
        return part

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@runtime_checkable
class Diverting(Protocol):
    """A request, or rather its connection, that can give the rest of its body past the parser."""

    def divert(self) -> Rest | None:
        """None where there is no telling how much that is; else no request follows on the connection."""
        ...


class PacedBody:
    """The client's body as it comes, for whoever sends it on: `trouble` is why it ended early, if it did.

    Of a long one most goes past the parser and its buffers, a quarter of what sending it on costs.
    """

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._rest: Rest | None = None
        self.trouble: BadRequest | None = None

    def drop(self) -> None:
        """Nobody wants more of it."""
        if self._rest is not None:
            self._rest.drop()

    async def _next_part(self) -> bytes:
        if self._rest is None and self._request.content.total_bytes:
            if part := self._request.content.read_nowait():
                return part
            if isinstance(self._request, Diverting):
                self._rest = self._request.divert()
        if self._rest is not None:
            return await self._rest.next()
        return await _next_part(self._request)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        _ask_for_it(self._request)
        waited = 0.0
        received = 0
        while True:
            asked_at = asyncio.get_running_loop().time()
            # Only the client's own time counts: whoever takes the bytes may be slow as well.
            patience = PATIENCE_S + received / SLOWEST_BYTES_PER_S - waited
            try:
                async with asyncio.timeout(patience):
                    part = await self._next_part()
            except TimeoutError as error:
                self.trouble = TooSlow("the body came in too slowly")
                raise self.trouble from error
            except BrokenBody as error:
                self.trouble = error
                raise
            if not part:
                return
            waited += asyncio.get_running_loop().time() - asked_at
            received += len(part)
            yield part


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body; raises `TooLarge` beyond ``limit`` bytes and `TooSlow` when it hardly moves.

    The announced length is looked at first, so what is too large is refused before it is sent. With a
    ``limit`` of 0 nothing is wanted, and what is sent is ignored.
    """
    if not limit:
        return b""
    content = request.content
    if content.is_eof():  # as most bodies are, with their heads; and those that are none
        if content.total_bytes > limit:
            raise TooLarge(f"the body is larger than {limit} bytes")
        return content.read_nowait()
    if (request.content_length or 0) > limit:
        raise TooLarge(f"the body is larger than {limit} bytes")
    began = asyncio.get_running_loop().time()
    parts: list[bytes] = []
    received = 0
    _ask_for_it(request)
    try:
        while not content.at_eof():
            async with asyncio.timeout_at(began + PATIENCE_S + received / SLOWEST_BYTES_PER_S):
                part = await _next_part(request)
            parts.append(part)
            received += len(part)
            if received > limit:
                raise TooLarge(f"the body is larger than {limit} bytes")
    except TimeoutError as error:
        raise TooSlow("the body came in too slowly") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _ask_for_it(request: web.BaseRequest) -> None:
    """Tell a client that holds its body back that it is wanted: when it is about to be read, as Go does."""
    if request.version < (1, 1) or not expects_to_go_on(request.headers.get("Expect", "")):
        return
    if request.content.total_bytes == 0 and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _next_part(request: web.BaseRequest) -> bytes:
    try:
        return await request.content.readany()
    except RuntimeError as error:  # aiohttp's for a connection that is no more
        raise ConnectionResetError("the client left before its body came") from error
