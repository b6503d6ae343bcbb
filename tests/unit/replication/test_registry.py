"""The registry as the contract has it, asked by hand; and what a careless one would get from an Ollama."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ollama_dist.core.errors import ConfigError
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.intake.registry import LoopbackRegistry, Offer, RegistryAddress
from tests.support.fake_ollama.pulling import Puller, PullError
from tests.support.fake_ollama.store import FakeStore
from tests.support.store_source import StoreSource

NAME = parse_model_name("hf.co/Some-Body/Tiny:1B")
WEIGHTS = bytes(range(256)) * 1024


class Asked:
    """A registry with one model on offer, and somebody to ask it."""

    def __init__(self, registry: LoopbackRegistry, offer: Offer, session: aiohttp.ClientSession) -> None:
        self.registry = registry
        self.offer = offer
        self.manifest = offer.source.manifest
        self.base = f"http://{offer.name.host}/v2/{offer.name.namespace}"
        self._session = session

    @property
    def weights(self) -> str:
        return f"{self.base}/Tiny/blobs/sha256:{self.manifest.layers[0].digest}"

    async def ask(self, url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        async with self._session.request(method, url, headers=headers, allow_redirects=False) as answer:
            return answer.status, dict(answer.headers), await answer.read()

    async def place(self) -> str:
        return (await self.ask(self.weights))[1]["Location"]


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    store = FakeStore(tmp_path / "source")
    store.make(NAME, WEIGHTS)
    registry = LoopbackRegistry()
    await registry.start()
    source = StoreSource(store.folder, NAME.short)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        with registry.offer(source, NAME) as offer:
            yield Asked(registry, offer, session)
    await registry.stop()


async def test_the_manifest_is_given_byte_for_byte_in_any_case(asked: Asked) -> None:
    for name in ("Tiny/manifests/1B", "tiny/manifests/1b"):
        status, headers, body = await asked.ask(f"{asked.base}/{name}")
        assert (status, body) == (200, asked.manifest.raw)
        assert headers["Content-Type"] == asked.manifest.media_type
        assert headers["Content-Length"] == str(len(body))


async def test_a_blob_is_sized_and_its_bytes_are_elsewhere(asked: Asked) -> None:
    status, headers, _ = await asked.ask(asked.weights, "HEAD")
    assert (status, headers["Content-Length"], headers["Accept-Ranges"]) == (200, str(len(WEIGHTS)), "bytes")
    status, headers, body = await asked.ask(asked.weights)
    assert (status, body) == (307, b"")
    assert headers["Location"].startswith("http://localhost:")
    status, headers, _ = await asked.ask(headers["Location"], "HEAD")
    assert (status, headers["Content-Length"]) == (200, str(len(WEIGHTS)))


@pytest.mark.parametrize(
    ("asks", "first", "stop"),
    [("bytes=0-9", 0, 10), ("bytes=100000-", 100_000, len(WEIGHTS)), ("bytes=5-9999999", 5, len(WEIGHTS))],
)
async def test_ranges(asked: Asked, asks: str, first: int, stop: int) -> None:
    status, headers, body = await asked.ask(await asked.place(), Range=asks)
    assert (status, body) == (206, WEIGHTS[first:stop])
    assert headers["Content-Range"] == f"bytes {first}-{stop - 1}/{len(WEIGHTS)}"


async def test_without_a_range_the_whole_blob_comes(asked: Asked) -> None:
    status, headers, body = await asked.ask(await asked.place(), **{"Accept-Encoding": "gzip"})
    assert (status, body) == (200, WEIGHTS)
    assert "Content-Encoding" not in headers


async def test_a_range_that_cannot_be_has_no_body(asked: Asked) -> None:
    status, _, body = await asked.ask(await asked.place(), Range="bytes=9999999-")
    assert (status, body) == (416, b"")


async def test_whatever_else_is_asked_for_is_not_there_and_never_needs_a_key(asked: Asked) -> None:
    digest = "0" * 64
    host = f"http://{asked.offer.name.host}"
    place = await asked.place()
    for method, url in (
        ("GET", f"{host}/v2/"),
        ("GET", f"{host}/"),
        ("GET", f"{asked.base}/Tiny/manifests/2b"),
        ("GET", f"{asked.base}/Other/manifests/1B"),
        ("GET", f"{host}/v2/ollama-dist-{'0' * 32}/Tiny/manifests/1B"),
        ("GET", f"{asked.base}/Tiny/blobs/sha256:{digest}"),
        ("GET", f"{asked.base}/Tiny/blobs/sha256:../../etc/passwd"),
        ("PUT", f"{asked.base}/Tiny/manifests/1B"),
        ("DELETE", place),
        ("POST", f"{asked.base}/Tiny/blobs/uploads/"),
        ("GET", place.rpartition("/")[0] + f"/sha256:{digest}"),
        ("GET", place.replace("/blob/", "/blob/0")),
    ):
        status, headers, body = await asked.ask(url, method)
        assert (status, body) == (404, b""), url
        assert "WWW-Authenticate" not in headers


async def test_what_is_no_longer_offered_is_gone(tmp_path: Path) -> None:
    store = FakeStore(tmp_path / "source")
    store.make(NAME, WEIGHTS)
    source = StoreSource(store.folder, NAME.short)
    registry = LoopbackRegistry()
    await registry.start()
    async with aiohttp.ClientSession() as session:
        with registry.offer(source, NAME) as first, registry.offer(source, NAME) as second:
            place = await Asked(registry, first, session).place()
            again = Asked(registry, second, session)
        assert (await again.ask(place))[0] == 404
        assert (await again.ask(f"{again.base}/Tiny/manifests/1B"))[0] == 404
        with registry.offer(source, NAME):
            assert (await again.ask(place, Range="bytes=0-1"))[0] == 206, "one transfer may outlive its name"
    await registry.stop()


async def test_a_port_that_is_taken_is_named() -> None:
    first = LoopbackRegistry()
    await first.start()
    port = int(first._bytes_at.rpartition(":")[2])
    second = LoopbackRegistry(RegistryAddress((("127.0.0.1", port),)))
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
        await second.start()
    await first.stop()


# What an Ollama makes of registries that are not like ours


async def pulled_from(handler: Any, folder: Path) -> list[dict[str, Any]]:
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    puller = Puller(FakeStore(folder / "target"), "0.33.0-rc2")
    puller.timing.direct_s = puller.timing.backoff_s = 0.1
    try:
        name = parse_model_name(f"127.0.0.1:{port}/library/tiny")
        return [line async for line in puller.pull(name, insecure=True)]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ((200, {}), "no Location header"),
        ((302, {"Location": "http://localhost:1/there"}), "unexpected status code 302"),
        ((500, {}), "deadline exceeded"),
    ],
)
async def test_a_careless_registry_is_not_pulled_from(
    tmp_path: Path, answer: tuple[int, dict[str, str]], complaint: str
) -> None:
    store = FakeStore(tmp_path / "source")
    store.make(NAME, WEIGHTS)
    source = StoreSource(store.folder, NAME.short)

    async def careless(request: web.BaseRequest) -> web.StreamResponse:
        if "/manifests/" in request.path:
            return web.Response(body=source.manifest.raw)
        status, headers = answer
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(len(WEIGHTS))})
        return web.Response(status=status, headers=headers, body=WEIGHTS)

    with pytest.raises(PullError, match=complaint):
        await pulled_from(careless, tmp_path)
