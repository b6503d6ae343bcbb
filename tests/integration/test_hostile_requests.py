"""Requests that nobody means well, in their thousands: what is authorised is done, and nothing else."""

import re
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from ollama_dist.api import bodies, listener
from ollama_dist.api.auth import ClientPolicy
from ollama_dist.api.routes import OLLAMA_ROUTES
from ollama_dist.core.scopes import Scope
from ollama_dist.node.client_keys import KeyFile, new_key
from tests.support.fake_ollama import FakeOllama
from tests.support.hostile import bodies as hostile_bodies
from tests.support.hostile import framing, hosts, origins, paths, proxies, shapes
from tests.support.hostile.vectors import Played, Vector, play, wrongs
from tests.support.solo_node import SoloNode, solo_node

HEAD_S: Final = 3.0

BOMB_BYTES: Final = 128 * 2**20
"""Twice what may come out of a body, for what goes off at the same time is opened one after the other."""

_KNOWN_PATHS: Final = re.compile(
    "|".join(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path)) for route in OLLAMA_ROUTES)
)


@dataclass
class Attacked:
    """A node and the engine behind it."""

    node: SoloNode
    engine: FakeOllama

    async def bear(self, vectors: Iterable[Vector], *, at_least: int) -> list[Played]:
        """Play ``vectors`` and tell of all that went wrong at once."""
        played = await play(self.node.port, self.engine, vectors)
        assert len(played) >= at_least
        found = wrongs(played)
        asked = {seen.path for seen in self.engine.journal.requests}
        found += [f"the engine was asked for {path}" for path in asked if not _KNOWN_PATHS.fullmatch(path)]
        found += shapes.wrongs(played)
        assert not found, f"{len(found)} of {len(played)}:\n" + "\n".join(found[:200])
        return played


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PATIENCE_S", 0.5)
    monkeypatch.setattr(listener, "LINGER_S", 0.1)


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


async def test_a_body_beyond_its_bounds_is_not_read(open_node: Attacked) -> None:
    await open_node.bear(hostile_bodies.too_large(), at_least=50)


async def test_a_body_that_dribbles_in_is_not_waited_for(open_node: Attacked) -> None:
    await open_node.bear(hostile_bodies.too_slow(), at_least=40)


async def test_a_body_nested_beyond_measure_is_the_callers_mistake(open_node: Attacked) -> None:
    await open_node.bear(hostile_bodies.too_deep(), at_least=50)


async def test_a_bomb_goes_off_within_bounds(open_node: Attacked) -> None:
    vectors = list(hostile_bodies.bombs())
    tracemalloc.start()
    try:
        await open_node.bear(vectors, at_least=20)
        assert tracemalloc.get_traced_memory()[1] < BOMB_BYTES
    finally:
        tracemalloc.stop()


async def test_failures_are_told_in_the_dialect_of_their_route(open_node: Attacked) -> None:
    await open_node.bear(shapes.vectors(), at_least=100)


async def test_a_missing_key_is_told_in_the_dialect_of_its_route(locked_node: Attacked) -> None:
    await locked_node.bear(shapes.keyless_vectors(), at_least=20)


async def test_an_engine_that_is_gone_is_told_without_its_particulars(open_node: Attacked) -> None:
    await open_node.engine.stop()
    await open_node.bear(shapes.engineless_vectors(), at_least=20)
