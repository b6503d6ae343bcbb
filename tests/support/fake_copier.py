"""A copier for nodes in front of scripted Ollamas: it installs names, as slowly as it is told."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ollama_dist.core.errors import DistError, ModelNotFound
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import ModelName
from ollama_dist.replication.sources import Progress
from tests.support.fake_ollama import FakeOllama


class FakeCopier:
    """One node's. ``origin`` is the scripted model that is installed under any name."""

    def __init__(self, fake: FakeOllama, origin: str = "tiny") -> None:
        self.fake = fake
        self.origin = origin
        self.copied: list[tuple[str, tuple[NodeId, ...]]] = []
        self.deleted: list[str] = []
        self.errors: list[DistError] = []
        """Raised one after the other before anything works."""
        self.gate = asyncio.Event()
        self.gate.set()
        """Copies end only while it is set."""
        self.cancelled = 0

    async def copy(
        self,
        name: ModelName,
        identity: Digest | None,
        holders: Sequence[NodeId],
        tell: Callable[[Progress], None],
    ) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.copied.append((name.short, tuple(holders)))
        tell(Progress(1000, 400, 100.0, ("desk",)))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        tell(Progress(1000, 1000))
        self.fake.catalogue.install(name.short, self.origin)

    async def delete(self, name: ModelName) -> None:
        if self.fake.catalogue.find(name.short) is None:
            raise ModelNotFound(f"model '{name.short}' not found")
        self.fake.catalogue.remove(name.short)
        self.deleted.append(name.short)


def with_copiers(nodes: Any) -> dict[str, FakeCopier]:
    """A copier for each of ``nodes`` (`JoinedNodes`), by the node's name."""
    copiers = {}
    for node in nodes:
        copiers[node.name] = node.node.moves.copier = FakeCopier(node.fake)
    return copiers
