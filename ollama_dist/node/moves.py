"""Models that move, as this node offers it: what operators ask for here, and what other nodes ask of it."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import Any, Final, Protocol

import structlog

from ollama_dist.backends.target import Target
from ollama_dist.core.errors import BadRequest, DistError, NotFound
from ollama_dist.core.ids import NodeId
from ollama_dist.core.modes import Mode
from ollama_dist.core.names import ModelKey, ModelName, parse_model_name
from ollama_dist.core.view import ClusterView, NodeView
from ollama_dist.node.draining import Draining, drain_of
from ollama_dist.node.missed import MissedDeletions
from ollama_dist.node.operations import Operations, ask_member
from ollama_dist.node.placing import Placer, steps_of
from ollama_dist.node.setting_values import Placement
from ollama_dist.node.shared import Placing, Shared
from ollama_dist.replication.copier import Copier
from ollama_dist.replication.moves.doing import Doing, Hands
from ollama_dist.replication.moves.driving import Driver, NotKept
from ollama_dist.replication.moves.operations import (
    STEPS_MAX,
    Action,
    Kind,
    Operation,
    OperationId,
    State,
    Step,
    asked_for,
    read_operation,
)
from ollama_dist.replication.moves.peers import PeerRefused, Peers
from ollama_dist.replication.moves.placement import plan
from ollama_dist.replication.moves.planning import migration, removal
from ollama_dist.replication.moves.policies import KIND as POLICY
from ollama_dist.replication.moves.policies import Policy, check_pattern, policy_for
from ollama_dist.replication.moves.promises import NotPromised, Promises
from ollama_dist.replication.moves.shelf import Shelf
from ollama_dist.runtime.tasks import background, end

log = structlog.get_logger()

PROMISE_PATH: Final = "/replication/promises"
PROMISE_END_PATH: Final = f"{PROMISE_PATH}/end"
DRAIN_PATH: Final = "/replication/drain"
SCRUB_PATH: Final = "/replication/scrub"


class Around(Protocol):
    """What is needed of the node."""

    def view(self) -> ClusterView: ...

    def target(self, node: NodeId) -> Target | None: ...

    def active(self, model: ModelKey) -> int: ...

    async def load_model(self, name: ModelName) -> None: ...

    async def unload_model(self, name: ModelName) -> None: ...

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
            end_promise=self._end_promise,
            nudge=nudge,
            pinned=lambda key: self.is_pinned(node.view().self_id, key),
            active=node.active,
            load=node.load_model,
            unload=node.unload_model,
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
        self.operations = Operations(self._driver, self._peers, node.view)
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
        """What the fields of ``migrate`` come to. Raises kinds of `DistError`."""
        view = self._node.view()
        if wish["to"] is None:
            return self._plan_removal(view, wish)
        target, source = view.find(wish["to"]), wish.get("from")
        start = view.find(source).id if source is not None else None
        steps = migration(
            view,
            wish["model"],
            wish["to"],
            source,
            keep_source=wish["keep_source"],
            load=wish["load"],
            reserve=self._options.reserve_bytes,
            pinned=self.is_pinned,
        )
        said = {"model": wish["model"], "to": target.id, "from": start, "keep_source": wish["keep_source"]}
        return asked_for(Kind.MIGRATE, said, steps)

    def _plan_removal(self, view: ClusterView, wish: Mapping[str, Any]) -> Operation:
        if wish["from"] is None:
            raise BadRequest('say with "to" where it is to be, or with "from" where it is to be no more')
        if wish["keep_source"]:
            raise BadRequest('"keep_source" makes no sense without "to"')
        steps = removal(view, wish["model"], wish["from"], force=wish["force"], pinned=self.is_pinned)
        said = {"model": wish["model"], "from": view.find(wish["from"]).id, "force": wish["force"]}
        return asked_for(Kind.MIGRATE, said, steps)

    async def remove(self, model: str, node: str, requested_by: str, patience_s: float) -> None:
        """Have one node give its copy up; returns when it is gone. Raises kinds of `DistError`."""
        wish = {"model": model, "from": node, "to": None, "keep_source": False, "force": False}
        begun = await self.begin(self.plan_migration(wish), requested_by)
        last = begun
        try:
            async with asyncio.timeout(patience_s):
                async for each in self.operations.watch(begun.id):
                    last = each
        except TimeoutError:
            await self.operations.cancel(begun.id)
        if last.state is not State.SUCCEEDED:
            why = next((step.error or step.note for step in last.steps if step.error or step.note), "")
            raise NotRemoved(f"it is still there: {why or last.state}")

    async def begin(self, planned: Operation, requested_by: str) -> Operation:
        """Do it; where the same is being done already, whoever was asked for it, that is returned."""
        elsewhere = await self.operations.same_elsewhere(planned)
        return elsewhere or await self._driver.begin(replace(planned, requested_by=requested_by))

    async def ask_member(
        self, node: NodeView, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> Any:
        """What another node answers. Raises what it says, and `NoCandidate`."""
        return await ask_member(self._peers, node, method, path, document)

    async def drain(self, name: str, requested_by: str) -> Operation | None:
        """Empty a node; None when it is empty already. Raises kinds of `DistError`."""
        node = self._node.view().find(name)
        if node.id != self._node.view().self_id:
            return _read_answer(await self.ask_member(node, "POST", DRAIN_PATH, {"by": requested_by}))
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
            return _read_answer(await self.ask_member(node, "DELETE", DRAIN_PATH))
        running = self._driver.running_like(drain_of(node))
        await self.draining.set(False)
        return await self._driver.cancel(running.id) if running is not None else None

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
        wishes = [
            (node, wish)
            for node in sorted(view.nodes)
            for wish in plan(self._placer.picture(replace(view, self_id=node)))
            if not wanted or wish.model in wanted
        ]
        # What is copied comes first: what is then too much goes afterwards.
        wishes.sort(key=lambda entry: (entry[1].action is Action.DELETE, entry[1].model, entry[0]))
        steps: tuple[Step, ...] = ()
        going: set[ModelKey] = set()
        for node, wish in wishes:
            goes = {each.model for each in wish.first}
            if goes & going:
                continue  # each was reckoned with the other's copy; what is left is for the next time
            going |= goes
            more = steps_of(wish, view, node, len(steps))
            if len(steps) + len(more) > STEPS_MAX:
                break
            steps += more
        return asked_for(Kind.REBALANCE, {"models": sorted(wanted)}, steps)

    # What other nodes ask

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

    async def _end_promise(self, node: NodeView, key: ModelKey) -> None:
        asked = {"model": key, "sender": self._node.view().self_id}
        await self._peers.ask(node.id, "POST", PROMISE_END_PATH, asked)


class NotRemoved(DistError):
    """A node did not give its copy up."""

    status = 409
    code = "not_removed"


class CannotCopy(DistError):
    """This node's engine takes no models from elsewhere; nothing was changed."""

    status = 501
    code = "cannot_copy"


def _read_answer(said: Any) -> Operation | None:
    document = said.get("operation") if isinstance(said, dict) else None
    return None if document is None else read_operation(document)
