"""A client's pull: what the registry has now, its bytes from members first, once for the whole cluster."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from ollama_dist.core.errors import DistError, UpstreamFailed
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import ModelName
from ollama_dist.replication.intake.copying import ModelSource, OnLine
from ollama_dist.replication.intake.ollama_calls import PullLine
from ollama_dist.replication.manifest import BadManifest, Manifest
from ollama_dist.replication.pulls.both import PeersFirst
from ollama_dist.replication.pulls.members import Members
from ollama_dist.replication.pulls.turns import Turns, arbiter, remote_turn
from ollama_dist.replication.pulls.upstream import NotThere, Upstream, WantsKey
from ollama_dist.runtime.tasks import background, end
from ollama_dist.wire import gojson

log = structlog.get_logger()

HEARD_S: Final = 2.0
"""How long after another's turn its model is waited for to be heard of."""

LOOK_S: Final = 0.05

WAITING: Final = "waiting for another pull of this model to end"
TELL_S: Final = 5.0
"""How often a client hears that: some give up where nothing comes for minutes."""


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
    """``turns`` are those that this node gives."""

    def __init__(self, members: Members, installer: Installer, upstream: Upstream, turns: Turns) -> None:
        self._members = members
        self._installer = installer
        self._upstream = upstream
        self._turns = turns

    async def find(self, name: ModelName, *, insecure: bool) -> Plan | None:
        """What is current: the registry's manifest, else the newest that members have.

        None where nobody this node can ask knows better than its engine, which then has to say so itself.
        """
        try:
            manifest = await self._upstream.manifest(name, insecure=insecure)
            return Plan(name, manifest, is_upstream=True, insecure=insecure)
        except WantsKey:
            return None
        except NotThere:
            log.info("registry_lacks_model", model=name.short)
        except (UpstreamFailed, BadManifest) as error:
            log.info("registry_not_asked", model=name.short, reason=str(error))
        newest = self._members.newest(name)
        if newest is None:
            return None
        node, model = newest
        identity = Digest(model.identity) if model.identity else None
        try:
            async with self._members.open(name, identity, [node]) as source:
                return Plan(name, source.manifest, is_upstream=False, insecure=insecure)
        except DistError as error:
            log.info("members_lack_manifest", model=name.short, reason=str(error))
            return None

    async def carry_out(self, plan: Plan, on_line: OnLine) -> None:
        """Returns when the model is installed here. Raises `DistError`s, as `OllamaCopier.install`."""
        if plan.is_upstream and not self._is_held(plan):
            async with _told_of(self._turn(plan.manifest.identity), on_line) as is_after:
                if not is_after or not await self._heard_of(plan):
                    return await self._install(plan, on_line)
        return await self._install(plan, on_line)

    async def _install(self, plan: Plan, on_line: OnLine) -> None:
        async with self._source(plan) as source:
            await self._installer.install(plan.name, source, on_line)

    async def _heard_of(self, plan: Plan) -> bool:
        """Whether somebody is heard to have it now."""
        for _ in range(round(HEARD_S / LOOK_S)):
            if self._is_held(plan):
                return True
            await asyncio.sleep(LOOK_S)
        return False

    def _is_held(self, plan: Plan) -> bool:
        return self._members.has_itself(plan.manifest) or bool(self._members.holders(plan.manifest))

    # Where its bytes come from

    @asynccontextmanager
    async def _source(self, plan: Plan) -> AsyncIterator[ModelSource]:
        upstream = (
            self._upstream.source(plan.name, plan.manifest, insecure=plan.insecure)
            if plan.is_upstream
            else None
        )
        relatives = self._members.relatives(plan.name, plan.manifest)
        if not relatives:
            yield PeersFirst(None, upstream)
            return
        await self._members.borrow(plan.name, relatives)
        peers = self._members.source(plan.manifest, lambda: self._members.relatives(plan.name, plan.manifest))
        try:
            yield PeersFirst(peers, upstream)
        finally:
            await peers.close()

    # Whose turn it is

    @asynccontextmanager
    async def _turn(self, subject: Digest) -> AsyncGenerator[bool, None]:
        """Wait for this node's turn and have it while inside; gives whether it comes right after another."""
        silent: set[NodeId] = set()
        while True:
            view = self._members.view()
            able = {node.id for node in view.nodes.values() if node.is_routable or node.id == view.self_id}
            chosen = arbiter(subject, able - silent)
            if chosen == view.self_id:
                async with self._turns.turn(subject, view.self_id) as is_after:
                    yield is_after
                return
            try:
                turn = await remote_turn(self._members.reach(chosen), subject, view.self_id)
            except UpstreamFailed as error:
                log.info("no_turn_from", node=chosen, reason=str(error))
                silent.add(chosen)
                continue
            try:
                yield turn.is_after
            finally:
                await turn.end()
            return


@asynccontextmanager
async def _told_of(turn: AbstractAsyncContextManager[bool], on_line: OnLine) -> AsyncIterator[bool]:
    """``turn``; as long as it is waited for, ``on_line`` hears so."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(TELL_S)
            on_line(PullLine(gojson.encode({"status": WAITING}), WAITING))

    telling = background(tell(), "waiting-for-turn")
    try:
        async with turn as is_after:
            await end(telling)
            yield is_after
    finally:
        await end(telling)
