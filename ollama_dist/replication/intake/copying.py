"""Bringing a model into the local Ollama without touching its store: it pulls from our own registry.

The steps, each of which may be the last one that a killed node took: note the names in passing, have it
pulled under such a name, look at what came, give it its own name, take the names in passing away.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

import structlog

from ollama_dist.core.errors import ModelNotFound, NoCandidate, UpstreamFailed
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import ModelName
from ollama_dist.replication.intake.metering import Meter
from ollama_dist.replication.intake.ollama_calls import Listed, PullFailed, PullLine
from ollama_dist.replication.intake.passing import Passing
from ollama_dist.replication.intake.registry import LoopbackRegistry, Offer
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.sources import BlobSource, Progress

log = structlog.get_logger()

ENGINE_BACK_S: Final = 90.0
"""An Ollama that went away in the middle is waited for so long; it is started again or an update is over."""

LOOK_S: Final = 0.5
RETURNS: Final = 3
"""How often one pull is begun again because Ollama went away or what came was corrupt."""

_CORRUPT: Final = re.compile("digest mismatch.*want sha256:([0-9a-f]{64})")

OnLine = Callable[[PullLine], None]


class ModelSource(BlobSource, Protocol):
    """Bytes from several sides, which can be told that some of them were wrong after all."""

    @property
    def givers(self) -> Sequence[str]:
        """Who gives lately: ids of nodes, or ``registry``."""
        ...

    def blame(self, digest: Digest) -> None:
        """The finished blob was not what its digest says: whoever vouched for it is not believed again."""
        ...


class OpenSource(Protocol):
    """Makes the source of a model's bytes, and lets go of what it needs on leaving. Raises `DistError`s."""

    def __call__(
        self, name: ModelName, identity: Digest | None, holders: Sequence[NodeId]
    ) -> AbstractAsyncContextManager[ModelSource]: ...


class OllamaCopier:
    """See `Copier`. ``make_room`` raises `DiskFull` for a model there is no room for.

    ``learn`` hears under which digest the engine lists what has which identity; not on the event loop.
    """

    def __init__(
        self,
        passing: Passing,
        registry: LoopbackRegistry,
        open_source: OpenSource,
        make_room: Callable[[Manifest], Awaitable[None]],
        learn: Callable[[str, Digest], None] = lambda _digest, _identity: None,
    ) -> None:
        self._passing = passing
        self._registry = registry
        self._open_source = open_source
        self._make_room = make_room
        self._learn = learn
        self._placing = asyncio.Lock()

    async def copy(
        self,
        name: ModelName,
        identity: Digest | None,
        holders: Sequence[NodeId],
        tell: Callable[[Progress], None],
    ) -> None:
        await install_metered(self._open_source(name, identity, holders), partial(self.install, name), tell)

    async def delete(self, name: ModelName) -> None:
        if not await self._passing.calls().delete(name):
            raise ModelNotFound(f"model '{name.short}' not found")

    async def install(self, name: ModelName, source: ModelSource, on_line: OnLine) -> None:
        """Bring in the model of ``source`` as ``name``, in place of what is called so now.

        ``on_line`` hears Ollama's progress, all but the success: that is this returning. Raises `BlobLost`,
        `DiskFull`, `UpstreamFailed` and `NoCandidate`; the old model is untouched then.
        """
        await self._make_room(source.manifest)
        with self._registry.offer(source, name) as offer:
            async with self._passing.hold(offer.name, offer.old) as held:
                await self._pull(offer, source, on_line)
                # What others deleted meanwhile may have taken blobs along that were here before, since no
                # manifest named them. Now one does; whatever is missing is pulled once more.
                await self._pull(offer, source, lambda _: None)
                held.is_settled = True  # a pull that is given up may still be writing its manifest
                async with self._placing:
                    await self._place(offer, name)

    async def _pull(self, offer: Offer, source: ModelSource, on_line: OnLine) -> None:
        for again in range(RETURNS, -1, -1):
            try:
                async with aclosing(self._lines(offer)) as lines:
                    async for line in lines:
                        if not line.is_success:
                            on_line(line)
                return
            except UpstreamFailed as failure:
                if offer.lost is not None:
                    raise offer.lost from failure
                corrupt = _CORRUPT.search(str(failure))
                if not again or (isinstance(failure, PullFailed) and corrupt is None):
                    raise
                if corrupt is not None:
                    source.blame(Digest(corrupt[1]))
                log.warning("pull_begun_again", model=offer.name.model, error=str(failure))
                await self._until_engine_is_back()

    async def _lines(self, offer: Offer) -> AsyncGenerator[PullLine, None]:
        calls = self._passing.calls()
        async with aclosing(
            calls.pull(offer.name, lambda connection: offer.on_lost.append(connection.close))
        ) as lines:
            async for line in lines:
                yield line

    async def _until_engine_is_back(self) -> None:
        """Raises `TimeoutError`'s kin `UpstreamFailed` when it does not come back in time."""
        deadline = asyncio.get_running_loop().time() + ENGINE_BACK_S
        while True:
            try:
                await self._passing.calls().version()
            except (UpstreamFailed, NoCandidate):
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(LOOK_S)
            else:
                return

    async def _place(self, offer: Offer, name: ModelName) -> None:
        calls = self._passing.calls()
        before = await calls.tags()
        came = before.get(offer.name.key)
        if came is None or not is_the_same(came, offer.source.manifest):
            raise PullFailed(
                f"the engine says it has pulled {name.short}, but what it lists is another model"
            )
        known = before.get(name.key)
        if known is not None and known != came:
            await calls.copy(name, offer.old)  # so that its blobs go with a name: nobody else deletes them
        await calls.copy(offer.name, name)
        placed = (await calls.tags()).get(name.key)
        if placed != came:
            raise PullFailed(f"the engine says it has copied the model to {name.short}, but does not list it")
        await asyncio.to_thread(self._learn, placed.digest, offer.source.manifest.identity)


async def install_metered(
    opening: AbstractAsyncContextManager[ModelSource],
    install: Callable[[ModelSource, OnLine], Awaitable[None]],
    tell: Callable[[Progress], None],
) -> None:
    """Install the model of the source that opens, and have ``tell`` hear how far that is."""
    clock = asyncio.get_running_loop().time
    async with opening as source:
        meter = Meter(source.manifest, clock())

        def note(line: PullLine) -> None:
            tell(replace(meter.note(line, clock()), sources=tuple(source.givers)))

        await install(source, note)


def is_the_same(listed: Listed, manifest: Manifest) -> bool:
    """Whether what Ollama lists can be the model of ``manifest``.

    Ollama has checked every blob against the manifest that it was given; here only a mix-up is looked for.
    Versions before 0.19 write the manifest anew, so that only the size tells; others show its digest, in
    rare cases without the last line end.
    """
    digests = {hashlib.sha256(raw).hexdigest() for raw in (manifest.raw, manifest.raw.rstrip(b"\n"))}
    size = sum(layer.size for layer in (*manifest.layers, manifest.config))
    return listed.digest in digests or listed.size == size
