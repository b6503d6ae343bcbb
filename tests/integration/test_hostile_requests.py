"""Requests that nobody means well, in their thousands: what is authorised is done, and nothing else."""

import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from ollama_dist.api import bodies
from ollama_dist.api.auth import ClientPolicy
from ollama_dist.api.routes import OLLAMA_ROUTES
from ollama_dist.core.scopes import Scope
from ollama_dist.node.client_keys import KeyFile, new_key
from tests.support.fake_ollama import FakeOllama
from tests.support.hostile import framing, hosts, origins, paths, proxies
from tests.support.hostile.vectors import Vector, play, wrongs
from tests.support.solo_node import SoloNode, solo_node

HEAD_S: Final = 0.5

_KNOWN_PATHS: Final = re.compile(
    "|".join(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path)) for route in OLLAMA_ROUTES)
)


@dataclass
class Attacked:
    """A node and the engine behind it."""

    node: SoloNode
    engine: FakeOllama

    async def bear(self, vectors: Iterable[Vector], *, at_least: int) -> None:
        """Play ``vectors`` and tell of all that went wrong at once."""
        played = await play(self.node.port, self.engine, vectors)
        assert len(played) >= at_least
        found = wrongs(played)
        asked = {seen.path for seen in self.engine.journal.requests}
        found += [f"the engine was asked for {path}" for path in asked if not _KNOWN_PATHS.fullmatch(path)]
        assert not found, f"{len(found)} of {len(played)}:\n" + "\n".join(found[:200])


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PATIENCE_S", 0.5)


@pytest.fixture
async def engine() -> AsyncIterator[FakeOllama]:
    async with FakeOllama(models=("tiny",)) as fake:
        yield fake


@pytest.fixture
async def open_node(engine: FakeOllama) -> AsyncIterator[Attacked]:
    """Everybody who reaches it may ask it."""
    async with solo_node(engine.port, head_s=HEAD_S) as node:
        yield Attacked(node, engine)


def _policy(folder: Path, *, trusts_this_machine: bool) -> ClientPolicy:
    keys = KeyFile(folder / "keys.json")
    keys.add(new_key("phone", [Scope.CHAT])[0])
    return ClientPolicy(keys, trusts_this_machine)


@pytest.fixture
async def locked_node(engine: FakeOllama, tmp_path: Path) -> AsyncIterator[Attacked]:
    """Everybody has to show a key."""
    clients = _policy(tmp_path, trusts_this_machine=False)
    async with solo_node(engine.port, head_s=HEAD_S, clients=clients) as node:
        yield Attacked(node, engine)


@pytest.fixture
async def shared_node(engine: FakeOllama, tmp_path: Path) -> AsyncIterator[Attacked]:
    """Whoever is not on this machine has to show a key."""
    clients = _policy(tmp_path, trusts_this_machine=True)
    async with solo_node(engine.port, head_s=HEAD_S, clients=clients) as node:
        yield Attacked(node, engine)


async def test_only_names_of_this_machine_are_answered_to(open_node: Attacked) -> None:
    await open_node.bear(hosts.vectors(), at_least=200)


async def test_what_is_no_path_of_the_table_leads_nowhere(open_node: Attacked) -> None:
    await open_node.bear(paths.vectors(), at_least=800)


async def test_no_spelling_of_a_path_goes_round_its_key(locked_node: Attacked) -> None:
    await locked_node.bear(paths.locked_vectors(), at_least=800)
    marked = [seen.path for seen in locked_node.engine.journal.requests if "User-Agent" in seen.headers]
    assert marked == []


async def test_a_request_ends_where_a_strict_reader_says(open_node: Attacked) -> None:
    await open_node.bear(framing.vectors(), at_least=500)


async def test_pages_of_other_origins_can_do_nothing(open_node: Attacked) -> None:
    await open_node.bear(origins.vectors(), at_least=250)


async def test_who_forwards_or_means_another_host_is_not_this_machine(shared_node: Attacked) -> None:
    await shared_node.bear(proxies.trust_vectors(), at_least=50)


async def test_nothing_of_who_asks_reaches_the_engine(open_node: Attacked) -> None:
    await open_node.bear(proxies.canary_vectors(), at_least=50)
    assert not any(b"canary" in repr(seen.headers).encode() for seen in open_node.engine.journal.requests)
