"""Asking registries out there, which lie, break off and lead astray."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from ollama_dist.core.errors import UpstreamFailed, UpstreamTimeout
from ollama_dist.core.ids import Digest
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.manifest import BadManifest, Manifest
from ollama_dist.replication.pulls.upstream import NotThere, Upstream, WantsKey, _is_inside
from ollama_dist.replication.sources import BlobLost
from tests.support.upstream_registry import UpstreamRegistry

WEIGHTS = bytes(range(256)) * 2048


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
def test_what_is_inside(url: str, inside: bool) -> None:
    assert _is_inside(URL(url)) is inside
