"""Models brought into a scripted Ollama that pulls as a real one does."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from ollama_dist.backends.target import Target
from ollama_dist.core.errors import ConfigError
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.intake.copying import OllamaCopier
from ollama_dist.replication.intake.journal import Journal
from ollama_dist.replication.intake.ollama_calls import DiskFull, OllamaCalls, PullFailed
from ollama_dist.replication.intake.passing import NotNoted, Passing
from ollama_dist.replication.intake.registry import LoopbackRegistry, RegistryAddress
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.sources import BlobLost, Progress
from tests.support.fake_ollama import FakeOllama, Fault
from tests.support.fake_ollama.store import FakeStore
from tests.support.store_source import OpenedStore, StoreSource
from tests.support.views import node_id
from tests.support.wait import until

NAME = parse_model_name("tiny:1b")
AGES = ("0.11.11", "0.33.0-rc2")
WEIGHTS = bytes(range(256)) * 4096


@dataclass
class Bench:
    """A source with one model, and an Ollama without any that may get it."""

    fake: FakeOllama
    source: StoreSource
    copier: OllamaCopier
    passing: Passing
    journal: Journal
    told: list[Progress]
    target: Target

    @property
    def store(self) -> FakeStore:
        assert self.fake.store is not None
        return self.fake.store

    async def copy(self) -> None:
        await self.copier.copy(NAME, self.source.manifest.identity, [], self.told.append)

    def whole(self, name: str = NAME.short) -> bool:
        """Whether every blob of the installed model is what its digest says."""
        manifest = StoreSource(self.store.folder, name).manifest
        return all(
            hashlib.sha256(self.store.blob(f"sha256:{digest}").read_bytes()).hexdigest() == digest
            for digest in manifest.blobs
        )

    async def names(self) -> list[str]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.fake.url}/api/tags") as answer:
            return sorted(row["name"] for row in (await answer.json())["models"])


async def any_room(_manifest: Manifest) -> None:
    pass


@asynccontextmanager
async def bench(
    folder: Path,
    *,
    age: str = AGES[-1],
    models: Any = (),
    address: RegistryAddress | None = None,
    room: Any = any_room,
    weights: bytes = WEIGHTS,
) -> AsyncIterator[Bench]:
    stored = FakeStore(folder / "source")
    stored.make(NAME, weights, "Be brief.")
    source = StoreSource(stored.folder, NAME.short)
    registry = LoopbackRegistry(address or RegistryAddress(), crumb_s=0.1)
    await registry.start()
    async with FakeOllama(age, models=models, folder=folder / "target") as fake:
        target = Target(node_id(1), "127.0.0.1", fake.port)
        assert fake.catalogue.puller is not None
        timing = fake.catalogue.puller.timing
        timing.part_bytes, timing.backoff_s, timing.line_s, timing.stall_s = 100_000, 0.01, 0.005, 0.3
        journal = Journal(folder / "journal.json")
        passing = Passing(lambda: target, journal)
        copier = OllamaCopier(passing, registry, OpenedStore(source), room)
        yield Bench(fake, source, copier, passing, journal, [], target)
        target.close()
    await registry.stop()


@pytest.mark.parametrize("age", AGES)
async def test_a_copy_is_the_same_model_and_leaves_nothing_else(age: str, tmp_path: Path) -> None:
    async with bench(tmp_path, age=age) as at:
        await at.copy()

        copied = StoreSource(at.store.folder, NAME.short).manifest
        assert copied.identity == at.source.manifest.identity
        assert (copied.digest == at.source.manifest.digest) == (age == "0.33.0-rc2")
        assert at.whole()
        assert await at.names() == [NAME.short]
        assert at.journal.names == ()
        assert at.source.given == at.source.manifest.size
        assert [each.done for each in at.told] == sorted(each.done for each in at.told)
        assert at.told[-1].done == at.told[-1].total == at.source.manifest.size


async def test_blobs_that_are_there_are_not_sent_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        weights = at.store.put(WEIGHTS)
        await at.copy()
        assert weights.removeprefix("sha256:") not in {digest for digest, *_ in at.source.asked}
        assert at.source.given == at.source.manifest.size - len(WEIGHTS)
        assert at.whole()


async def test_another_model_of_that_name_gives_way_and_its_blobs_with_it(tmp_path: Path) -> None:
    async with bench(tmp_path, models={NAME.short: "tiny", "other": "tiny-uni"}) as at:
        old = StoreSource(at.store.folder, NAME.short).manifest
        kept = StoreSource(at.store.folder, "other").manifest
        await at.copy()
        blobs = {path.name.removeprefix("sha256-") for path in at.store.blobs.iterdir()}
        assert blobs == {*at.source.manifest.blobs, *kept.blobs}
        assert set(old.blobs) - blobs
        assert await at.names() == ["other:latest", NAME.short]
        assert at.whole()


async def test_what_the_source_cannot_give_leaves_the_old_model_as_it_was(tmp_path: Path) -> None:
    async with bench(tmp_path, models={NAME.short: "tiny"}) as at:
        old = StoreSource(at.store.folder, NAME.short).manifest
        at.source.lose_after = 300_000
        with pytest.raises(BlobLost, match="every holder is gone"):
            await at.copy()
        assert StoreSource(at.store.folder, NAME.short).manifest.digest == old.digest
        assert at.whole()
        assert await at.names() == [NAME.short]


async def test_a_copy_given_up_goes_on_where_it_was(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        at.source.block_s = 0.01
        copying = asyncio.create_task(at.copy())
        await until(lambda: at.source.given > 500_000, what="half of it")
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
        assert await at.names() == []
        on_the_way = 16 * 2 * 64 * 1024  # a block in hand and one kept back, of each range
        at.source.block_s = 0.0
        await at.copy()
        assert at.source.given < at.source.manifest.size + on_the_way
        assert at.whole()


async def test_a_byte_that_changed_on_the_way_is_caught_and_fetched_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        at.source.flip_at = 700_000
        await at.copy()
        assert at.whole()
        assert at.source.given > at.source.manifest.size
        assert at.source.blamed == [at.source.manifest.layers[0].digest]


async def test_corrupt_at_the_source_is_told_in_the_engines_words(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        path = at.source.folder / "blobs" / f"sha256-{at.source.manifest.layers[0].digest}"
        path.write_bytes(WEIGHTS[:-1] + b"!")
        with pytest.raises(PullFailed, match="digest mismatch"):
            await at.copy()
        assert await at.names() == []


async def test_an_ollama_killed_midway_is_waited_for(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        at.source.block_s = 0.005
        copying = asyncio.create_task(at.copy())
        await until(lambda: at.source.given > 300_000, what="some of it")
        await at.fake.stop()
        at.source.block_s = 0.0
        await at.fake.start()
        await copying
        assert at.whole()
        assert await at.names() == [NAME.short]


async def test_blobs_deleted_during_a_pull_are_pulled_again(tmp_path: Path) -> None:
    """Nothing names a blob that a pull has found here, until it is over: a delete may take it along."""
    async with bench(tmp_path) as at:
        first = parse_model_name("first")
        at.store.make(first, b"other weights", "Be brief.")  # shares the system prompt and the config
        at.fake.catalogue._note_pulled(at.store, first)
        config = f"sha256:{at.source.manifest.config.digest}"
        at.source.block_s = 0.02
        copying = asyncio.create_task(at.copy())
        await until(lambda: at.source.given > 100_000, what="some of it")
        assert at.store.blob(config).exists()
        assert await OllamaCalls(at.target).delete(first)
        assert not at.store.blob(config).exists()
        await copying
        assert at.whole()


async def test_a_disk_without_room_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    async with bench(tmp_path, models={"other": "tiny"}) as at:
        at.store.disk_bytes = 400_000
        with pytest.raises(DiskFull, match="no space left"):
            await at.copy()
        assert await at.names() == ["other:latest"]
        assert at.whole("other")
        at.store.disk_bytes = None
        given = at.source.given
        await at.copy()
        assert at.whole()
        assert at.source.given - given < at.source.manifest.size


async def test_no_room_is_known_before_a_byte_comes(tmp_path: Path) -> None:
    async def none(manifest: Manifest) -> None:
        raise DiskFull(f"it has {manifest.size} bytes")

    async with bench(tmp_path, room=none) as at:
        with pytest.raises(DiskFull):
            await at.copy()
        assert at.fake.journal.on("/api/pull") == []


async def test_a_slow_source_does_not_make_a_part_begin_again(tmp_path: Path) -> None:
    """A part is given up after 0.3 s of silence; each block takes longer."""
    async with bench(tmp_path, weights=WEIGHTS[: 3 * 65536]) as at:
        assert at.fake.catalogue.puller is not None
        at.fake.catalogue.puller.timing.part_bytes = 2**20
        at.source.block_s = 0.45
        await at.copy()
        assert len(at.source.asked) == len(at.source.manifest.blobs)
        assert at.whole()


async def test_names_left_by_a_killed_node_are_taken_away_and_no_others(tmp_path: Path) -> None:
    mine, other = "127.0.0.1:9/ollama-dist-1/tiny:1b", "127.0.0.1:9/ollama-dist-2/tiny:1b"
    async with bench(tmp_path, models={mine: "tiny", other: "tiny", "plain": "tiny"}) as at:
        await at.journal.add(mine, "127.0.0.1:9/ollama-dist-1-old/tiny:1b")
        await Passing(lambda: at.target, Journal(tmp_path / "journal.json")).tidy()
        assert await at.names() == [other, "plain:latest"]
        assert Journal(tmp_path / "journal.json").names == ()


async def test_names_stay_in_the_journal_while_ollama_is_away(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        at.fake.faults.add(Fault(route="/api/delete", status=500))
        await at.copy()
        assert len(Journal(tmp_path / "journal.json").names) == 2
        at.fake.clear_faults()
        await at.passing.tidy()
        assert at.journal.names == ()
        assert await at.names() == [NAME.short]


async def test_one_host_name_is_enough_where_there_is_no_other(tmp_path: Path) -> None:
    async with bench(tmp_path, address=RegistryAddress(bytes_host="127.0.0.1")) as at:
        await at.copy()
        assert at.whole()


async def test_without_a_port_in_the_name_as_windows_needs_it(tmp_path: Path) -> None:
    """The name's host becomes a folder there, which cannot have a colon in it."""
    alone = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
    address = RegistryAddress(((alone, 80), ("127.0.0.1", 0)), alone, "localhost")
    try:
        async with bench(tmp_path, address=address) as at:
            await at.copy()
            assert at.whole()
            (asked,) = {orjson.loads(seen.body)["model"] for seen in at.fake.journal.on("/api/pull")}
            assert ":" not in asked.partition("/")[0]
    except ConfigError as error:
        pytest.skip(f"port 80 is not for this user: {error}")


async def test_a_name_that_cannot_be_noted_is_not_made(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        (tmp_path / "journal.json").mkdir()
        with pytest.raises(NotNoted):
            await at.copy()
        assert at.fake.journal.on("/api/pull") == []


async def test_what_is_told_names_who_gives(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        await at.copy()
        assert {each.sources for each in at.told} == {("source",)}
