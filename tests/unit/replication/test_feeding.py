"""Bytes in bursts, for a reader that gives up on silence."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from ollama_dist.replication.intake.feeding import CRUMB, RESERVE, feed
from ollama_dist.replication.sources import BlobLost
from tests.support.wait import until

PIECE = bytes(range(256)) * 1024


async def fed(blocks: AsyncIterator[bytes]) -> list[bytes]:
    written: list[bytes] = []

    async def write(data: memoryview) -> None:
        written.append(bytes(data))

    await feed(blocks, write, crumb_s=0.01)
    return written


async def test_everything_comes_out_in_order() -> None:
    async def blocks() -> AsyncIterator[bytes]:
        for size in (1, 100, RESERVE, len(PIECE), 7):
            yield PIECE[:size]

    assert b"".join(await fed(blocks())) == b"".join(
        PIECE[:size] for size in (1, 100, RESERVE, len(PIECE), 7)
    )


async def test_silence_is_bridged_by_crumbs() -> None:
    written: list[bytes] = []

    async def blocks() -> AsyncIterator[bytes]:
        yield PIECE
        await until(lambda: sum(len(each) == CRUMB for each in written) >= 3, what="three crumbs")
        yield PIECE

    async def write(data: memoryview) -> None:
        written.append(bytes(data))

    await feed(blocks(), write, crumb_s=0.01)
    assert b"".join(written) == PIECE + PIECE


async def test_what_came_is_written_before_the_loss_is_told() -> None:
    written: list[bytes] = []

    async def blocks() -> AsyncIterator[bytes]:
        yield PIECE
        raise BlobLost("gone")

    async def write(data: memoryview) -> None:
        written.append(bytes(data))

    with pytest.raises(BlobLost):
        await feed(blocks(), write)
    assert b"".join(written) == PIECE


async def test_a_reader_that_leaves_lets_go_of_the_source() -> None:
    closed = asyncio.Event()

    async def blocks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield PIECE
                await asyncio.sleep(0)
        finally:
            closed.set()

    async def write(data: memoryview) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await feed(blocks(), write)
    assert closed.is_set()
