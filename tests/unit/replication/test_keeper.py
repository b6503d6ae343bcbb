"""What a node knows of its own models."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from ollama_dist.core.names import parse_model_name
from ollama_dist.core.view import InstalledModel
from ollama_dist.replication.disk.identities import Identities
from ollama_dist.replication.disk.keeper import Keeper
from ollama_dist.replication.disk.locating import Found
from ollama_dist.replication.pace import Rates
from tests.support.model_store import ModelStore
from tests.support.wait import until

TINY, OTHER = parse_model_name("tiny"), parse_model_name("other")


class World:
    def __init__(self, folder: Path) -> None:
        self.store = ModelStore(folder / "models")
        self.is_found = True
        self.changes = 0
        self.keeper = Keeper(self._find, folder, Rates(), scrub_period_s=0.0)
        self.keeper.changed = self._changed

    async def _find(self, models: Iterable[InstalledModel]) -> Found:
        return Found(self.store) if self.is_found else Found(None, "nowhere")

    def _changed(self) -> None:
        self.changes += 1

    def lists(self, *names: str) -> None:
        """The engine lists these."""
        found = {}
        for name in names:
            digest = self.store.manifest(parse_model_name(name)).digest
            found[parse_model_name(name).key] = InstalledModel(name, digest, 1)
        self.keeper.look(found)


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[World]:
    world = World(folder)
    world.keeper.start()
    try:
        yield world
    finally:
        await world.keeper.stop()


async def test_identities_are_known_once_the_engine_lists_a_model(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        tiny = world.store.install("tiny", b"weights")
        world.lists("tiny")
        await until(lambda: world.changes > 0, what="the change")

        assert world.keeper.identity(TINY.key, tiny.digest) == tiny.identity
        assert world.keeper.identity(TINY.key, "another digest") == ""
        assert world.keeper.store_id

        again = world.store.install("tiny", b"other weights")
        world.lists("tiny")
        await until(lambda: world.keeper.identity(TINY.key, again.digest) == again.identity)


async def test_a_blob_names_the_models_that_need_it(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.store.install("tiny", b"weights").layers[0].digest
        world.store.install("other", b"weights", template=b"t")
        world.lists("tiny", "other")
        await until(lambda: len(world.keeper.needing(digest)) == 2, what="both being known")

        world.store.flip(digest, 0)
        assert not await world.keeper.giver.check(digest)

        assert world.keeper.corrupt_models() == ["other", "tiny"]


async def test_without_a_store_nothing_is_known_and_the_reason_is(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.is_found = False
        tiny = world.store.install("tiny", b"weights")
        world.lists("tiny")
        await until(lambda: world.keeper.reason == "nowhere", what="the reason")
        assert world.keeper.identity(TINY.key, tiny.digest) == ""
        assert world.keeper.store is None


async def test_transfers_give_way_while_requests_are_answered(tmp_path: Path) -> None:
    async def nowhere(models: Iterable[InstalledModel]) -> Found:
        return Found(None)

    keeper = Keeper(nowhere, tmp_path, Rates(always=0, serving=1_000_000))
    now = asyncio.get_running_loop().time()
    keeper.pace_in.spend(10_000_000, now)
    assert keeper.pace_in.wait_s(now) == 0.0

    keeper.is_serving = lambda: True

    keeper.pace_in.spend(10_000_000, now)
    assert keeper.pace_in.wait_s(now) > 9.0
    keeper.is_serving = lambda: False
    assert keeper.pace_in.wait_s(now) == 0.0


def row(digest: str, identity: str = "") -> InstalledModel:
    return InstalledModel("tiny:latest", digest, 1, identity=identity)


async def test_what_may_not_be_read_is_known_by_its_digest_once_somebody_read_it(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.is_found = False
        tiny = world.store.install("tiny", b"weights")
        world.lists("tiny")
        keeper = world.keeper
        assert keeper.identity(TINY.key, tiny.digest) == ""
        assert keeper.identities.hear(
            [row(tiny.digest, tiny.identity), row("0" * 64), row("1" * 64, "2" * 64)]
        )
        assert keeper.identity(TINY.key, tiny.digest) == tiny.identity
        assert not keeper.identities.hear([row(tiny.digest, tiny.identity), row("1" * 64, "2" * 64)])
        assert keeper.identities.hear([row(tiny.digest, tiny.identity), row(tiny.digest, "3" * 64)])
        assert keeper.identity(TINY.key, tiny.digest) == "", "they say different things"
        keeper.identities.learn(tiny.digest, tiny.identity)
        assert keeper.identity(TINY.key, tiny.digest) == tiny.identity
    async with running(tmp_path / "elsewhere") as other:
        assert other.keeper.identity(TINY.key, tiny.digest) == ""
    again = Identities(tmp_path)
    again.load()
    assert again.of(tiny.digest) == tiny.identity
