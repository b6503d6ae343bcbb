"""Handing bytes to a reader that gives up on silence, from a source that comes in bursts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from ollama_dist.replication.sources import BlobLost

CRUMB_S: Final = 5.0
"""Ollama gives a range up after 30 s without a byte, and its other downloader after 10 s."""

CRUMB: Final = 1024
RESERVE: Final = 64 * 1024
"""Bytes kept back of what came last: given crumb by crumb they last five minutes."""


async def feed(
    blocks: AsyncIterator[bytes | memoryview],
    write: Callable[[memoryview], Awaitable[None]],
    *,
    crumb_s: float = CRUMB_S,
) -> None:
    """Write all that comes, and every ``crumb_s`` seconds a little of it while nothing does.

    Sixteen ranges are read at once and pieces come whole: on a slow link a range may wait for minutes for its
    next one. Raises `BlobLost` once all that came is written, and whatever ``write`` raises.
    """
    kept = memoryview(b"")
    coming: asyncio.Future[bytes | memoryview | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(_next(blocks))
            while not (await asyncio.wait({coming}, timeout=crumb_s))[0]:
                if kept:
                    await write(kept[:CRUMB])
                    kept = kept[CRUMB:]
            try:
                block = coming.result()
            except BlobLost:
                await write(kept)
                raise
            if kept:
                await write(kept)
            if block is None:
                return
            came = memoryview(block)
            kept = memoryview(bytes(came[-RESERVE:]))  # a copy, or all of the block would stay with it
            if len(came) > RESERVE:
                await write(came[:-RESERVE])
            del block, came  # what it lies in is used again
    finally:
        if coming is not None and not coming.done():
            coming.cancel()
            await asyncio.wait({coming})
        await let_go(blocks)


async def let_go(blocks: AsyncIterator[bytes | memoryview]) -> None:
    """Close an iterator of a `BlobSource`, which gives up what is on its way for it."""
    close = getattr(blocks, "aclose", None)
    if close is not None:
        await close()


async def _next(blocks: AsyncIterator[bytes | memoryview]) -> bytes | memoryview | None:
    return await anext(blocks, None)
