"""Operations, whichever node runs them: what is known of them here and what the others say."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import structlog

from ollama_dist.core.errors import BadRequest, DistError, NoCandidate, NotFound, UpstreamFailed
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import ClusterView, NodeView
from ollama_dist.replication.moves.correspondence import PATH
from ollama_dist.replication.moves.driving import Driver
from ollama_dist.replication.moves.operations import Operation, OperationId, owner_of, read_operation
from ollama_dist.replication.moves.peers import PeerRefused, Peers

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""For other nodes to say which operations they know: lists do not wait for the slow."""

WATCH_S: Final = 0.5
"""How often somebody else's operation is asked for while it is watched."""


class Operations:
    """All that can be found. ``driver`` has those in which this node has a part."""

    def __init__(self, driver: Driver, peers: Peers, view: Callable[[], ClusterView]) -> None:
        self._driver = driver
        self._peers = peers
        self._view = view

    async def all(self) -> list[Operation]:
        """All that this node and those that answer at once know of, the newest first."""
        known = {operation.id: operation for operation in self._driver.all()}
        for node, heard in await self._from_all(PATH):
            for operation in heard:
                if operation.id not in known or owner_of(operation.id) == node:
                    known[operation.id] = operation
        return sorted(known.values(), key=lambda operation: -operation.created_at)

    async def get(self, operation: OperationId) -> Operation:
        """As its owner knows it, else as whoever has a part in it does. Raises `NotFound`."""
        known = self._driver.get(operation)
        owner = self._view().nodes.get(owner_of(operation))
        if owner is not None and owner.id == self._view().self_id:
            if known is None:
                raise NotFound(f"this node knows of no operation {operation}")
            return known
        if owner is not None and owner.is_routable:
            try:
                said = await self._peers.ask(owner.id, "GET", f"{PATH}/{operation}", timeout=LOOK_S)
                return read_operation(said["operation"])
            except (UpstreamFailed, PeerRefused, BadRequest, KeyError, TypeError) as error:
                log.info("owner_not_heard", operation=operation, error=str(error))
        if known is None:
            parts = [found for _, heard in await self._from_all(PATH) for found in heard]
            known = next((found for found in parts if found.id == operation), None)
        if known is None:
            raise NotFound(f"no node that answers knows of an operation {operation}")
        return known

    async def watch(self, operation: OperationId) -> AsyncIterator[Operation]:
        """It as it is now and whenever it changed, until it is over. Raises `NotFound`."""
        first = await self.get(operation)
        if first.owner == self._view().self_id:
            async for each in self._driver.watch(operation):
                yield each
            return
        told = None
        while True:
            now = first if told is None else await self.get(operation)
            if now != told:
                yield now
            told = now
            if now.finished_at is not None:
                return
            await asyncio.sleep(WATCH_S)

    async def cancel(self, operation: OperationId) -> Operation:
        """End it where it is. Raises `NotFound`; and `NoCandidate` when nobody who could end it answers."""
        owner = self._view().nodes.get(owner_of(operation))
        if owner is not None and owner.id != self._view().self_id and owner.is_routable:
            said = await ask_member(self._peers, owner, "POST", f"{PATH}/{operation}/cancel", {})
            return read_operation(said["operation"])
        if self._driver.get(operation) is None and owner is not None and not owner.is_routable:
            raise NoCandidate(f"{owner.name}, which runs it, cannot be reached")
        return await self._driver.cancel(operation)

    def known(self) -> list[Operation]:
        return self._driver.all()

    def part(self, operation: OperationId) -> Operation:
        """Raises `NotFound`."""
        known = self._driver.get(operation)
        if known is None:
            raise NotFound("this node knows of no such operation")
        return known

    async def _from_all(self, path: str) -> list[tuple[NodeId, list[Operation]]]:
        peers = [peer for peer in self._view().peers() if peer.is_routable]
        said = await asyncio.gather(*(self._listed(peer, path) for peer in peers))
        return [(peer.id, heard) for peer, heard in zip(peers, said, strict=True)]

    async def _listed(self, peer: NodeView, path: str) -> list[Operation]:
        try:
            said = await self._peers.ask(peer.id, "GET", path, timeout=LOOK_S)
            return [read_operation(each) for each in said["operations"]]
        except (UpstreamFailed, PeerRefused, BadRequest, KeyError, TypeError) as error:
            log.info("operations_not_listed", node=peer.name, error=str(error))
            return []

    async def same_elsewhere(self, planned: Operation) -> Operation | None:
        if self._driver.running_like(planned) is not None:
            return None
        for _, heard in await self._from_all(PATH):
            for operation in heard:
                is_same = operation.kind is planned.kind and operation.wish == planned.wish
                if is_same and operation.is_wanted:
                    return operation
        return None


async def ask_member(
    peers: Peers, node: NodeView, method: str, path: str, document: Mapping[str, Any] | None = None
) -> Any:
    """Of a member that has to be there. Raises what it says, and `NoCandidate`."""
    if not node.is_routable:
        raise NoCandidate(f"{node.name} is {node.state} and cannot be asked")
    try:
        return await peers.ask(node.id, method, path, document)
    except PeerRefused as refused:
        raise SaidElsewhere(refused, node.name) from refused


class SaidElsewhere(DistError):
    """What another node answered to a question that was passed on to it."""

    def __init__(self, refused: PeerRefused, node: str) -> None:
        super().__init__(f"{node}: {refused}")
        self.status, self.code = refused.said_status, refused.said_code  # type: ignore[misc]
