"""Which members have what, and a source over them."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

import structlog

from ollama_dist.backends.target import Target
from ollama_dist.core.errors import UpstreamFailed
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import ModelName
from ollama_dist.core.view import ClusterView, EngineKind, InstalledModel, NodeView
from ollama_dist.replication.intake.loans import borrow
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.pace import Pace
from ollama_dist.replication.transfer.fetching import PeerSource, open_peers
from ollama_dist.replication.transfer.sharing import Share

log = structlog.get_logger()


class Members:
    """``view`` is what this node sees, ``reach`` where a member is asked, ``pace`` how fast bytes come."""

    def __init__(
        self,
        view: Callable[[], ClusterView],
        reach: Callable[[NodeId], Target | None],
        pace: Pace,
        share: Share | None = None,
    ) -> None:
        self.view = view
        self.reach = reach
        self._pace = pace
        self._share = share

    def holders(self, manifest: Manifest) -> list[NodeId]:
        """Who has exactly this model, under whatever name."""
        return [
            node.id for node in self._peers() if any(_is(model, manifest) for model in node.models.values())
        ]

    def has_itself(self, manifest: Manifest) -> bool:
        """Whether this node's engine has it."""
        return any(_is(model, manifest) for model in self.view().me.models.values())

    def relatives(self, name: ModelName, manifest: Manifest) -> list[NodeId]:
        """Who has this model; else who has another version of it, which may share blobs with it."""
        having = [node.id for node in self._peers() if name.key in node.models]
        return self.holders(manifest) or having

    def newest(self, name: ModelName) -> tuple[NodeId, InstalledModel] | None:
        """Who has the version of a model that was changed last, by that machine's clock."""
        having = [(node, node.models[name.key]) for node in self._peers() if name.key in node.models]
        if not having:
            return None
        node, model = max(having, key=lambda pair: (str(pair[1].row.get("modified_at", "")), pair[0].id))
        return node.id, model

    async def borrow(self, name: ModelName, holders: Collection[NodeId]) -> None:
        """Where none of ``holders`` can read its model, have one make it readable, however long that takes.

        Where none does, that is found out by asking for the model.
        """
        nodes = self.view().nodes
        known = [nodes[node] for node in holders if node in nodes]
        if any(node.store for node in known):
            return None
        for node in known:
            if name.key in node.models and node.engine.kind is EngineKind.OLLAMA:
                try:
                    return await borrow(self.reach(node.id), name)
                except UpstreamFailed as error:
                    log.info("not_lent", node=node.name, model=name.short, reason=str(error))
        return None

    def source(self, manifest: Manifest, holders: Callable[[], Collection[NodeId]]) -> PeerSource:
        """The bytes of a model that is known already; close it in the end."""
        return PeerSource(manifest, holders, self.reach, self._pace, self._share)

    @asynccontextmanager
    async def open(
        self, name: ModelName, identity: Digest | None, holders: Sequence[NodeId]
    ) -> AsyncIterator[PeerSource]:
        """See `OpenSource`."""
        await self.borrow(name, holders)
        source = await open_peers(
            name, identity, lambda: self._living(holders), self.reach, self._pace, self._share
        )
        try:
            yield source
        finally:
            await source.close()

    def _living(self, holders: Collection[NodeId]) -> list[NodeId]:
        nodes = self.view().nodes
        return [node for node in holders if node in nodes and nodes[node].is_routable]

    def _peers(self) -> list[NodeView]:
        """Those that can be asked, and do not stand before our own store."""
        view = self.view()
        own = view.me.store
        return [node for node in view.peers() if node.is_routable and not (own and node.store == own)]


def _is(model: InstalledModel, manifest: Manifest) -> bool:
    return model.identity == manifest.identity or model.digest == manifest.digest
