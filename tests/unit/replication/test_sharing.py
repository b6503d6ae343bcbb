"""What a taker gives of a blob that is on its way to it."""

import asyncio
from pathlib import Path

import pytest
from blake3 import blake3

from ollama_dist.backends.bulk import Tanks
from ollama_dist.core.ids import Digest
from ollama_dist.replication.disk.pieces import PIECE
from ollama_dist.replication.disk.store import BlobNotFound
from ollama_dist.replication.transfer import sharing
from ollama_dist.replication.transfer.machine import Piece
from ollama_dist.replication.transfer.sharing import KEPT, SOON, Offer
from tests.support.model_store import noise

BLOB = Digest("d" * 64)
DATA = noise(40 * PIECE + 5)


def part(index: int) -> bytes:
    return DATA[index * PIECE : (index + 1) * PIECE]


async def hash_of(piece: Piece) -> bytes:
    return blake3(part(piece.index)).digest()


def offer(path: Path | None = None) -> Offer:
    return Offer(BLOB, len(DATA), hash_of, lambda _: path, Tanks(PIECE, 4))


def landing(made: Offer, index: int) -> "asyncio.Future[memoryview]":
    landed: asyncio.Future[memoryview] = asyncio.get_running_loop().create_future()
    made.expect(index, landed)
    return landed


async def test_a_piece_on_its_way_is_waited_for_and_so_is_one_soon_behind_it() -> None:
    made = offer()
    first = landing(made, 0)
    asked = [asyncio.create_task(made.piece(index)) for index in (0, SOON)]
    await asyncio.sleep(0)

    first.set_result(memoryview(part(0)))
    assert await asked[0] == part(0)
    landing(made, SOON).set_result(memoryview(part(SOON)))
    assert await asked[1] == part(SOON)


async def test_one_that_is_far_off_is_refused_at_once() -> None:
    made = offer()
    landing(made, 3)
    for index in (2, 3 + SOON + 1):
        with pytest.raises(BlobNotFound, match="nor soon"):
            await made.piece(index)


async def test_who_waits_is_refused_when_nobody_waits_for_it_here_any_more() -> None:
    made = offer()
    landed = landing(made, 0)
    asked = asyncio.create_task(made.piece(1))
    await asyncio.sleep(0)
    made.let_go(0)
    landed.cancel()
    with pytest.raises(BlobNotFound):
        await asked
    with pytest.raises(BlobNotFound):
        await made.piece(0)


async def test_nobody_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "WAIT_S", 0.05)
    made = offer()
    landing(made, 0)
    with pytest.raises(BlobNotFound):
        await made.piece(0)


async def test_the_last_pieces_are_kept_and_the_others_read_again(tmp_path: Path) -> None:
    path = tmp_path / "coming"
    path.write_bytes(DATA)
    for made, may_read in ((offer(), False), (offer(path), True)):
        for index in range(KEPT + 2):
            made.handed_over(index, memoryview(part(index)))
        assert await made.piece(2) == part(2)
        if may_read:
            assert await made.piece(1) == part(1)
        else:
            with pytest.raises(BlobNotFound, match="nor soon"):
                await made.piece(1)


async def test_what_is_written_a_little_later_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "coming"
    path.write_bytes(bytes(len(DATA)))
    made = offer(path)
    for index in range(KEPT + 4):
        made.handed_over(index, memoryview(part(index)))
    asked = asyncio.create_task(made.piece(1))
    await asyncio.sleep(0.01)
    path.write_bytes(DATA)
    assert await asked == part(1)


async def test_what_is_not_written_or_wrong_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "WAIT_S", 0.3)
    path = tmp_path / "coming"
    made = offer(path)
    for index in range(KEPT + 4):
        made.handed_over(index, memoryview(part(index)))
    for written in (None, DATA[:PIECE], DATA[: PIECE - 1] + b"!" + bytes(PIECE)):
        if written is not None:
            path.write_bytes(written)
        with pytest.raises(BlobNotFound, match="nor soon"):
            await made.piece(1)
