"""A read-only registry that an Ollama pulls from, so that a model comes in by Ollama's own front door.

It serves what ``server/images.go`` and ``server/download.go`` of Ollama ask for and nothing else: a manifest,
the size of a blob, where its bytes are, and ranges of them. The bytes come from a `BlobSource`.
"""

import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
from aiohttp import web

from ollama_dist.core.errors import BadRequest, ConfigError
from ollama_dist.core.ids import Digest, parse_digest
from ollama_dist.core.names import TRANSFER_NAMESPACE, ModelName
from ollama_dist.replication.intake.feeding import CRUMB_S, feed
from ollama_dist.replication.sources import BlobLost, BlobSource
from ollama_dist.wire.ranges import RangeNotSatisfiable, content_range, read_range

log = structlog.get_logger()

_WHOLE_FIRST: Final = "ollama-transfer/"
"""The user agent of Ollama's other downloader (models with a blob per tensor): it reads what it is sent."""


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class RegistryAddress:
    """Where the registry listens, and what the Ollama that pulls from it calls that.

    Two host names of one listener are needed: Ollama takes a blob's bytes only from where it was sent to, and
    follows no further than to another host name. Where there is only one, it is told in a way that its
    downloader for models with a blob per tensor does not understand.
    """

    listen: tuple[tuple[str, int], ...] = (("127.0.0.1", 0),)
    """Host and port of each socket; 0: any port."""
    name_host: str = "127.0.0.1"
    """Leads to the first socket. A port other than 80 is written behind it."""
    bytes_host: str = "localhost"
    """Leads to the last socket."""


LOOPBACK: Final = RegistryAddress()
WINDOWS: Final = RegistryAddress((("127.77.0.1", 80), ("127.0.0.1", 0)), "127.77.0.1", "localhost")
"""File names cannot contain a colon there, and Ollama makes a folder of the host: so no port in the name."""


class Shelf(Protocol):
    """What a registry has."""

    async def find(self, namespace: str, model: str, tag: str) -> BlobSource | None:
        """The model of this name; None where there is none. Case does not count."""
        ...

    async def within(self, namespace: str, model: str, digest: Digest) -> BlobSource | None:
        """Who has that blob of a model of that name, whatever its tag."""
        ...

    async def holding(self, digest: Digest) -> BlobSource | None:
        """Anybody who has that blob."""
        ...

    def lost(self, source: BlobSource, error: BlobLost) -> None:
        """Bytes of ``source`` could not be had."""
        ...


class RegistryFront:
    """The handler. ``bytes_at`` says where the asker finds the bytes of blobs: ``http://host[:port]``."""

    def __init__(
        self, shelf: Shelf, bytes_at: Callable[[web.BaseRequest], str], *, crumb_s: float = CRUMB_S
    ) -> None:
        self._shelf = shelf
        self._crumb_s = crumb_s
        self._bytes_at = bytes_at
        self._token = secrets.token_hex(16)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.path.split("/")[1:]:
            case ["v2", namespace, model, "manifests", tag]:
                return self._manifest(request, await self._shelf.find(namespace, model, tag))
            case ["v2", namespace, model, "blobs", text] if digest := _digest(text):
                return await self._blob(request, await self._shelf.within(namespace, model, digest), digest)
            case ["blob", token, text] if secrets.compare_digest(token.encode(), self._token.encode()):
                digest = _digest(text)
                source = await self._shelf.holding(digest) if digest else None
                if digest and source:
                    return await self._bytes(request, source, digest)
        return _nothing(404)

    def _manifest(self, request: web.BaseRequest, source: BlobSource | None) -> web.StreamResponse:
        if source is None or request.method not in ("GET", "HEAD"):
            return _nothing(404)
        manifest = source.manifest
        return web.Response(body=manifest.raw, headers={"Content-Type": manifest.media_type})

    async def _blob(
        self, request: web.BaseRequest, source: BlobSource | None, digest: Digest
    ) -> web.StreamResponse:
        """Its size, or where its bytes are: Ollama does not take them in answer to this."""
        if source is None:
            return _nothing(404)
        if request.method == "HEAD":
            return _sized(source.manifest.blobs[digest])
        place = self._bytes_at(request)
        if place.partition("://")[2].partition(":")[0] != request.host.partition(":")[0]:
            status = 307
        elif request.headers.get("User-Agent", "").startswith(_WHOLE_FIRST):
            return await self._bytes(request, source, digest)
        else:
            status = 200  # with a Location, which is what is looked at
        return _nothing(status, {"Location": f"{place}/blob/{self._token}/sha256:{digest}"})

    async def _bytes(
        self, request: web.BaseRequest, source: BlobSource, digest: Digest
    ) -> web.StreamResponse:
        size = source.manifest.blobs[digest]
        if request.method == "HEAD":
            return _sized(size)
        if request.method != "GET":
            return _nothing(404)
        try:
            wanted = read_range(request.headers.get("Range"), size)
        except RangeNotSatisfiable:
            return _nothing(416, {"Content-Range": f"bytes */{size}"})
        start, stop = wanted or (0, size)
        response = web.StreamResponse(status=206 if wanted else 200)
        response.content_type = "application/octet-stream"
        response.content_length = stop - start
        response.headers["Accept-Ranges"] = "bytes"
        if wanted:
            response.headers["Content-Range"] = content_range(start, stop, size)
        await response.prepare(request)
        try:
            await feed(source.read(digest, start, stop), response.write, crumb_s=self._crumb_s)
        except BlobLost as lost:
            log.info("blob_lost", digest=digest, start=start, stop=stop, reason=str(lost))
            self._shelf.lost(source, lost)
            _end_short(request)
        except ConnectionError:
            _end_short(request)  # the asker left
        else:
            await response.write_eof()
        return response


@dataclass(eq=False)
class Offer:
    """A model that the local Ollama may pull now, by a name that nobody can guess."""

    name: ModelName
    source: BlobSource
    lost: BlobLost | None = None
    """Why its bytes cannot be had any more."""
    on_lost: list[Callable[[], None]] = field(default_factory=list)

    @property
    def old(self) -> ModelName:
        """For the model whose place this one takes, as long as that lasts."""
        return ModelName(self.name.host, f"{self.name.namespace}-old", self.name.model, self.name.tag)


class RegistryServer:
    """Listens on every place of ``listen`` (0: any port), which are `ports` once it is started."""

    def __init__(
        self,
        handler: Handler,
        listen: Sequence[tuple[str, int]],
        what: str = "the registry for this machine's Ollama",
    ) -> None:
        self._what = what
        self._handler = handler
        self._listen = listen
        self._runner: web.ServerRunner | None = None
        self.ports: list[int] = []

    async def start(self) -> None:
        """Raises `ConfigError` where one of its sockets cannot be had."""
        server = web.Server(self._handler, access_log=None, handler_cancellation=True, auto_decompress=False)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        for host, port in self._listen:
            try:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                bound = socket.create_server((host, port), family=family, backlog=128)
            except OSError as error:
                await self.stop()
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise ConfigError(f"{self._what} cannot listen on {host}:{port}: {reason}") from error
            self.ports.append(bound.getsockname()[1])
            await web.SockSite(self._runner, bound).start()

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


class LoopbackRegistry:
    """Serves what is offered, to this machine alone, from `start` to `stop`."""

    def __init__(self, address: RegistryAddress = LOOPBACK, *, crumb_s: float = CRUMB_S) -> None:
        self._address = address
        self._offers: dict[str, Offer] = {}
        self._takers: dict[str, Handler] = {}
        self._front = RegistryFront(self, lambda _request: self._bytes_at, crumb_s=crumb_s)
        self._server = RegistryServer(self._answer, address.listen)

    async def start(self) -> None:
        """Raises `ConfigError` where one of its sockets cannot be had."""
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()

    @contextmanager
    def offer(self, source: BlobSource, name: ModelName) -> Iterator[Offer]:
        """While inside, the local Ollama can pull the model by the name of the offer."""
        namespace = f"{TRANSFER_NAMESPACE}{secrets.token_hex(16)}"
        host = _authority(self._address.name_host, self._server.ports[0])
        offer = Offer(ModelName(host, namespace, name.model, name.tag), source)
        self._offers[namespace] = offer
        try:
            yield offer
        finally:
            del self._offers[namespace]

    @contextmanager
    def take(self, name: ModelName, taker: Handler) -> Iterator[ModelName]:
        """While inside, what the local Ollama pushes to the name this gives goes to ``taker``."""
        namespace = f"{TRANSFER_NAMESPACE}{secrets.token_hex(16)}"
        self._takers[namespace] = taker
        host = _authority(self._address.name_host, self._server.ports[0])
        try:
            yield ModelName(host, namespace, name.model, name.tag)
        finally:
            del self._takers[namespace]

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        parts = request.path.split("/", 3)
        taker = self._takers.get(parts[2].casefold()) if len(parts) == 4 and parts[1] == "v2" else None
        return await (taker or self._front)(request)

    @property
    def _bytes_at(self) -> str:
        return f"http://{_authority(self._address.bytes_host, self._server.ports[-1])}"

    # `Shelf`

    async def find(self, namespace: str, model: str, tag: str) -> BlobSource | None:
        offer = self._offers.get(namespace.casefold())
        if offer is None or (offer.name.model.casefold(), offer.name.tag.casefold()) != (
            model.casefold(),
            tag.casefold(),
        ):
            return None
        return offer.source

    async def within(self, namespace: str, model: str, digest: Digest) -> BlobSource | None:
        offer = self._offers.get(namespace.casefold())
        has_it = offer is not None and offer.name.model.casefold() == model.casefold()
        return offer.source if offer and has_it and digest in offer.source.manifest.blobs else None

    async def holding(self, digest: Digest) -> BlobSource | None:
        """Any offer's: an Ollama that pulls a blob under two names keeps to the first one's address."""
        having = [offer for offer in self._offers.values() if digest in offer.source.manifest.blobs]
        return having[-1].source if having else None

    def lost(self, source: BlobSource, error: BlobLost) -> None:
        for offer in self._offers.values():
            if offer.source is source and offer.lost is None:
                offer.lost = error
                for tell in offer.on_lost:
                    tell()


def _authority(host: str, port: int) -> str:
    return host if port == 80 else f"{host}:{port}"


def _digest(text: str) -> Digest | None:
    with suppress(BadRequest):
        return parse_digest(text)
    return None


def _nothing(status: int, headers: dict[str, str] | None = None) -> web.Response:
    """No body: a downloader that does not look at the status would write it into the model."""
    return web.Response(status=status, headers=headers)


def _sized(size: int) -> web.StreamResponse:
    response = web.Response(headers={"Accept-Ranges": "bytes", "Content-Length": str(size)})
    response.content_type = "application/octet-stream"
    return response


def _end_short(request: web.BaseRequest) -> None:
    """End the answer early but in good order: what was sent counts then, which after a reset it would not."""
    if request.transport is not None:
        request.transport.close()
