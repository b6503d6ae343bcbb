"""A client's pull: what the registry has now, its bytes from members first, once for the whole cluster."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from ollama_dist.backends.target import Target
from ollama_dist.core.errors import DistError, UpstreamFailed
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import ModelName
from ollama_dist.core.view import ClusterView, InstalledModel, NodeView
from ollama_dist.replication.both import PeersFirst
from ollama_dist.replication.copying import ModelSource, OnLine
from ollama_dist.replication.fetching import PeerSource, open_peers
from ollama_dist.replication.manifest import BadManifest, Manifest
from ollama_dist.replication.pace import Pace
from ollama_dist.replication.turns import Turns, arbiter, remote_turn
from ollama_dist.replication.upstream import NotThere, Upstream

log = structlog.get_logger()

HEARD_S: Final = 3.0
"""How long after another's turn its model is waited for to be heard of."""

LOOK_S: Final = 0.05


class Installer(Protocol):
    """Has the local engine take a model; see `OllamaCopier.install`."""

    async def install(self, name: ModelName, source: ModelSource, on_line: OnLine) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pull is to bring."""

    name: ModelName
    manifest: Manifest
    is_upstream: bool
    """The upstream registry has it; else only members do."""
    insecure: bool


class Pulling:
    """``reach`` gives where a member is asked; `close` what was opened for it in the end."""

    def __init__(
        self,
        view: Callable[[], ClusterView],
        reach: Callable[[NodeId], Target | None],
        installer: Installer,
        upstream: Upstream,
        turns: Turns,
        pace: Pace,
    ) -> None:
        self._view = view
        self._reach = reach
        self._installer = installer
        self._upstream = upstream
        self._turns = turns
        self._pace = pace

    async def find(self, name: ModelName, *, insecure: bool) -> Plan | None:
        """What is current: the registry's manifest, else the newest that members have.

        None where nobody this node can ask knows better than its engine, which then has to say so itself.
        """
        try:
            manifest = await self._upstream.manifest(name, insecure=insecure)
            return Plan(name, manifest, is_upstream=True, insecure=insecure)
        except NotThere:
            log.info("registry_lacks_model", model=name.short)
        except (UpstreamFailed, BadManifest) as error:
            log.info("registry_not_asked", model=name.short, reason=str(error))
        newest = self._newest(name)
        if newest is None:
            return None
        node, model = newest
        identity = Digest(model.identity) if model.identity else None
        try:
            async with self._members_of(name, identity, [node.id]) as source:
                return Plan(name, source.manifest, is_upstream=False, insecure=insecure)
        except DistError as error:
            log.info("members_lack_manifest", model=name.short, reason=str(error))
            return None

    async def carry_out(self, plan: Plan, on_line: OnLine) -> None:
        """Returns when the model is installed here. Raises `DistError`s, as `OllamaCopier.install`."""
        if not self._holders(plan) and plan.is_upstream:
            async with self._turn(plan.manifest.identity) as had_to_wait:
                if not had_to_wait or not await self._heard_of(plan):
                    return await self._install(plan, on_line)
        return await self._install(plan, on_line)

    async def _install(self, plan: Plan, on_line: OnLine) -> None:
        async with self._source(plan) as source:
            await self._installer.install(plan.name, source, on_line)

    # Who has what

    def _holders(self, plan: Plan) -> list[NodeId]:
        """Members that have exactly this model, under whatever name."""
        return [
            node.id
            for node in self._peers()
            if any(_is(model, plan.manifest) for model in node.models.values())
        ]

    def _relatives(self, plan: Plan) -> list[NodeId]:
        """Members that have this model or another version of it, which may share blobs with it."""
        holders = self._holders(plan)
        return holders or [node.id for node in self._peers() if plan.name.key in node.models]

    def _peers(self) -> list[NodeView]:
        """Members that can be asked for blobs, and do not stand before our own store."""
        view = self._view()
        own = view.me.store
        return [node for node in view.peers() if node.is_routable and not (own and node.store == own)]

    def _newest(self, name: ModelName) -> tuple[NodeView, InstalledModel] | None:
        holding = [node for node in self._peers() if name.key in node.models]
        rows = [(str(node.models[name.key].row.get("modified_at", "")), node.id, node) for node in holding]
        if not rows:
            return None
        node = max(rows)[2]
        return node, node.models[name.key]

    async def _heard_of(self, plan: Plan) -> bool:
        """Whether somebody is heard to have it now."""
        for _ in range(round(HEARD_S / LOOK_S)):
            if self._holders(plan):
                return True
            await asyncio.sleep(LOOK_S)
        return False

    # Where its bytes come from

    @asynccontextmanager
    async def _source(self, plan: Plan) -> AsyncIterator[ModelSource]:
        upstream = (
            self._upstream.source(plan.name, plan.manifest, insecure=plan.insecure)
            if plan.is_upstream
            else None
        )
        if not self._relatives(plan):
            yield PeersFirst(None, upstream)
            return
        peers = PeerSource(plan.manifest, lambda: self._relatives(plan), self._reach, self._pace)
        try:
            yield PeersFirst(peers, upstream)
        finally:
            await peers.close()

    @asynccontextmanager
    async def _members_of(
        self, name: ModelName, identity: Digest | None, holders: Sequence[NodeId]
    ) -> AsyncIterator[PeerSource]:
        source = await open_peers(name, identity, lambda: self._living(holders), self._reach, self._pace)
        try:
            yield source
        finally:
            await source.close()

    open_members = _members_of
    """See `OpenSource`: what a `Copier` reads from."""

    def _living(self, holders: Collection[NodeId]) -> list[NodeId]:
        nodes = self._view().nodes
        return [node for node in holders if node in nodes and nodes[node].is_routable]

    # Whose turn it is

    @asynccontextmanager
    async def _turn(self, subject: Digest) -> AsyncGenerator[bool, None]:
        """Wait for this node's turn and have it while inside; gives whether others may have been before."""
        silent: set[NodeId] = set()
        while True:
            view = self._view()
            able = {node.id for node in view.nodes.values() if node.is_routable or node.id == view.self_id}
            chosen = arbiter(subject, able - silent)
            if chosen == view.self_id:
                async with self._turns.turn(subject) as had_to_wait:
                    yield had_to_wait
                return
            try:
                turn = await remote_turn(self._reach(chosen), subject, view.self_id)
            except UpstreamFailed as error:
                log.info("no_turn_from", node=chosen, reason=str(error))
                silent.add(chosen)
                continue
            try:
                yield turn.had_to_wait
            finally:
                await turn.end()
            return


def _is(model: InstalledModel, manifest: Manifest) -> bool:
    return model.identity == manifest.identity or model.digest == manifest.digest
