"""The registry that a model's name means, as this node asks it: its manifest, and ranges of its blobs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver
from yarl import URL

from ollama_dist import __version__
from ollama_dist.core.errors import UpstreamFailed, UpstreamTimeout
from ollama_dist.core.ids import Digest
from ollama_dist.core.names import ModelName
from ollama_dist.replication.manifest import MANIFEST_LIMIT, MEDIA_TYPE, Manifest, read_manifest
from ollama_dist.replication.pulls.inside import (
    Answer,
    IsInside,
    OutsideOnly,
    is_inside,
    is_proxied,
    is_written_inside,
)
from ollama_dist.replication.sources import BlobLost

log = structlog.get_logger()

MANIFEST_S: Final = 3.0
CONNECT_S: Final = 5.0
SILENCE_S: Final = 15.0
TRIES: Final = 5
"""In a row without a byte in between."""

BACKOFF_S: Final = 0.5
REDIRECTS: Final = 5
_REDIRECTING: Final = (301, 302, 303, 307, 308)


class NotThere(UpstreamFailed):
    """The registry has no such model."""

    status = 404
    code = "model_not_found"


class WantsKey(UpstreamFailed):
    """The registry gives it only to those it knows; engines have keys, this node has none."""

    status = 403
    code = "registry_wants_key"


class Upstream:
    """Asks registries without showing a key. Close it in the end."""

    def __init__(
        self,
        manifest_s: float = MANIFEST_S,
        backoff_s: float = BACKOFF_S,
        names: AbstractResolver | None = None,
        is_inside: IsInside = is_inside,
    ) -> None:
        self._manifest_s = manifest_s
        self._backoff_s = backoff_s
        self._names = names
        self._is_inside = is_inside
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        """By whether they may be led inside."""

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    async def manifest(self, name: ModelName, *, insecure: bool = False) -> Manifest:
        """What the registry has now under this name.

        Raises `NotThere`, `WantsKey`, `UpstreamTimeout`, `BadManifest`, and `UpstreamFailed` for any other
        answer.
        """
        url = URL(f"{_base(name, insecure=insecure)}/manifests/{name.tag}")
        try:
            async with (
                asyncio.timeout(self._manifest_s),
                self._get(url, {"Accept": MEDIA_TYPE}, insecure=insecure) as answer,
            ):
                if answer.status == 404:
                    raise NotThere(f"{name.host} has no model {name.short}")
                if answer.status in (401, 403):
                    raise WantsKey(f"{name.host} wants to know who asks for {name.short} ({answer.status})")
                if answer.status != 200:
                    raise UpstreamFailed(f"{name.host} answered {answer.status}")
                return read_manifest(await _limited(answer))
        except TimeoutError as error:
            raise UpstreamTimeout(f"{name.host} did not answer within {self._manifest_s:.0f} s") from error
        except aiohttp.ClientError as error:
            raise UpstreamFailed(f"{name.host} cannot be asked: {error}") from error

    def source(self, name: ModelName, manifest: Manifest, *, insecure: bool = False) -> "UpstreamSource":
        return UpstreamSource(self, name, manifest, insecure=insecure)

    async def ranged(
        self, name: ModelName, digest: Digest, start: int, stop: int, *, insecure: bool
    ) -> AsyncIterator[bytes]:
        """One try at a range; raises `UpstreamFailed` where it breaks off or does not begin."""
        url = URL(f"{_base(name, insecure=insecure)}/blobs/sha256:{digest}")
        try:
            async with self._get(url, {"Range": f"bytes={start}-{stop - 1}"}, insecure=insecure) as answer:
                if answer.status != 206 and not (answer.status == 200 and start == 0):
                    raise UpstreamFailed(f"{name.host} answered {answer.status}")
                left = stop - start
                while left:
                    block = await answer.content.readany()
                    if not block:
                        raise UpstreamFailed(f"{name.host} broke off")
                    yield block[:left]
                    left -= min(left, len(block))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UpstreamFailed(f"{name.host}: {str(error) or 'it fell silent'}") from error

    @asynccontextmanager
    async def _get(
        self, url: URL, headers: dict[str, str], *, insecure: bool
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer at the end of the redirects. Raises `UpstreamFailed` for one that leads astray.

        Whoever was named may be anywhere; only who is inside may lead there.
        """
        may_be_inside = True
        for _ in range(REDIRECTS):
            session = self._opened(may_be_inside=may_be_inside)
            async with session.get(url, headers=headers, allow_redirects=False) as answer:
                if answer.status not in _REDIRECTING:
                    yield answer
                    return
                assert isinstance(answer, Answer)
                may_be_inside = is_written_inside(url, self._is_inside) or (
                    answer.came_from(self._is_inside) and not is_proxied(url)
                )
                url = _next(url, answer.headers.get("Location", ""))
            if url.scheme != "https" and not (insecure and url.scheme == "http"):
                raise UpstreamFailed(f"the registry sends us to {url.scheme}://{url.host}")
            if is_written_inside(url, self._is_inside) and not may_be_inside:
                raise UpstreamFailed(f"the registry sends us to {url.host}, which is inside this network")
        raise UpstreamFailed("the registry sends us round in circles")

    def _opened(self, *, may_be_inside: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(may_be_inside)
        if session is None:
            names = self._names or aiohttp.ThreadedResolver()
            session = self._sessions[may_be_inside] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, resolver=names if may_be_inside else OutsideOnly(names, self._is_inside)
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"User-Agent": f"ollama-dist/{__version__}", "Accept-Encoding": "identity"},
                response_class=Answer,
                trust_env=True,
            )
        return session

    async def pause(self, failures: int) -> None:
        await asyncio.sleep(self._backoff_s * 2.0 ** (failures - 1))


class UpstreamSource:
    """See `BlobSource`. Nothing of it can be checked before a blob is whole; who gets it does that."""

    def __init__(self, upstream: Upstream, name: ModelName, manifest: Manifest, *, insecure: bool) -> None:
        self._upstream = upstream
        self._name = name
        self._insecure = insecure
        self._manifest = manifest
        self.given = 0
        """Bytes so far."""

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    async def read(self, digest: Digest, start: int, stop: int) -> AsyncIterator[bytes]:
        failures = 0
        while start < stop:
            try:
                async for block in self._upstream.ranged(
                    self._name, digest, start, stop, insecure=self._insecure
                ):
                    failures = 0
                    start += len(block)
                    self.given += len(block)
                    yield block
            except UpstreamFailed as error:
                failures += 1
                log.info("registry_broke_off", host=self._name.host, failures=failures, error=str(error))
                if failures == TRIES:
                    raise BlobLost(f"the registry does not give it: {error}") from error
                await self._upstream.pause(failures)


def _base(name: ModelName, *, insecure: bool) -> str:
    return f"{'http' if insecure else 'https'}://{name.host}/v2/{name.namespace}/{name.model}"


def _next(url: URL, location: str) -> URL:
    try:
        return url.join(URL(location))
    except ValueError as error:
        raise UpstreamFailed(f"the registry sends us to {location[:80]!r}") from error


async def _limited(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    while block := await answer.content.read(MANIFEST_LIMIT + 1 - len(body)):
        body += block
    return body  # one that is too long is found to be so by who reads it
