"""Several members that take one blob at once over real listeners, and pass on what they have of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollama_dist.core.ids import Digest
from ollama_dist.replication.disk.pieces import PIECE
from ollama_dist.replication.sources import BlobLost
from ollama_dist.replication.transfer.fetching import PeerSource
from tests.support.holders import Holder, holders, peer_source
from tests.support.model_store import noise
from tests.support.wait import until

WEIGHTS = noise(40 * PIECE + 12_345)

SLOW = 16e6
"""Bytes a second of the one that holds it: what is passed on comes sooner."""


class Takers:
    """The first of ``held`` has the model; each of the others takes it from there."""

    def __init__(self, held: list[Holder]) -> None:
        self.holder, *self.takers = held
        self.digest = self.holder.store.install("tiny", WEIGHTS).layers[0].digest
        self.holder.faults.bytes_per_s = SLOW
        self.sources: list[PeerSource] = []

    async def join(self) -> None:
        """One after the other, so that the order is known."""
        for taker in self.takers:
            source = await peer_source("tiny", [self.holder], taker=taker, others=self.takers)
            self.sources.append(source)
            await asyncio.sleep(0.002)

    async def take(self, number: int) -> bytes:
        """All of it, in order; what came lies where an Ollama would write it."""
        taker, source = self.takers[number], self.sources[number]
        path = taker.store.coming(self.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = []
        with path.open("wb", buffering=0) as file:
            async for part in source.read(self.digest, 0, len(WEIGHTS)):
                await asyncio.to_thread(file.write, part)
                parts.append(bytes(part))
        return b"".join(parts)

    @property
    def copies(self) -> float:
        return self.holder.sent / len(WEIGHTS)


@contextlib.asynccontextmanager
async def takers(folder: Path, count: int, *, secured: bool = False) -> AsyncIterator[Takers]:
    async with holders(folder, 1 + count, secured=secured) as held:
        made = Takers(held)
        await made.join()
        try:
            yield made
        finally:
            for source in made.sources:
                await source.close()


@pytest.mark.parametrize("secured", [False, True])
async def test_who_holds_it_gives_little_more_than_one_copy(tmp_path: Path, secured: bool) -> None:
    async with takers(tmp_path, 3, secured=secured) as world:
        taken = await asyncio.gather(*(world.take(number) for number in range(3)))

        assert taken == [WEIGHTS] * 3
        assert world.copies < 2.5
        assert world.takers[0].sent > PIECE
        assert [source.fetched for source in world.sources] == [len(WEIGHTS)] * 3


async def test_one_that_dies_midway_costs_the_others_no_byte_twice(tmp_path: Path) -> None:
    async with takers(tmp_path, 2) as world:
        world.takers[0].faults.cut_after = 10 * PIECE
        taken = await asyncio.gather(*(world.take(number) for number in range(2)))

        assert taken == [WEIGHTS] * 2
        assert 0 < world.takers[0].sent < len(WEIGHTS)
        assert world.sources[1].fetched == len(WEIGHTS)
        assert world.sources[1].quarantined == {}


async def test_one_that_stops_in_the_middle_is_left(tmp_path: Path) -> None:
    async with takers(tmp_path, 2) as world:
        first = asyncio.create_task(world.take(0))
        second = asyncio.create_task(world.take(1))
        await until(lambda: world.takers[0].sent > 2 * PIECE, what="pieces that are passed on")
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        await world.sources[0].close()

        assert await second == WEIGHTS
        assert world.sources[1].fetched == len(WEIGHTS)


async def test_one_that_lies_is_asked_for_nothing_more(tmp_path: Path) -> None:
    async with takers(tmp_path, 2) as world:
        world.takers[0].faults.spoil = lambda part: part[:-1] + bytes([part[-1] ^ 1])
        taken = await asyncio.gather(*(world.take(number) for number in range(2)))

        assert taken == [WEIGHTS] * 2
        assert world.sources[1].quarantined == {world.takers[0].id: "3 wrong pieces"}


async def test_one_that_sends_nothing_is_left_for_another(tmp_path: Path) -> None:
    async with takers(tmp_path, 2) as world:
        world.holder.faults.bytes_per_s = 0.0
        world.takers[0].faults.stall_after = 2 * PIECE
        taken = await asyncio.gather(*(world.take(number) for number in range(2)))

        assert taken == [WEIGHTS] * 2
        assert world.sources[1].fetched == len(WEIGHTS)


async def test_who_begins_late_has_it_from_the_file_of_one_that_is_nearly_through(tmp_path: Path) -> None:
    async with takers(tmp_path, 2) as world:
        first = asyncio.create_task(world.take(0))
        await until(lambda: world.sources[0].fetched > 30 * PIECE, what="most of it")
        sent = world.holder.sent

        assert await world.take(1) == WEIGHTS

        assert await first == WEIGHTS
        assert world.takers[0].sent > 20 * PIECE
        assert world.holder.sent - sent < len(WEIGHTS)


async def test_what_the_engine_has_not_written_right_is_not_given(tmp_path: Path) -> None:
    async with takers(tmp_path, 2) as world:
        await world.take(0)
        world.takers[0].store.coming(world.digest).write_bytes(bytes(len(WEIGHTS)))

        assert await world.take(1) == WEIGHTS

        assert world.sources[1].wrong_pieces == 0
        assert world.sources[1].quarantined == {}


async def test_when_the_holder_leaves_the_last_of_it_comes_from_who_has_it(tmp_path: Path) -> None:
    async with takers(tmp_path, 2) as world:
        assert await world.take(0) == WEIGHTS
        second = asyncio.create_task(world.take(1))
        await until(lambda: world.sources[1].fetched > 4 * PIECE, what="a beginning")
        world.holder.faults.cut_after = 0
        world.holder.faults.bytes_per_s = 0.0

        assert await second == WEIGHTS


async def test_what_is_not_there_is_not_promised(tmp_path: Path) -> None:
    async with takers(tmp_path, 1) as world:
        strange = Digest("0" * 64)
        [taker] = world.takers
        with pytest.raises(BlobLost):
            await anext(world.sources[0].read(strange, 0, 1))
        await world.take(0)
        await world.sources[0].close()
        assert taker.giver._partials == {}
