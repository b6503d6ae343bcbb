"""A model read from the folder of an Ollama, as a `BlobSource`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import ModelName, parse_model_name
from ollama_dist.replication.manifest import Manifest, read_manifest
from ollama_dist.replication.sources import BlobLost

BLOCK = 64 * 1024


class StoreSource:
    """Gives what lies in ``folder`` (an OLLAMA_MODELS) of the model ``name``, with faults on a switch."""

    def __init__(self, folder: Path, name: str) -> None:
        model = parse_model_name(name)
        path = folder / "manifests" / model.host / model.namespace / model.model / model.tag
        self.manifest: Manifest = read_manifest(path.read_bytes())
        self.folder = folder
        self.asked: list[tuple[Digest, int, int]] = []
        self.given = 0
        self.lose_after: int | None = None
        """Bytes after which nothing can be had any more."""
        self.flip_at: int | None = None
        """This byte of all that is given is another one, once."""
        self.block_s = 0.0
        """How long each block takes."""
        self.blamed: list[Digest] = []
        self.givers = ("source",)

    def blame(self, digest: Digest) -> None:
        self.blamed.append(digest)

    async def read(self, digest: Digest, start: int, stop: int) -> AsyncIterator[bytes]:
        self.asked.append((digest, start, stop))
        with (self.folder / "blobs" / f"sha256-{digest}").open("rb") as file:
            file.seek(start)
            while start < stop:
                await asyncio.sleep(self.block_s)
                if self.lose_after is not None and self.given >= self.lose_after:
                    raise BlobLost("every holder is gone")
                block = bytearray(file.read(min(BLOCK, stop - start)))
                if self.flip_at is not None and self.given <= self.flip_at < self.given + len(block):
                    block[self.flip_at - self.given] ^= 1
                    self.flip_at = None
                self.given += len(block)
                start += len(block)
                yield bytes(block)


class OpenedStore:
    """An `OpenSource` that knows one source, whoever is asked for."""

    def __init__(self, source: StoreSource) -> None:
        self.source = source

    @contextlib.asynccontextmanager
    async def __call__(
        self, name: ModelName, identity: Digest | None, holders: Sequence[NodeId]
    ) -> AsyncIterator[StoreSource]:
        yield self.source
