"""Asking registries out there, which lie, break off and lead astray."""

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ollama_dist.core.errors import UpstreamFailed, UpstreamTimeout
from ollama_dist.core.ids import Digest
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.manifest import BadManifest, Manifest
from ollama_dist.replication.pulls.inside import is_inside, is_written_inside
from ollama_dist.replication.pulls.upstream import NotThere, Upstream, WantsKey
from ollama_dist.replication.sources import BlobLost
from tests.support.upstream_registry import UpstreamRegistry

WEIGHTS = bytes(range(256)) * 2048
MANIFEST = (
    b'{"schemaVersion":2,"config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"sha256:'
    + b"a" * 64
    + b'","size":1},"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:'
    + b"b" * 64
    + b'","size":1}]}'
)


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[UpstreamRegistry]:
    async with UpstreamRegistry(tmp_path / "registry") as serving:
        yield serving


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    asking = Upstream(manifest_s=0.3, backoff_s=0.001)
    yield asking
    await asking.close()


async def read(source: Any, digest: Digest, start: int, stop: int) -> bytes:
    return b"".join([block async for block in source.read(digest, start, stop)])


def weights_of(manifest: Manifest) -> Digest:
    return manifest.layers[0].digest


async def test_a_manifest_and_ranges_of_a_blob(registry: UpstreamRegistry, upstream: Upstream) -> None:
    name = registry.publish("tiny", WEIGHTS)
    manifest = await upstream.manifest(name, insecure=True)
    assert manifest.raw == registry.store.manifest(name).read_bytes()
    source = upstream.source(name, manifest, insecure=True)
    assert await read(source, weights_of(manifest), 100, 300_000) == WEIGHTS[100:300_000]


async def test_an_answer_that_breaks_off_is_taken_up_where_it_ended(
    registry: UpstreamRegistry, upstream: Upstream
) -> None:
    name = registry.publish("tiny", WEIGHTS)
    manifest = await upstream.manifest(name, insecure=True)
    registry.cut_after = 100_000
    source = upstream.source(name, manifest, insecure=True)
    assert await read(source, weights_of(manifest), 0, len(WEIGHTS)) == WEIGHTS
    assert registry.total == len(WEIGHTS)


async def test_a_registry_that_is_gone_is_given_up(registry: UpstreamRegistry, upstream: Upstream) -> None:
    name = registry.publish("tiny", WEIGHTS)
    manifest = await upstream.manifest(name, insecure=True)
    registry.status = 500
    with pytest.raises(BlobLost, match="500"):
        await read(upstream.source(name, manifest, insecure=True), weights_of(manifest), 0, 10)


async def test_what_a_manifest_request_can_come_to(registry: UpstreamRegistry, upstream: Upstream) -> None:
    name = registry.publish("tiny", WEIGHTS)
    with pytest.raises(NotThere):
        await upstream.manifest(registry.named("none"), insecure=True)
    with pytest.raises(UpstreamFailed):
        await upstream.manifest(name, insecure=False)
    registry.store.write(name, b"<html>")
    with pytest.raises(BadManifest):
        await upstream.manifest(name, insecure=True)
    registry.store.write(name, b"[" * (5 * 2**20))
    with pytest.raises(BadManifest, match="longer"):
        await upstream.manifest(name, insecure=True)
    registry.status = 401
    with pytest.raises(WantsKey, match="401"):
        await upstream.manifest(name, insecure=True)
    registry.hangs = True
    with pytest.raises(UpstreamTimeout):
        await upstream.manifest(name, insecure=True)
    await registry.stop()
    with pytest.raises(UpstreamFailed):
        await upstream.manifest(name, insecure=True)


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "http://[::1", "", "ftp://localhost/x", "gopher://127.0.0.1/"]
)
async def test_a_redirect_that_leads_astray_is_not_followed(upstream: Upstream, location: str) -> None:
    async def astray(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": location})

    runner = web.ServerRunner(web.Server(astray))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    name = parse_model_name(f"127.0.0.1:{runner.addresses[0][1]}/library/tiny")
    try:
        with pytest.raises(UpstreamFailed):
            await upstream.manifest(name, insecure=True)
    finally:
        await runner.cleanup()


class Names(AbstractResolver):
    """Tells names as it is told to; the n-th question gets the n-th answer, the last over and over."""

    def __init__(self, **told: list[str]) -> None:
        self.told = told
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        name = host.partition(".")[0]
        self.asked.append(name)
        answers = self.told[name]
        address = answers[min(self.asked.count(name), len(answers)) - 1]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        """Nothing is open."""


OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"
"""Taken for one: all that a test can connect to is really inside."""


@asynccontextmanager
async def redirecting(to: str, address: str = OUTSIDE) -> AsyncIterator[tuple[int, list[str]]]:
    """A registry that sends everybody to ``to`` on the same port, where it is itself; what it was asked."""
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.host.partition(":")[0])
        if request.path.startswith("/there"):
            return web.Response(body=MANIFEST)
        return web.Response(status=307, headers={"Location": f"http://{to}:{port}/there"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    port = runner.addresses[0][1]
    try:
        yield port, asked
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("start", "to", "told", "is_followed"),
    [
        ("shop.test", "store.test", {"shop": [OUTSIDE], "store": [OUTSIDE]}, True),
        ("shop.test", "printer.test", {"shop": [OUTSIDE], "printer": [INSIDE]}, False),
        ("shop.test", INSIDE, {"shop": [OUTSIDE]}, False),
        ("shop.test", "shop.test", {"shop": [OUTSIDE, INSIDE]}, False),
        ("shop.lan", "store.lan", {"shop": [INSIDE], "store": [INSIDE]}, True),
        (INSIDE, "store.lan", {"store": [INSIDE]}, True),
    ],
)
async def test_only_a_registry_inside_leads_inside_whatever_names_say(
    start: str, to: str, told: dict[str, list[str]], is_followed: bool
) -> None:
    async with redirecting(to) as (port, asked):
        upstream = Upstream(
            manifest_s=2.0, names=Names(**told), is_inside=lambda address: str(address) == INSIDE
        )
        name = parse_model_name(f"{start}:{port}/library/tiny")
        try:
            if is_followed:
                assert (await upstream.manifest(name, insecure=True)).raw == MANIFEST
            else:
                with pytest.raises(UpstreamFailed, match="inside"):
                    await upstream.manifest(name, insecure=True)
        finally:
            await upstream.close()
        assert asked == ([start, to] if is_followed else [start])


async def test_the_name_of_a_proxy_may_lead_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What leads outside is its business then, and what it is asked for is looked at by name alone."""
    async with redirecting("printer.local") as (port, asked):
        monkeypatch.setenv("http_proxy", f"http://proxy.lan:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        upstream = Upstream(
            manifest_s=2.0, names=Names(proxy=[INSIDE]), is_inside=lambda address: str(address) == INSIDE
        )
        try:
            with pytest.raises(UpstreamFailed, match="inside"):
                await upstream.manifest(parse_model_name("shop.test/library/tiny"), insecure=True)
        finally:
            await upstream.close()
        assert asked == ["shop.test"]


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("127.0.0.1", True),
        ("0.0.0.0", True),
        ("10.1.2.3", True),
        ("169.254.169.254", True),
        ("100.64.0.1", True),
        ("224.0.0.1", True),
        ("::1", True),
        ("fe80::1", True),
        ("fd00::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:8.8.8.8", False),
        ("64:ff9b::7f00:1", True),
        ("64:ff9b::808:808", False),
        ("2002:7f00:1::", True),
    ],
)
def test_which_addresses_are_inside(address: str, inside: bool) -> None:
    assert is_inside(ipaddress.ip_address(address)) is inside


@pytest.mark.parametrize(
    ("url", "inside"),
    [
        ("https://registry.ollama.ai/v2", False),
        ("https://8.8.8.8/", False),
        ("http://127.0.0.1:80/", True),
        ("http://10.1.2.3/", True),
        ("http://169.254.169.254/", True),
        ("http://[::1]/", True),
        ("http://localhost/", True),
        ("http://printer.local/", True),
    ],
)
def test_what_is_written_as_inside(url: str, inside: bool) -> None:
    assert is_written_inside(URL(url)) is inside
