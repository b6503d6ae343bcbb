"""What nodes tell each other of an operation: the plan, how far each is, how it ended."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from ollama_dist.core.errors import BadRequest, DistError, NotFound, UpstreamFailed
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import ClusterView, MemberState, NodeView
from ollama_dist.replication.moves.live import Live, plan_of
from ollama_dist.replication.moves.operations import State, merged, read_operation, to_document
from ollama_dist.replication.moves.peers import PeerRefused, Peers

log = structlog.get_logger()

LOOK_S: Final = 0.1
"""Between two looks whether the owner is there."""

OWNER_S: Final = 10.0
"""After a restart, so long is the owner waited for, to ask whether it still wants this."""

GONE_S: Final = 24 * 3600.0
"""A dead node's steps are waited for so long: it goes on with them when it is back."""

PATH: Final = "/replication/operations"


class Correspondence:
    """Of this node with all others that have a part in an operation. ``clock`` is steady."""

    def __init__(self, peers: Peers, view: Callable[[], ClusterView], clock: Callable[[], float]) -> None:
        self._peers = peers
        self._view = view
        self._clock = clock

    async def exchange(self, live: Live, node: NodeId) -> None:
        """Tell ``node`` what it does not know yet, and hear how far it is."""
        plan = plan_of(live.operation)
        is_mine = live.operation.owner == self._me
        try:
            if is_mine and live.told.get(node) != plan:
                said = await self._peers.ask(node, "POST", PATH, self._letter(live))
            else:
                said = await self._peers.ask(node, "GET", f"{PATH}/{live.operation.id}")
            heard = read_operation(said["operation"])
        except PeerRefused as refused:
            self._refused(live, node, refused)
            return
        except (UpstreamFailed, BadRequest, KeyError, TypeError) as failure:
            self._unheard(live, node, failure)
            return
        live.silent_since.pop(node, None)
        if is_mine:
            live.told[node] = plan
        before = [step.state for step in live.operation.steps]
        live.tell(merged(live.operation, heard, node, self._me))
        if before != [step.state for step in live.operation.steps]:
            live.wake.set()  # what waited for it may begin

    def _letter(self, live: Live) -> dict[str, Any]:
        return {"operation": to_document(live.operation), "sender": self._me}

    def _refused(self, live: Live, node: NodeId, refused: PeerRefused) -> None:
        if refused.said_status == NotFound.status:
            live.told.pop(node, None)  # it forgot, or never knew: it is told again
        elif refused.said_status == BadRequest.status and live.operation.owner == self._me:
            live.end_steps(node, f"{self._name(node)} does not take this: {refused}")
        live.note(node, f"{self._name(node)}: {refused}")

    def _unheard(self, live: Live, node: NodeId, failure: Exception) -> None:
        """Nobody answers: what it does is waited for, unless that is in vain."""
        now = self._clock()
        since = live.silent_since.setdefault(node, now)
        if live.operation.owner != self._me:
            return
        member = self._view().nodes.get(node)
        if member is not None and member.state is MemberState.LEFT:
            live.end_steps(node, f"{member.name} has left the cluster")
        elif now - since > GONE_S:
            live.end_steps(node, f"{self._name(node)} has not been heard of for a day")
        elif live.operation.is_cancelled and not _lives(member):
            live.end_steps(node, "", State.CANCELLED)
        else:
            state = member.state if member is not None else "unknown"
            live.note(node, f"waits for {self._name(node)} ({state}): {failure}")

    async def hear_owner(self, live: Live) -> None:
        """Whether this is still wanted, as far as the owner can be found."""
        deadline = self._clock() + OWNER_S
        while self._clock() < deadline:
            if _lives(self._view().nodes.get(live.operation.owner)):
                await self.exchange(live, live.operation.owner)
                return
            await asyncio.sleep(LOOK_S)

    async def say_last(self, live: Live) -> None:
        """Tell those who had a part how it ended; who does not hear it knows its own part."""
        if live.operation.owner != self._me:
            return
        live.told.clear()
        others = {node for node in live.operation.doers() if node != self._me}
        heard = [node for node in others if _lives(self._view().nodes.get(node))]
        await asyncio.gather(*(self._exchange_last(live, node) for node in heard))

    async def _exchange_last(self, live: Live, node: NodeId) -> None:
        try:
            await self._peers.ask(node, "POST", PATH, self._letter(live))
        except DistError as error:
            log.info("end_not_told", operation=live.operation.id, node=self._name(node), error=str(error))

    @property
    def _me(self) -> NodeId:
        return self._view().self_id

    def _name(self, node: NodeId) -> str:
        known = self._view().nodes.get(node)
        return known.name if known else node


def _lives(member: NodeView | None) -> bool:
    return member is not None and member.is_routable
