"""Models read from members over real listeners, whatever happens to the members meanwhile."""

import asyncio
import hashlib
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from ollama_dist.core.errors import ModelNotFound
from ollama_dist.core.ids import Digest
from ollama_dist.replication.disk.pieces import PIECE
from ollama_dist.replication.pace import Pace
from ollama_dist.replication.sources import BlobLost
from ollama_dist.replication.transfer.fetching import HELD_PIECES, PeerSource
from ollama_dist.replication.transfer.machine import RUN
from tests.support.holders import holders, peer_source
from tests.support.model_store import noise
from tests.support.wait import until

WEIGHTS = noise(5 * PIECE + 12_345)


async def whole(source: PeerSource, digest: Digest) -> bytes:
    size = source.manifest.blobs[digest]
    return b"".join([part async for part in source.read(digest, 0, size)])


async def test_a_model_comes_over_whole(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as [holder]:
        installed = holder.store.install("tiny", WEIGHTS)

        source = await peer_source("TINY:latest", [holder], installed.identity)

        assert source.manifest.raw == installed.raw
        for digest in source.manifest.blobs:
            assert hashlib.sha256(await whole(source, digest)).hexdigest() == digest
        assert holder.sent == source.fetched == installed.size
        await source.close()


async def test_ranges_need_not_begin_where_pieces_do(tmp_path: Path) -> None:
    async with holders(tmp_path, 2) as held:
        digest = {holder.store.install("tiny", WEIGHTS).layers[0].digest for holder in held}.pop()
        source = await peer_source("tiny", held)

        async def part(start: int, stop: int) -> bytes:
            return b"".join([data async for data in source.read(digest, start, stop)])

        bounds = [0, 1, PIECE, PIECE + 1, 3 * PIECE - 1, 4 * PIECE, len(WEIGHTS), len(WEIGHTS)]
        parts = await asyncio.gather(*(part(a, b) for a, b in pairwise(bounds)))

        assert b"".join(parts) == WEIGHTS
        await source.close()


async def test_only_the_content_that_is_meant_is_taken(tmp_path: Path) -> None:
    async with holders(tmp_path, 2) as held:
        held[0].store.install("tiny", b"another")
        meant = held[1].store.install("tiny", WEIGHTS)

        source = await peer_source("tiny", held, meant.identity)

        assert source.manifest.identity == meant.identity
        await source.close()
        with pytest.raises(ModelNotFound, match="another content"):
            await peer_source("tiny", held[:1], meant.identity)


async def test_nobody_holds_it(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as held:
        with pytest.raises(ModelNotFound, match="it answered 404: model 'tiny:latest' not found"):
            await peer_source("tiny", held)


async def test_bytes_outside_of_the_model_are_refused(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as [holder]:
        digest = holder.store.install("tiny", WEIGHTS).layers[0].digest
        source = await peer_source("tiny", [holder])
        with pytest.raises(BlobLost):
            await anext(source.read(digest, 0, len(WEIGHTS) + 1))
        await source.close()


async def test_a_source_that_dies_midway_costs_nothing_but_the_others_time(tmp_path: Path) -> None:
    async with holders(tmp_path, 2) as held:
        digest = {holder.store.install("tiny", WEIGHTS).layers[0].digest for holder in held}.pop()
        source = await peer_source("tiny", held)
        held[0].faults.cut_after = 2 * PIECE + 300_000

        assert await whole(source, digest) == WEIGHTS

        assert held[0].sent < len(WEIGHTS)
        assert source.fetched == len(WEIGHTS)
        await source.close()


async def test_a_source_that_sends_nothing_more_is_left_within_two_seconds(tmp_path: Path) -> None:
    async with holders(tmp_path, 2) as held:
        digest = {holder.store.install("tiny", WEIGHTS).layers[0].digest for holder in held}.pop()
        source = await peer_source("tiny", held)
        held[0].faults.stall_after = PIECE + 300_000

        assert await whole(source, digest) == WEIGHTS

        assert source.fetched == len(WEIGHTS)
        assert "piece" not in source.quarantined
        await source.close()


async def test_a_slow_source_does_not_hold_the_others_up(tmp_path: Path) -> None:
    async with holders(tmp_path, 2) as held:
        digest = {holder.store.install("tiny", WEIGHTS).layers[0].digest for holder in held}.pop()
        held[0].faults.bytes_per_s = 100_000.0
        source = await peer_source("tiny", held)

        async with asyncio.timeout(20):  # by itself it would take a minute
            assert await whole(source, digest) == WEIGHTS

        assert held[1].sent > held[0].sent > 0
        assert source.fetched <= len(WEIGHTS) + PIECE
        await source.close()


async def test_a_member_that_left_the_cluster_is_not_asked(tmp_path: Path) -> None:
    async with holders(tmp_path, 2) as held:
        digest = {holder.store.install("tiny", WEIGHTS).layers[0].digest for holder in held}.pop()
        held[0].is_present = False
        source = await peer_source("tiny", held)

        assert await whole(source, digest) == WEIGHTS

        assert held[0].requests == []
        await source.close()


async def test_bytes_changed_on_the_wire_are_had_again(tmp_path: Path) -> None:
    async with holders(tmp_path, 2) as held:
        digest = {holder.store.install("tiny", WEIGHTS).layers[0].digest for holder in held}.pop()
        held[0].faults.spoil = lambda part: part[:-1] + bytes([part[-1] ^ 1])
        source = await peer_source("tiny", held)

        assert await whole(source, digest) == WEIGHTS

        assert source.wrong_pieces >= 3
        assert source.quarantined == {held[0].id: "3 wrong pieces"}
        await source.close()


async def test_a_single_source_whose_wire_lies_once_is_asked_again(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as [holder]:
        digest = holder.store.install("tiny", WEIGHTS).layers[0].digest
        lies = iter([True])

        def once(part: bytes) -> bytes:
            return part[:-1] + bytes([part[-1] ^ 1]) if next(lies, False) else part

        holder.faults.spoil = once
        source = await peer_source("tiny", [holder])

        assert await whole(source, digest) == WEIGHTS

        assert source.wrong_pieces == 1
        await source.close()


async def test_a_blob_that_rotted_at_one_source_is_taken_from_another(tmp_path: Path) -> None:
    """Its own list says of the rotten piece what that hashes to: only the other's list tells."""
    async with holders(tmp_path, 2) as held:
        digest = {holder.store.install("tiny", WEIGHTS).layers[0].digest for holder in held}.pop()
        held[0].store.flip(digest, 3 * PIECE + 17)
        source = await peer_source("tiny", held)

        assert await whole(source, digest) == WEIGHTS

        assert source.quarantined == {held[0].id: "its blob is not what its digest says"}
        assert digest in held[0].giver.corrupt
        await source.close()
        again = await peer_source("tiny", held[:1])
        with pytest.raises(BlobLost, match="lacks it"):
            await whole(again, digest)
        await again.close()


async def test_of_three_lists_the_one_that_differs_is_not_believed(tmp_path: Path) -> None:
    async with holders(tmp_path, 3) as held:
        digest = {holder.store.install("tiny", WEIGHTS).layers[0].digest for holder in held}.pop()
        held[0].store.flip(digest, 0)
        source = await peer_source("tiny", held)

        assert await whole(source, digest) == WEIGHTS

        assert source.quarantined == {held[0].id: "its list of pieces differs from the others'"}
        assert not any("checks" in request for holder in held for request in holder.requests)
        await source.close()


async def test_a_source_whose_finished_blob_was_wrong_is_blamed(tmp_path: Path) -> None:
    async with holders(tmp_path, 2) as held:
        digest = {holder.store.install("tiny", WEIGHTS).layers[0].digest for holder in held}.pop()
        held[0].store.flip(digest, 0)
        held[1].is_present = False
        source = await peer_source("tiny", held)
        assert await whole(source, digest) != WEIGHTS

        source.blame(digest)
        held[1].is_present = True

        now = asyncio.get_running_loop().time
        await until(lambda: held[1].id in source._transfer.candidates(digest, now()), what="its being seen")
        assert await whole(source, digest) == WEIGHTS
        await source.close()


async def test_small_blobs_are_checked_against_their_digest_itself(tmp_path: Path) -> None:
    async with holders(tmp_path, 2) as held:
        digest = {holder.store.install("tiny", b"small weights").layers[0].digest for holder in held}.pop()
        held[0].store.flip(digest, 0)
        source = await peer_source("tiny", held)

        assert await whole(source, digest) == b"small weights"

        assert not any("pieces" in request for holder in held for request in holder.requests)
        await source.close()


async def test_a_reader_that_leaves_leaves_nothing_behind(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as [holder]:
        digest = holder.store.install("tiny", WEIGHTS).layers[0].digest
        source = await peer_source("tiny", [holder])
        reading = source.read(digest, 0, len(WEIGHTS))
        await anext(reading)
        await reading.aclose()

        assert source.silent_s == 0.0
        assert await whole(source, digest) == WEIGHTS
        await source.close()


async def test_readers_that_stop_keep_little_here_and_nothing_from_others(tmp_path: Path) -> None:
    stopped, each = 12, RUN * PIECE
    weights = noise((stopped + 2) * each)
    async with holders(tmp_path, 1) as [holder]:
        digest = holder.store.install("tiny", weights).layers[0].digest
        source = await peer_source("tiny", [holder])
        readers = [source.read(digest, start, start + each) for start in range(0, stopped * each, each)]
        firsts = [bytes(part) for part in await asyncio.gather(*(anext(reader) for reader in readers))]

        rest = b"".join([part async for part in source.read(digest, stopped * each, len(weights))])

        assert rest == weights[stopped * each :]
        assert source.fetched - len(rest) <= (HELD_PIECES + stopped) * PIECE < stopped * each
        for start, first, reader in zip(range(0, len(weights), each), firsts, readers, strict=False):
            assert b"".join([first, *[part async for part in reader]]) == weights[start : start + each]
        assert source.fetched == len(weights)
        await source.close()


async def test_when_nobody_is_left_the_reader_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollama_dist.replication.transfer.machine.GIVE_UP_S", 0.5)
    async with holders(tmp_path, 1) as [holder]:
        digest = holder.store.install("tiny", WEIGHTS).layers[0].digest
        source = await peer_source("tiny", [holder])
        holder.faults.cut_after = 0
        with pytest.raises(BlobLost, match="no source has given a byte"):
            await whole(source, digest)
        await source.close()


async def test_a_cap_at_the_source_and_at_the_target_is_kept(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as [holder]:
        digest = holder.store.install("tiny", WEIGHTS).layers[0].digest
        loop = asyncio.get_running_loop()
        for at_source, at_target in ((8e6, 0.0), (0.0, 8e6)):
            holder.faults.bytes_per_s = at_source
            source = await peer_source("tiny", [holder], pace=Pace(lambda limit=at_target: limit))  # type: ignore[misc]
            began = loop.time()
            await whole(source, digest)
            assert loop.time() - began > (len(WEIGHTS) - 2 * PIECE) / 8e6
            await source.close()


async def test_a_thousand_flipped_bits_are_all_caught_and_had_right_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces are small here, and a source may be wrong as often as it likes: it is about each of them."""
    for module in ("disk.pieces", "transfer.fetching"):
        monkeypatch.setattr(f"ollama_dist.replication.{module}.PIECE", 4096)
    monkeypatch.setattr("ollama_dist.replication.transfer.machine.BAD_PIECES", 10**9)
    rng, flips, data = Random(1000), 0, noise(1024 * 4096)

    def flip(part: bytes) -> bytes:
        nonlocal flips
        flips += 1
        spoilt = bytearray(part)
        spoilt[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
        return bytes(spoilt)

    async with holders(tmp_path, 2) as held:
        digest = {holder.store.install("tiny", data).layers[0].digest for holder in held}.pop()
        held[0].faults.spoil = flip
        caught = 0
        while caught < 1000:
            source = await peer_source("tiny", held)
            assert await whole(source, digest) == data
            caught += source.wrong_pieces
            await source.close()
        assert caught == flips
