"""Bytes from members first, and what they cannot give from the upstream registry."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import structlog

from ollama_dist.core.ids import Digest
from ollama_dist.replication.intake.feeding import let_go
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.sources import BlobLost, BlobSource

log = structlog.get_logger()

REGISTRY = "registry"
"""What the upstream registry is called among those who give."""


class Peers(BlobSource, Protocol):
    """A source over several members."""

    @property
    def givers(self) -> Sequence[str]: ...

    def blame(self, digest: Digest) -> None: ...


class PeersFirst:
    """See `ModelSource`. Either of the two may be missing, not both."""

    def __init__(self, peers: Peers | None, upstream: BlobSource | None) -> None:
        self._peers = peers
        self._upstream = upstream
        self._readers_upstream = 0
        known = peers or upstream
        assert known is not None
        self._manifest = known.manifest

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def givers(self) -> Sequence[str]:
        peers = tuple(self._peers.givers) if self._peers is not None else ()
        return (*peers, REGISTRY) if self._readers_upstream else peers

    def blame(self, digest: Digest) -> None:
        if self._peers is not None:
            self._peers.blame(digest)

    async def read(self, digest: Digest, start: int, stop: int) -> AsyncIterator[bytes | memoryview]:
        if self._peers is not None:
            blocks = self._peers.read(digest, start, stop)
            try:
                async for block in blocks:
                    start += len(block)
                    yield block
                return
            except BlobLost as lost:
                if self._upstream is None:
                    raise
                log.info("members_lack_it", digest=digest, at=start, reason=str(lost))
            finally:
                await let_go(blocks)
        assert self._upstream is not None
        self._readers_upstream += 1
        blocks = self._upstream.read(digest, start, stop)
        try:
            async for block in blocks:
                yield block
        finally:
            await let_go(blocks)
            self._readers_upstream -= 1
