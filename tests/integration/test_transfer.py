"""Models read from members over real listeners, whatever happens to the members meanwhile."""

import asyncio
import hashlib
from itertools import pairwise
from pathlib import Path

import pytest

from ollama_dist.core.errors import ModelNotFound
from ollama_dist.core.ids import Digest
from ollama_dist.replication.fetching import PeerSource
from ollama_dist.replication.pieces import PIECE
from ollama_dist.replication.sources import BlobLost
from tests.support.holders import holders, peer_source
from tests.support.model_store import noise

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
