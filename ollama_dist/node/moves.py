"""Models that move, as this node offers it: what operators ask for here, and what other nodes ask of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import Any, Final, Protocol

import structlog

from ollama_dist.backends.target import Target
from ollama_dist.core.errors import BadRequest, DistError, NoCandidate, NotFound, UpstreamFailed
from ollama_dist.core.ids import NodeId
from ollama_dist.core.modes import Mode
from ollama_dist.core.names import ModelKey, parse_model_name
from ollama_dist.core.view import ClusterView, NodeView
from ollama_dist.node.draining import Draining, drain_of
from ollama_dist.node.missed import MissedDeletions
from ollama_dist.node.placing import Placer, step_of
from ollama_dist.node.setting_values import Placement
from ollama_dist.node.shared import Placing, Shared
from ollama_dist.replication.copier import Copier
from ollama_dist.replication.moves.correspondence import PATH
from ollama_dist.replication.moves.doing import Doing, Hands
from ollama_dist.replication.moves.driving import Driver, NotKept
from ollama_dist.replication.moves.operations import (
    STEPS_MAX,
    Action,
    Kind,
    Operation,
    OperationId,
    State,
    asked_for,
    owner_of,
    read_operation,
)
from ollama_dist.replication.moves.peers import PeerRefused, Peers
from ollama_dist.replication.moves.placement import plan
from ollama_dist.replication.moves.planning import migration
from ollama_dist.replication.moves.policies import KIND as POLICY
from ollama_dist.replication.moves.policies import Policy, check_pattern, policy_for
from ollama_dist.replication.moves.promises import NotPromised, Promises
from ollama_dist.replication.moves.shelf import Shelf
from ollama_dist.runtime.tasks import background, end

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""For other nodes to say which operations they know: lists do not wait for the slow."""

WATCH_S: Final = 0.5
"""How often somebody else's operation is asked for while it is watched."""

PROMISE_PATH: Final = "/replication/promises"
DRAIN_PATH: Final = "/replication/drain"


class Around(Protocol):
    """What is needed of the node."""

    def view(self) -> ClusterView: ...

    def target(self, node: NodeId) -> Target | None: ...

    def active(self, model: ModelKey) -> int: ...

    @property
    def mode(self) -> Mode: ...


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """What a node is told about moving models."""

    folder: Path | None = None
    """Where it keeps what has to survive a restart; None: nothing does."""
    reserve_bytes: int = 0
    """Disk that stays free, whatever is copied here."""
    placement: Placement = Placement.POLICIES


class Moves:
    """``draining_changed`` is called when this node begins or ends to take new work."""

    def __init__(
        self,
        node: Around,
        options: MoveOptions,
        nudge: Callable[[], None],
        draining_changed: Callable[[], None],
        told_changed: Callable[[], None],
    ) -> None:
        self.copier: Copier | None = None
        """What installs models here; None where the engine takes none."""
        self._node = node
        self._options = options
        self._told_changed = told_changed
        self._shelf = Shelf(options.folder / "moves" if options.folder else None)
        self.promises = Promises(self._shelf, node.view, time.monotonic)
        self._peers = Peers(node.target)
        hands = Hands(
            view=node.view,
            copier=self._own_copier,
            promises=self.promises,
            ask_to_keep=self._ask_to_keep,
            nudge=nudge,
            pinned=lambda key: self.is_pinned(node.view().self_id, key),
            active=node.active,
        )
        operations = Shelf(options.folder / "operations" if options.folder else None)
        self.shared = Shared(self._shelf, told_changed)
        self.draining = Draining(self._shelf, node.view, options.reserve_bytes, draining_changed)
        self.missed = MissedDeletions(
            self.shared, node.view, self._own_copier, self.is_pinned, self._write, nudge
        )
        doing = Doing(hands, self.shared.intend)
        self._driver = Driver(operations, self._peers, doing, node.view, SystemRandom())
        self._driver.replan = self.draining.replan
        self._placer = Placer(
            options.placement,
            options.reserve_bytes,
            self.shared,
            self._driver,
            self._shelf,
            node.view,
            lambda: node.mode,
            SystemRandom(),
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        documents = await asyncio.to_thread(self._shelf.load)
        self.promises.load()
        self.shared.load(documents)
        self._placer.load(documents)
        self.draining.load(documents)
        told_anew = bool(self.shared.records.all())
        if told_anew:
            self._told_changed()
        await self._driver.start()
        self._tasks = [
            background(self._placer.run(), "placement"),
            background(self.missed.run(), "missed-deletions"),
        ]

    async def stop(self) -> None:
        await end(*self._tasks)
        await self._driver.stop()
        await self.shared.stop()

    # What operators ask

    def plan_migration(self, wish: Mapping[str, Any]) -> Operation:
        """What ``model``, ``to``, ``from`` and ``keep_source`` come to. Raises kinds of `DistError`."""
        view = self._node.view()
        target, source = view.find(wish["to"]), wish.get("from")
        start = view.find(source).id if source is not None else None
        steps = migration(
            view,
            wish["model"],
            wish["to"],
            source,
            keep_source=wish["keep_source"],
            reserve=self._options.reserve_bytes,
            pinned=self.is_pinned,
        )
        said = {"model": wish["model"], "to": target.id, "from": start, "keep_source": wish["keep_source"]}
        return asked_for(Kind.MIGRATE, said, steps)

    async def begin(self, planned: Operation, requested_by: str) -> Operation:
        """Do it; where the same is being done already, whoever was asked for it, that is returned."""
        elsewhere = await self._same_elsewhere(planned)
        return elsewhere or await self._driver.begin(replace(planned, requested_by=requested_by))

    async def drain(self, name: str, requested_by: str) -> Operation | None:
        """Empty a node; None when it is empty already. Raises kinds of `DistError`."""
        node = self._node.view().find(name)
        if node.id != self._node.view().self_id:
            return _read_answer(await self._ask_member(node, "POST", DRAIN_PATH, {"by": requested_by}))
        await self.draining.set(True)
        template = replace(drain_of(node), requested_by=requested_by, is_open=True)
        running = self._driver.running_like(template)
        if running is None and self.draining.is_done(template):
            return None
        return running or await self._driver.begin(template)

    async def undrain(self, name: str) -> Operation | None:
        """Have a node take work again; the drain that ends by this, None when there was none."""
        node = self._node.view().find(name)
        if node.id != self._node.view().self_id:
            return _read_answer(await self._ask_member(node, "DELETE", DRAIN_PATH))
        running = self._driver.running_like(drain_of(node))
        await self.draining.set(False)
        return await self._driver.cancel(running.id) if running is not None else None

    async def operations(self) -> list[Operation]:
        """All that this node and those that answer at once know of, the newest first."""
        known = {operation.id: operation for operation in self._driver.all()}
        for node, heard in await self._from_all(PATH):
            for operation in heard:
                if operation.id not in known or owner_of(operation.id) == node:
                    known[operation.id] = operation
        return sorted(known.values(), key=lambda operation: -operation.created_at)

    async def operation(self, operation: OperationId) -> Operation:
        """As its owner knows it, else as whoever has a part in it does. Raises `NotFound`."""
        known = self._driver.get(operation)
        owner = self._node.view().nodes.get(owner_of(operation))
        if owner is not None and owner.id == self._node.view().self_id:
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
        first = await self.operation(operation)
        if first.owner == self._node.view().self_id:
            async for each in self._driver.watch(operation):
                yield each
            return
        told = None
        while True:
            now = first if told is None else await self.operation(operation)
            if now != told:
                yield now
            told = now
            if now.finished_at is not None:
                return
            await asyncio.sleep(WATCH_S)

    async def cancel(self, operation: OperationId) -> Operation:
        """End it where it is. Raises `NotFound`; and `NoCandidate` when nobody who could end it answers."""
        owner = self._node.view().nodes.get(owner_of(operation))
        if owner is not None and owner.id != self._node.view().self_id and owner.is_routable:
            said = await self._ask_member(owner, "POST", f"{PATH}/{operation}/cancel", {})
            return read_operation(said["operation"])
        if self._driver.get(operation) is None and owner is not None and not owner.is_routable:
            raise NoCandidate(f"{owner.name}, which runs it, cannot be reached")
        return await self._driver.cancel(operation)

    def is_pinned(self, node: NodeId, key: ModelKey) -> bool:
        """Whether the model is to stay on that node."""
        policy = policy_for(self.shared.policies, key)
        return policy is not None and node in policy.pinned

    def placing(self) -> Placing:
        """What is known here of where models are to be."""
        me = self._node.view().self_id
        running = [
            step
            for operation in self._driver.all()
            for step in operation.steps
            if step.state is State.RUNNING and step.action is Action.COPY and step.target is not None
        ]
        return Placing(
            self.shared.policies,
            {**self.shared.intents, me: self.shared.own_intents},
            {
                (step.target, step.key): round(step.bytes_done / step.bytes_total, 4)
                for step in running
                if step.target is not None and step.bytes_total
            },
        )

    # Policies and what follows from them

    def policy(self, pattern: str) -> Policy:
        """Raises `NotFound` and `BadRequest`."""
        name = check_pattern(pattern)
        found = next((each for each in self.shared.policies if each.pattern == name), None)
        if found is None:
            raise NotFound(f"there is no policy for {name}")
        return found

    async def set_policy(self, pattern: str, least: int, most: int | None, pinned: Sequence[str]) -> Policy:
        """For this and every other node. Raises `BadRequest`, `NodeNotFound` and `NotKept`."""
        name, view = check_pattern(pattern), self._node.view()
        if most is not None and most < max(least, 1):
            raise BadRequest(f'"max" ({most}) must be at least 1 and not below "min" ({least})')
        policy = Policy(name, least, most, tuple(dict.fromkeys(view.find(node).id for node in pinned)))
        await self._write(POLICY, name, policy.value())
        return policy

    async def remove_policy(self, pattern: str) -> None:
        """Raises `NotFound`, `BadRequest` and `NotKept`."""
        await self._write(POLICY, self.policy(pattern).pattern, None)

    async def _write(self, kind: str, name: str, value: Mapping[str, Any] | None) -> None:
        try:
            await self.shared.write(kind, name, value, self._node.view().self_id)
        except OSError as error:
            raise NotKept(f"this node cannot write it down, though the others hear of it: {error}") from error

    def plan_rebalance(self, models: Sequence[str]) -> Operation:
        """What all nodes should fetch or give up, as far as this one sees; ``models`` narrow it.

        Raises `InvalidModelName`.
        """
        wanted = {parse_model_name(model).key for model in models}
        view = self._node.view()
        steps = [
            step_of(wish, view, node)
            for node in sorted(view.nodes)
            for wish in plan(self._placer.picture(replace(view, self_id=node)))
            if not wanted or wish.model in wanted
        ]
        # What is copied comes first: what is then too much goes afterwards.
        steps.sort(key=lambda step: (step.action is Action.DELETE, step.key, step.doer or ""))
        return asked_for(Kind.REBALANCE, {"models": sorted(wanted)}, tuple(steps[:STEPS_MAX]))

    # What other nodes ask

    def known(self) -> list[Operation]:
        return self._driver.all()

    def part(self, operation: OperationId) -> Operation:
        """Raises `NotFound`."""
        known = self._driver.get(operation)
        if known is None:
            raise NotFound("this node knows of no such operation")
        return known

    async def take(self, document: Any, sender: NodeId) -> Operation:
        return await self._driver.take(document, sender)

    async def cancel_part(self, operation: OperationId) -> Operation:
        return await self._driver.cancel(operation)

    # Inside

    def _own_copier(self) -> Copier:
        if self.copier is None:
            raise CannotCopy("this node's engine takes no models from other nodes")
        return self.copier

    async def _ask_to_keep(self, node: NodeView, key: ModelKey, content: str) -> None:
        asked = {"model": key, "content": content, "sender": self._node.view().self_id}
        try:
            await self._peers.ask(node.id, "POST", PROMISE_PATH, asked)
        except PeerRefused as refused:
            raise NotPromised(str(refused)) from refused

    async def _ask_member(
        self, node: NodeView, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> Any:
        """Of a member that has to be there. Raises what it says, and `NoCandidate`."""
        if not node.is_routable:
            raise NoCandidate(f"{node.name} is {node.state} and cannot be asked")
        try:
            return await self._peers.ask(node.id, method, path, document)
        except PeerRefused as refused:
            raise SaidElsewhere(refused, node.name) from refused

    async def _from_all(self, path: str) -> list[tuple[NodeId, list[Operation]]]:
        peers = [peer for peer in self._node.view().peers() if peer.is_routable]
        said = await asyncio.gather(*(self._listed(peer, path) for peer in peers))
        return [(peer.id, heard) for peer, heard in zip(peers, said, strict=True)]

    async def _listed(self, peer: NodeView, path: str) -> list[Operation]:
        try:
            said = await self._peers.ask(peer.id, "GET", path, timeout=LOOK_S)
            return [read_operation(each) for each in said["operations"]]
        except (UpstreamFailed, PeerRefused, BadRequest, KeyError, TypeError) as error:
            log.info("operations_not_listed", node=peer.name, error=str(error))
            return []

    async def _same_elsewhere(self, planned: Operation) -> Operation | None:
        if self._driver.running_like(planned) is not None:
            return None
        for _, heard in await self._from_all(PATH):
            for operation in heard:
                is_same = operation.kind is planned.kind and operation.wish == planned.wish
                if is_same and operation.is_wanted:
                    return operation
        return None


class CannotCopy(DistError):
    """This node's engine takes no models from elsewhere; nothing was changed."""

    status = 501
    code = "cannot_copy"


class SaidElsewhere(DistError):
    """What another node answered to a question that was passed on to it."""

    def __init__(self, refused: PeerRefused, node: str) -> None:
        super().__init__(f"{node}: {refused}")
        self.status, self.code = refused.said_status, refused.said_code  # type: ignore[misc]


def _read_answer(said: Any) -> Operation | None:
    document = said.get("operation") if isinstance(said, dict) else None
    return None if document is None else read_operation(document)
