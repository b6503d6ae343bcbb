"""The mirror: what it gives and to whom, and that stock Ollamas can pull from it."""

import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from ollama_dist.core.errors import ConfigError
from ollama_dist.core.ids import Digest
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.disk.giving import Giver
from ollama_dist.replication.disk.pieces import PieceLists
from ollama_dist.replication.disk.store import OllamaStore
from ollama_dist.replication.pace import Pace
from ollama_dist.replication.pulls.mirror import Mirror, MirrorSettings, Network
from tests.support.fake_ollama.pulling import Puller, PullError
from tests.support.fake_ollama.store import FakeStore
from tests.support.store_source import StoreSource

WEIGHTS = bytes(range(256)) * 4096
LOOPBACK: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"),)


def mirror_of(folder: Path, *models: str, clients: tuple[Network, ...] = LOOPBACK) -> Mirror:
    store = FakeStore(folder / "source")
    names = ("tiny:1b", "secret:1b")
    for name in names:
        store.make(parse_model_name(name), WEIGHTS, name)
    giver = Giver(lambda: OllamaStore(store.folder), PieceLists(folder / "pieces"), Pace())

    def names_with(digest: Digest) -> list[str]:
        return [name for name in names if digest in StoreSource(store.folder, name).manifest.blobs]

    return Mirror(MirrorSettings(("127.0.0.1", 0), models, clients), giver, names_with)


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirror]:
    serving = mirror_of(tmp_path, "tiny:*")
    await serving.start()
    yield serving
    await serving.stop()


async def pulled(mirror: Mirror, model: str, folder: Path) -> StoreSource:
    store = FakeStore(folder / "target")
    name = parse_model_name(f"127.0.0.1:{mirror.port}/library/{model}")
    puller = Puller(store, "0.33.0-rc2")
    puller.timing.part_bytes, puller.timing.direct_s = 100_000, 0.2
    lines = [line async for line in puller.pull(name, insecure=True)]
    assert lines[-1] == {"status": "success"}
    return StoreSource(store.folder, name.short)


async def test_an_ollama_that_is_no_member_pulls_what_is_named(mirror: Mirror, tmp_path: Path) -> None:
    copied = await pulled(mirror, "Tiny:1b", tmp_path)
    assert copied.manifest.raw == StoreSource(tmp_path / "source", "tiny:1b").manifest.raw
    weights = copied.folder / "blobs" / f"sha256-{copied.manifest.layers[0].digest}"
    assert weights.read_bytes() == WEIGHTS


@pytest.mark.parametrize("model", ["secret:1b", "tiny:2b", "none"])
async def test_what_is_not_named_is_not_there(mirror: Mirror, tmp_path: Path, model: str) -> None:
    with pytest.raises(PullError, match="file does not exist"):
        await pulled(mirror, model, tmp_path)


async def test_nor_are_its_blobs_under_a_name_that_is(mirror: Mirror, tmp_path: Path) -> None:
    secret = StoreSource(tmp_path / "source", "secret:1b").manifest.layers[1].digest
    url = f"http://127.0.0.1:{mirror.port}/v2/library/tiny/blobs/sha256:{secret}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 404


async def test_whoever_reads_what_it_is_sent_gets_the_bytes_at_once(mirror: Mirror, tmp_path: Path) -> None:
    """Ollama's other downloader looks for no other place where the host name is the same."""
    weights = StoreSource(tmp_path / "source", "tiny:1b").manifest.layers[0].digest
    url = f"http://127.0.0.1:{mirror.port}/v2/library/tiny/blobs/sha256:{weights}"
    agent = {"User-Agent": "ollama-transfer/1.0"}
    async with aiohttp.ClientSession() as session, session.get(url, headers=agent) as answer:
        assert (answer.status, await answer.read()) == (200, WEIGHTS)


async def test_other_networks_are_turned_away_without_a_challenge(tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, "*", clients=(ipaddress.IPv4Network("10.0.0.0/8"),))
    await mirror.start()
    url = f"http://127.0.0.1:{mirror.port}/v2/library/tiny/manifests/1b"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert (answer.status, await answer.read()) == (403, b"")
        assert "WWW-Authenticate" not in answer.headers
    await mirror.stop()


@pytest.mark.parametrize(("models", "clients"), [((), LOOPBACK), (("tiny",), ())])
def test_nothing_is_open_that_nobody_named(models: tuple[str, ...], clients: tuple[Network, ...]) -> None:
    with pytest.raises(ConfigError, match="--mirror-models"):
        MirrorSettings(("0.0.0.0", 1), models, clients)


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [
        ("tiny", "tiny", True),
        ("tiny", "tiny:1b", False),
        ("tiny*", "tiny:1b", True),
        ("Tiny:1B", "tiny:1b", True),
        ("ns/*", "ns/tiny:1b", True),
        ("*", "anything:1b", True),
    ],
)
def test_names(pattern: str, name: str, allowed: bool) -> None:
    settings = MirrorSettings(("0.0.0.0", 1), (pattern,), LOOPBACK)
    assert settings.allows(parse_model_name(name)) is allowed


@pytest.mark.parametrize(
    ("address", "let_in"), [("127.0.0.1", True), ("::ffff:127.0.0.1", True), ("::1", False), (None, False)]
)
def test_clients(address: str | None, let_in: bool) -> None:
    assert MirrorSettings(("0.0.0.0", 1), ("*",), LOOPBACK).lets_in(address) is let_in
