"""Own blobs read again, with chosen time."""

import asyncio
from pathlib import Path

import pytest

from ollama_dist.core.ids import Digest
from ollama_dist.replication.disk.giving import BlobCorrupt, Giver
from ollama_dist.replication.disk.pieces import PIECE, PieceLists
from ollama_dist.replication.disk.scrub import FILE_NAME, WEEK_S, Scrubber, due
from ollama_dist.replication.pace import Pace
from tests.support.model_store import ModelStore, noise
from tests.support.wait import until

A, B, C = (Digest(letter * 64) for letter in "abc")


def test_what_was_read_longest_ago_is_due_first_and_what_is_fresh_is_not() -> None:
    checked = {A: 900.0, B: 100.0}
    assert due(checked, [A, B, C], now=1000.0, period_s=500.0) == [C, B]
    assert due(checked, [A], now=899.0, period_s=500.0) == [A], (
        "checked in the future: the clock was set back"
    )


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 10 * WEEK_S
        self.store = ModelStore(folder / "models")
        self.lists = PieceLists(folder / "pieces")
        self.giver = Giver(lambda: self.store, self.lists, Pace())

    def scrubber(self) -> Scrubber:
        return Scrubber(self.giver, self.folder, forget=self.lists.forget_all_but, clock=lambda: self.now)


async def test_a_blob_that_rotted_is_found_and_given_no_more_until_it_is_another_file(tmp_path: Path) -> None:
    world = World(tmp_path)
    good, bad = world.store.put(noise(PIECE + 1)), world.store.put(noise(PIECE + 2))
    world.store.flip(bad, PIECE)
    scrubber = world.scrubber()

    await scrubber.round()

    assert (scrubber.state.blobs, scrubber.state.waiting, scrubber.state.corrupt) == (2, 0, (bad,))
    assert (await world.giver.blob(good)).size == PIECE + 1
    with pytest.raises(BlobCorrupt):
        await world.giver.blob(bad)
    world.store.put(noise(PIECE + 2))
    assert (await world.giver.blob(bad)).size == PIECE + 2
    assert scrubber.state.corrupt == ()


async def test_what_was_checked_is_remembered_over_a_restart_for_a_week(tmp_path: Path) -> None:
    world = World(tmp_path)
    digest = world.store.put(b"weights")
    await world.scrubber().round()
    assert (tmp_path / FILE_NAME).exists()
    world.store.flip(digest, 0)

    again = world.scrubber()
    again.start()
    await again.stop()
    await again.round()
    assert again.state.waiting in (0, 1)

    world.now += WEEK_S + 1
    await again.round()
    assert again.state.corrupt == (digest,)


async def test_a_check_under_way_ends_with_its_owner(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.giver = Giver(lambda: world.store, world.lists, Pace(), Pace(lambda: 1.0))
    world.store.put(noise(5 * PIECE))  # more than is read at once, so that it waits for its turn
    before = asyncio.all_tasks()
    scrubber = world.scrubber()
    scrubber.start()
    await until(lambda: len(asyncio.all_tasks()) == len(before) + 2, what="the check")

    await scrubber.stop()
    await world.giver.stop()

    assert asyncio.all_tasks() == before


async def test_asked_for_it_reads_all_at_once_and_says_how_far_it_is(tmp_path: Path) -> None:
    world = World(tmp_path)
    size = sum(world.store.blob(world.store.put(noise(each))).size for each in (PIECE, 2 * PIECE))
    scrubber = Scrubber(world.giver, tmp_path, period_s=0.0, clock=lambda: world.now)
    scrubber.ask()
    assert scrubber.state.is_running
    scrubber.start()
    await until(lambda: not scrubber.state.is_running, what="its end")
    state = scrubber.state
    assert (state.blobs, state.waiting, state.bytes_done, state.bytes_total) == (2, 0, size, size)
    world.store.flip(world.store.blobs()[0], 0)
    scrubber.ask()
    await until(lambda: not scrubber.state.is_running, what="its end")
    assert scrubber.state.corrupt == (world.store.blobs()[0],)
    await scrubber.stop()


async def test_lists_of_blobs_that_are_gone_go(tmp_path: Path) -> None:
    world = World(tmp_path)
    blob = world.store.blob(world.store.put(noise(2 * PIECE)))
    await world.lists.hashes(blob, 0, 2)
    world.store.blob_path(blob.digest).unlink()
    await world.scrubber().round()
    assert list((tmp_path / "pieces").iterdir()) == []


async def test_without_a_store_there_is_nothing_to_do(tmp_path: Path) -> None:
    scrubber = Scrubber(Giver(lambda: None, PieceLists(tmp_path), Pace()), tmp_path)
    await scrubber.round()
    assert scrubber.state.blobs == 0
