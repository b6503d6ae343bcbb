"""What members ask to copy models: manifests, the hashes of pieces, and bytes of blobs."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, Callable
from typing import Final

import structlog
from aiohttp import web

from ollama_dist.api.exchange import Exchange
from ollama_dist.api.responses import StreamResponse
from ollama_dist.core.errors import BadRequest, DistError, Forbidden, NotFound
from ollama_dist.core.ids import parse_digest, parse_node_id
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.disk.giving import Giver
from ollama_dist.replication.disk.pieces import HASH_BYTES, piece_count
from ollama_dist.replication.disk.store import BlobFile
from ollama_dist.wire.ranges import content_range, read_range

log = structlog.get_logger()

BYTES: Final = "application/octet-stream"

LIST_STEP: Final = 64
"""Pieces whose hashes are worked out before they are sent."""

STALL_S: Final = 30.0
"""A member that takes nothing for so long is given nothing more."""


class Giving:
    """The handlers of the rows below ``/replication``."""

    def __init__(self, giver: Callable[[], Giver]) -> None:
        self._giver = giver

    async def replication_manifest(self, exchange: Exchange) -> web.StreamResponse:
        """The manifest of ``?model=``, byte for byte as the engine has it."""
        name = exchange.full.query.get("model", "")
        if not name:
            raise BadRequest("model is required")
        manifest = await self._giver().manifest(parse_model_name(name))
        return exchange.reply(manifest.raw, content_type=manifest.media_type)

    async def replication_pieces(self, exchange: Exchange) -> web.StreamResponse:
        """The BLAKE3 hashes of a blob's pieces, 32 bytes each; a range is of these bytes."""
        blob = await self._giver().blob(parse_digest(exchange.params["digest"]))
        count = piece_count(blob.size)
        response, start, stop = _begin(exchange, count * HASH_BYTES)
        if start % HASH_BYTES or stop % HASH_BYTES:
            raise BadRequest(f"a range of hashes begins and ends at multiples of {HASH_BYTES}")
        first, last = start // HASH_BYTES, stop // HASH_BYTES

        async def parts() -> AsyncGenerator[bytes | memoryview, None]:
            for at in range(first, last, LIST_STEP):
                yield await self._giver().hashes(blob, at, min(at + LIST_STEP, last))

        return await _send(exchange, response, parts())

    async def replication_blob(self, exchange: Exchange) -> web.StreamResponse:
        """The bytes of a blob, or what of it has come here by now."""
        giver = self._giver()
        blob = await giver.source(parse_digest(exchange.params["digest"]))
        response, start, stop = _begin(exchange, blob.size)
        if isinstance(blob, BlobFile):
            return await _send(exchange, response, giver.read(blob, start, stop))
        return await _send(exchange, response, giver.pass_on(blob, start, stop))

    async def replication_line(self, exchange: Exchange) -> web.StreamResponse:
        """Note that ``?node=`` takes a blob ``?since=`` a time (ms), and say who does and began before."""
        digest = parse_digest(exchange.params["digest"])
        node = parse_node_id(exchange.full.query.get("node", ""))
        since = exchange.full.query.get("since", "")
        if not re.fullmatch("[0-9]{1,15}", since):
            raise BadRequest("since is a time in milliseconds")
        if exchange.tenant not in ("", node):
            raise Forbidden("each member stands in line for itself")
        ahead = self._giver().line.stand(digest, node, int(since), time.monotonic())
        return exchange.reply_json({"ahead": ahead})

    async def replication_check(self, exchange: Exchange) -> web.StreamResponse:
        """Whether a blob is what its digest says, all of it read for that."""
        digest = parse_digest(exchange.params["digest"])
        return exchange.reply_json({"digest": digest, "right": await self._giver().check(digest)})


def _begin(exchange: Exchange, size: int) -> tuple[web.StreamResponse, int, int]:
    """The head of an answer with bytes of ``size``, and which of them it is to have."""
    wanted = read_range(exchange.header("Range"), size)
    start, stop = wanted or (0, size)
    response = StreamResponse(status=206 if wanted else 200)
    response.content_type = BYTES
    response.content_length = stop - start
    response.headers.update(range_headers(wanted, size))
    exchange.mark(response)
    return response, start, stop


def range_headers(wanted: tuple[int, int] | None, size: int) -> dict[str, str]:
    """What an answer with these bytes of ``size``, or with all, says of them."""
    said = {"Accept-Ranges": "bytes"}
    return said | ({"Content-Range": content_range(*wanted, size)} if wanted else {})


async def _send(
    exchange: Exchange, response: web.StreamResponse, parts: AsyncGenerator[bytes | memoryview, None]
) -> web.StreamResponse:
    """Answer with ``parts``. What keeps the first from being had is raised; later the answer breaks off."""
    async with contextlib.aclosing(parts):
        part = await anext(parts, b"")
        await response.prepare(exchange.full)
        try:
            while part:
                async with asyncio.timeout(STALL_S):
                    await response.write(part)
                part = await anext(parts, b"")
        except (DistError, TimeoutError) as error:
            tell = log.info if isinstance(error, NotFound) else log.warning  # not yet here is not wrong
            tell("giving_broken_off", path=exchange.full.path, error=str(error) or "nobody reads")
            if exchange.request.transport is not None:
                exchange.request.transport.abort()
            return response
    await response.write_eof()
    return response
