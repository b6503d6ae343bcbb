"""A registry out there, as the public ones are: manifests, blobs, ranges, and a count of all it gives."""

import asyncio
import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Self

from aiohttp import web

from ollama_dist.core.names import ModelName, parse_model_name
from tests.support.fake_ollama.store import MEDIA_TYPE, FakeStore


class UpstreamRegistry:
    """Serves while entered. Models are put into it with `publish`."""

    def __init__(self, folder: Path) -> None:
        self.store = FakeStore(folder)
        self.port = 0
        self.given: Counter[str] = Counter()
        """Bytes given of each blob, by its digest."""
        self.manifests = 0
        """Manifests asked for."""
        self.status: int | None = None
        """Answer so, whatever is asked."""
        self.hangs = False
        self.block_s = 0.0
        self.cut_after: int | None = None
        """Bytes after which each answer breaks off, once."""
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def named(self, model: str) -> ModelName:
        return parse_model_name(f"{self.host}/library/{model}")

    def publish(self, model: str, weights: bytes, system: str = "") -> ModelName:
        name = self.named(model)
        self.store.make(name, weights, system)
        return name

    @property
    def total(self) -> int:
        return sum(self.given.values())

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.hangs:
            await asyncio.Event().wait()
        if self.status is not None:
            return web.Response(status=self.status)
        match request.path.split("/")[1:]:
            case ["v2", namespace, model, "manifests", tag]:
                self.manifests += 1
                path = self.store.manifest(ModelName(self.host, namespace, model, tag))
                if not path.exists():
                    return web.Response(status=404)
                return web.Response(body=path.read_bytes(), headers={"Content-Type": MEDIA_TYPE})
            case ["v2", _, _, "blobs", digest] if self.store.blob(digest).exists():
                return await self._blob(request, digest)
        return web.Response(status=404)

    async def _blob(self, request: web.BaseRequest, digest: str) -> web.StreamResponse:
        data = self.store.blob(digest).read_bytes()
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(len(data))})
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if match is None:
            place = f"http://localhost:{self.port}{request.path}"
            return web.Response(status=307, headers={"Location": place})
        part = data[int(match[1]) : int(match[2]) + 1]
        response = web.StreamResponse(status=206)
        response.content_length = len(part)
        await response.prepare(request)
        for at in range(0, len(part), 65536):
            await asyncio.sleep(self.block_s)
            block = part[at : at + 65536]
            if self.cut_after is not None and at >= self.cut_after:
                self.cut_after = None
                assert request.transport is not None
                request.transport.close()
                return response
            await response.write(block)
            self.given[digest] += len(block)
        return response


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
