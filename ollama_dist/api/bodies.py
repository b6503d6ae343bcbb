"""Reading what a caller sends, within bounds of size and of patience."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

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


class PacedBody:
    """The client's body as it comes, for whoever sends it on: `trouble` is why it ended early, if it did."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self.trouble: BadRequest | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        ask_for_it(self._request)
        waited = 0.0
        received = 0
        while True:
            asked_at = asyncio.get_running_loop().time()
            # Only the client's own time counts: whoever takes the bytes may be slow as well.
            patience = PATIENCE_S + received / SLOWEST_BYTES_PER_S - waited
            try:
                async with asyncio.timeout(patience):
                    part = await _next_part(self._request)
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
    ask_for_it(request)
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


def ask_for_it(request: web.BaseRequest) -> None:
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
