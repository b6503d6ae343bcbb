"""This node's models for Ollamas of other machines that are no members: a registry on the local network.

An Ollama cannot show a key to a registry without breaking off its pull, so that whoever may connect may read:
what may be read, and from where, is named, and without that there is no mirror.
"""

import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase

import structlog
from aiohttp import web

from ollama_dist.core.errors import ConfigError, DistError
from ollama_dist.core.ids import Digest
from ollama_dist.core.names import DEFAULT_HOST, InvalidModelName, ModelName, parse_model_name
from ollama_dist.replication.disk.giving import Giver
from ollama_dist.replication.intake.feeding import let_go
from ollama_dist.replication.intake.registry import RegistryFront, RegistryServer
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.sources import BlobLost, BlobSource

log = structlog.get_logger()

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """Who may read what."""

    listen: tuple[str, int]
    models: tuple[str, ...]
    """Names; ``*`` stands for anything."""
    clients: tuple[Network, ...]

    def __post_init__(self) -> None:
        """Raises `ConfigError` where anything would be open that nobody named."""
        if not self.models or not self.clients:
            raise ConfigError(
                "a mirror serves named models to named networks without a key: say which with "
                "--mirror-models and --mirror-clients"
            )

    def allows(self, name: ModelName) -> bool:
        return any(fnmatchcase(name.short.casefold(), _whole(pattern)) for pattern in self.models)

    def lets_in(self, address: str | None) -> bool:
        try:
            client = ipaddress.ip_address((address or "").partition("%")[0])
        except ValueError:
            return False
        client = getattr(client, "ipv4_mapped", None) or client
        return any(client in network for network in self.clients)


class Mirror:
    """From `start` to `stop`. ``names_with`` gives the names of the own models that a blob is part of."""

    def __init__(
        self, settings: MirrorSettings, giver: Giver, names_with: Callable[[Digest], list[str]]
    ) -> None:
        self.settings = settings
        self._giver = giver
        self._names_with = names_with
        front = RegistryFront(self, lambda request: f"http://{request.host}")

        async def guarded(request: web.BaseRequest) -> web.StreamResponse:
            if not settings.lets_in(request.remote):
                log.info("mirror_refused", address=request.remote)
                return web.Response(status=403)  # never 401: an Ollama would try to sign in
            return await front(request)

        self._server = RegistryServer(guarded, (settings.listen,), "the mirror")

    async def start(self) -> None:
        """Raises `ConfigError` where it cannot listen."""
        await self._server.start()
        log.warning(
            "mirror_open",
            listen=":".join(map(str, self.settings.listen)),
            models=self.settings.models,
            clients=[str(network) for network in self.settings.clients],
        )

    async def stop(self) -> None:
        await self._server.stop()

    @property
    def port(self) -> int:
        return self._server.ports[0]

    # `Shelf`

    async def find(self, namespace: str, model: str, tag: str) -> BlobSource | None:
        with suppress(InvalidModelName):
            name = parse_model_name(f"{namespace}/{model}:{tag}")
            return await self._source(name) if self.settings.allows(name) else None
        return None

    async def within(self, namespace: str, model: str, digest: Digest) -> BlobSource | None:
        wanted = (namespace.casefold(), model.casefold())
        return await self._part_of(
            digest, lambda name: wanted == (name.namespace.casefold(), name.model.casefold())
        )

    async def holding(self, digest: Digest) -> BlobSource | None:
        return await self._part_of(digest, lambda _: True)

    def lost(self, source: BlobSource, error: BlobLost) -> None:
        """Whoever reads finds the answer broken off."""

    async def _part_of(self, digest: Digest, fits: Callable[[ModelName], bool]) -> BlobSource | None:
        for text in self._names_with(digest):
            name = parse_model_name(text)
            if name.host == DEFAULT_HOST and fits(name) and self.settings.allows(name):
                source = await self._source(name)
                if source is not None and digest in source.manifest.blobs:
                    return source
        return None

    async def _source(self, name: ModelName) -> "OwnSource | None":
        try:
            return OwnSource(self._giver, await self._giver.manifest(name))
        except DistError as error:
            log.info("mirror_lacks_model", model=name.short, reason=str(error))
            return None


class OwnSource:
    """See `BlobSource`: this node's own copy."""

    def __init__(self, giver: Giver, manifest: Manifest) -> None:
        self._giver = giver
        self.manifest = manifest

    async def read(self, digest: Digest, start: int, stop: int) -> AsyncIterator[bytes]:
        try:
            blocks = self._giver.read(await self._giver.blob(digest), start, stop)
            try:
                async for block in blocks:
                    yield block
            finally:
                await let_go(blocks)
        except BlobLost:
            raise
        except DistError as error:
            raise BlobLost(str(error)) from error


def _whole(pattern: str) -> str:
    """A pattern without a tag means the usual one, as names do."""
    text = pattern.casefold()
    return text if ":" in text or text.endswith("*") else f"{text}:latest"
