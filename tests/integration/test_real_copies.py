"""Models copied between real Ollamas, of two ages where two are named, each with a folder of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.intake.copying import OllamaCopier
from ollama_dist.replication.intake.journal import Journal
from ollama_dist.replication.intake.lending import Lender
from ollama_dist.replication.intake.passing import Passing
from ollama_dist.replication.intake.registry import LoopbackRegistry
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.sources import Progress
from tests.support.fake_ollama.store import FakeStore
from tests.support.real_ollama import BINARY, OTHER, RealOllama, needs_ollama, real_ollama
from tests.support.recordings import model_file
from tests.support.store_source import OpenedStore, StoreSource
from tests.support.wait import until

pytestmark = needs_ollama

NAME = parse_model_name("tiny:1b")


async def any_room(_manifest: Manifest) -> None:
    pass


@asynccontextmanager
async def copier(target: RealOllama, source: StoreSource, state: Path) -> AsyncIterator[OllamaCopier]:
    registry = LoopbackRegistry()
    await registry.start()
    connection = target.target
    try:
        journal = Journal(state / "journal.json")
        passing = Passing(lambda: connection, journal)
        yield OllamaCopier(passing, registry, OpenedStore(source), any_room)
        await passing.tidy()
        assert journal.names == ()
    finally:
        connection.close()
        await registry.stop()


@pytest.mark.parametrize(("source", "target"), [(BINARY, OTHER), (OTHER, BINARY)], ids=["there", "back"])
async def test_a_copy_answers_as_the_original(source: str, target: str, tmp_path: Path) -> None:
    async with (
        real_ollama(source, tmp_path / "source") as first,
        real_ollama(target, tmp_path / "target") as second,
    ):
        await first.create(NAME.short, model_file("markov.gguf"), system="Be brief.")
        stored = StoreSource(first.models, NAME.short)
        told: list[Progress] = []

        async with copier(second, stored, tmp_path) as copying:
            await copying.copy(NAME, stored.manifest.identity, [], told.append)

        assert await second.names() == [NAME.short]
        assert StoreSource(second.models, NAME.short).manifest.identity == stored.manifest.identity
        assert await second.say(NAME.short, "hello") == await first.say(NAME.short, "hello")
        assert [each.done for each in told] == sorted(each.done for each in told)
        assert told[-1].done == told[-1].total == stored.manifest.size
        assert stored.given == stored.manifest.size


# When something breaks on the way

BIG = bytes(range(256)) * 2**15
"""8 MiB that are no model: an Ollama that pulls it does not look."""


def big_source(folder: Path) -> StoreSource:
    stored = FakeStore(folder / "stored")
    stored.make(NAME, BIG)
    return StoreSource(stored.folder, NAME.short)


async def test_an_ollama_killed_midway_gets_it_after_its_restart(tmp_path: Path) -> None:
    stored = big_source(tmp_path)
    async with (
        real_ollama(BINARY, tmp_path / "target") as target,
        copier(target, stored, tmp_path) as copying,
    ):
        stored.block_s = 0.02
        copy = asyncio.create_task(copying.copy(NAME, None, [], lambda _: None))
        await until(lambda: stored.given > 2**21, what="some of it")
        await target.kill()
        stored.block_s = 0.0
        await target.start()
        await copy
        assert await target.names() == [NAME.short]
        assert StoreSource(target.models, NAME.short).manifest.identity == stored.manifest.identity


async def test_a_copy_begun_again_by_another_node_life_goes_on_where_it_was(tmp_path: Path) -> None:
    stored = big_source(tmp_path)
    async with real_ollama(BINARY, tmp_path / "target") as target:
        async with copier(target, stored, tmp_path) as copying:
            stored.block_s = 0.02
            copy = asyncio.create_task(copying.copy(NAME, None, [], lambda _: None))
            await until(lambda: stored.given > 2**22, what="half of it")
            copy.cancel()
            await asyncio.wait({copy})
        before, stored.block_s = stored.given, 0.0
        async with copier(target, stored, tmp_path) as copying:
            await copying.copy(NAME, None, [], lambda _: None)
        assert stored.given - before < stored.manifest.size * 0.6
        assert await target.names() == [NAME.short]


async def test_a_byte_that_changed_on_the_way_is_caught_and_fetched_again(
    tmp_path: Path,
) -> None:
    stored = big_source(tmp_path)
    async with (
        real_ollama(BINARY, tmp_path / "target") as target,
        copier(target, stored, tmp_path) as copying,
    ):
        stored.flip_at = 5_000_000
        await copying.copy(NAME, None, [], lambda _: None)
        assert stored.blamed == [stored.manifest.layers[0].digest]
        blob = target.models / "blobs" / f"sha256-{stored.manifest.layers[0].digest}"
        assert blob.read_bytes() == BIG


async def test_a_model_deleted_during_a_copy_takes_nothing_along(tmp_path: Path) -> None:
    stored = big_source(tmp_path)
    first = parse_model_name("first")
    other = FakeStore(tmp_path / "other")
    other.make(first, b"other weights")  # shares the config
    async with real_ollama(BINARY, tmp_path / "target") as target:
        async with copier(target, StoreSource(other.folder, first.short), tmp_path) as copying:
            await copying.copy(first, None, [], lambda _: None)
        async with copier(target, stored, tmp_path) as copying:
            stored.block_s = 0.02
            copy = asyncio.create_task(copying.copy(NAME, None, [], lambda _: None))
            await until(lambda: stored.given > 2**21, what="some of it")
            await target.ask("DELETE", "/api/delete", {"model": first.short})
            await copy
        manifest = StoreSource(target.models, NAME.short).manifest
        assert all((target.models / "blobs" / f"sha256-{digest}").exists() for digest in manifest.blobs)


@pytest.mark.parametrize("binary", sorted({BINARY, OTHER}))
async def test_a_model_is_lent_as_it_is(binary: str, tmp_path: Path) -> None:
    registry = LoopbackRegistry()
    await registry.start()
    async with real_ollama(binary, tmp_path / "source") as source:
        await source.create(NAME.short, model_file("markov.gguf"), system="Be brief.")
        connection = source.target
        passing = Passing(lambda: connection, Journal(tmp_path / "journal.json"))
        lender = Lender(passing, registry, tmp_path / "lent", reserve=0)
        manifest = await lender.lend(NAME)
        original = StoreSource(source.models, NAME.short).manifest
        assert manifest.identity == original.identity
        assert manifest.raw == original.raw
        for digest in manifest.blobs:
            assert (tmp_path / "lent" / "blobs" / f"sha256-{digest}").read_bytes() == (
                source.models / "blobs" / f"sha256-{digest}"
            ).read_bytes()
        assert await source.names() == [NAME.short]
        connection.close()
    await lender.stop()
    await registry.stop()
