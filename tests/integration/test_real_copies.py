"""Models copied between real Ollamas, of two ages where two are named, each with a folder of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.copying import OllamaCopier
from ollama_dist.replication.journal import Journal
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.registry import LoopbackRegistry
from ollama_dist.replication.sources import Progress
from tests.support.real_ollama import BINARY, OTHER, RealOllama, needs_ollama, real_ollama
from tests.support.recordings import model_file
from tests.support.store_source import OpenedStore, StoreSource

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
        yield OllamaCopier(lambda: connection, registry, journal, OpenedStore(source), any_room)
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
