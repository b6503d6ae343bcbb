"""Operations under way: kept on disk, told to the nodes that do their steps, driven to their end.

Each node with a step drives its own part, and goes on without the owner. The owner asks the others how far
they are and says when all is over.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

import structlog

from ollama_dist.core.errors import BadRequest, DistError, NotFound, UpstreamFailed
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import ClusterView, MemberState, NodeView
from ollama_dist.replication.moves.doing import Doing
from ollama_dist.replication.moves.operations import (
    Operation,
    OperationId,
    State,
    Step,
    awaited,
    merged,
    new_operation_id,
    read_operation,
    startable,
    tidied,
    to_document,
)
from ollama_dist.replication.moves.peers import PeerRefused, Peers
from ollama_dist.replication.moves.shelf import Shelf
from ollama_dist.runtime.tasks import Tasks, end

log = structlog.get_logger()

ROUND_S: Final = 1.0
"""How often the nodes that do steps are asked how far they are."""

OWNER_S: Final = 10.0
"""After a restart, so long is the owner waited for, to ask whether it still wants this."""

GONE_S: Final = 24 * 3600.0
"""A dead node's steps are waited for so long: it goes on with them when it is back."""

FINISHED_MAX: Final = 200
"""Operations that are over and still remembered."""

LIVE_MAX: Final = 200
"""Operations under way."""

PATH: Final = "/replication/operations"

Replan = Callable[[Operation], Operation]


class NotKept(DistError):
    """What was asked could not be written down, so it was not begun."""

    status = 503
    code = "not_kept"
    retryable = True
    retry_after_s = 5


@dataclass
class _Live:
    operation: Operation
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, at each change: for those who watch."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be something to do before the next round."""
    driver: asyncio.Task[None] | None = None
    working: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    told: dict[NodeId, object] = field(default_factory=dict)
    """The plan that each node has confirmed."""
    silent_since: dict[NodeId, float] = field(default_factory=dict)
    kept: object = None
    """What of it is on disk."""


class Driver:
    """All operations this node owns or has steps of."""

    def __init__(
        self,
        shelf: Shelf,
        peers: Peers,
        doing: Doing,
        view: Callable[[], ClusterView],
        rng: Random,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shelf = shelf
        self._peers = peers
        self._doing = doing
        self._view = view
        self._rng = rng
        self._wall = wall
        self._clock = clock
        self._all: dict[OperationId, _Live] = {}
        self._tasks = Tasks()
        self.replan: Replan = lambda operation: operation
        """What the owner of an open operation makes of it each round."""

    # Life

    async def start(self) -> None:
        """Take up what was under way."""
        for name, document in (await asyncio.to_thread(self._shelf.load)).items():
            try:
                operation = read_operation(document)
            except BadRequest as error:
                log.warning("operation_unreadable", name=name, error=str(error))
                continue
            live = self._all[operation.id] = _Live(_begun_again(operation, self._me))
            live.kept = _kept_part(operation)
            if self._has_work(operation):
                log.info("operation_resumed", operation=operation.id, kind=operation.kind)
                self._drive(operation.id, is_resumed=True)

    async def stop(self) -> None:
        """Let go of everything as it is: the next start takes it up."""
        await self._tasks.stop()

    # What is asked

    def all(self) -> list[Operation]:
        """The newest first."""
        found = [live.operation for live in self._all.values()]
        return sorted(found, key=lambda operation: -operation.created_at)

    def get(self, operation: OperationId) -> Operation | None:
        live = self._all.get(operation)
        return live.operation if live else None

    async def begin(self, template: Operation) -> Operation:
        """Start what this node owns (``id`` is given here). Raises `NotKept`.

        Where the same is under way already, that is returned and nothing begun.
        """
        same = self.running_like(template)
        if same is not None:
            return same
        self._make_room()
        operation = replace(
            template, id=new_operation_id(self._me, self._rng), owner=self._me, created_at=self._wall()
        )
        live = self._all[operation.id] = _Live(tidied(operation, self._me))
        try:
            await self._keep(live)
        except OSError as error:
            del self._all[operation.id]
            raise NotKept(f"the operation cannot be written down: {error}") from error
        log.info("operation_begun", operation=operation.id, kind=operation.kind, steps=len(operation.steps))
        self._drive(operation.id)
        return live.operation

    def running_like(self, template: Operation) -> Operation | None:
        """One of this node's that is under way and was asked for in the same words."""
        for live in self._all.values():
            known = live.operation
            is_same = known.kind is template.kind and known.wish == template.wish
            if is_same and known.owner == self._me and known.is_wanted:
                return known
        return None

    async def take(self, document: Any, sender: NodeId) -> Operation:
        """What another node tells of an operation: ours of it is kept, merged and returned.

        Raises `BadRequest` and `NotKept`.
        """
        heard = read_operation(document)
        live = self._all.get(heard.id)
        if live is None:
            if self._me not in heard.doers():
                raise BadRequest("this node has no step of that operation")
            self._make_room()
            live = self._all[heard.id] = _Live(_unbegun(heard, self._me))
        else:
            live.operation = merged(live.operation, heard, sender, self._me)
        self._tell(live, tidied(live.operation, self._me))
        try:
            await self._keep(live)
        except OSError as error:
            raise NotKept(f"the operation cannot be written down: {error}") from error
        if self._has_work(live.operation):
            self._drive(heard.id)
        return live.operation

    async def cancel(self, operation: OperationId) -> Operation:
        """Have its steps end where they are. Raises `NotFound`; what is over stays as it is."""
        live = self._all.get(operation)
        if live is None:
            raise NotFound(f"no operation {operation} is known here")
        if live.operation.finished_at is None and not live.operation.is_cancelled:
            log.info("operation_cancelled", operation=operation)
            self._tell(live, replace(live.operation, is_cancelled=True, is_open=False))
            await self._end_own(live)
            self._drive(operation)
        return live.operation

    async def watch(self, operation: OperationId) -> AsyncIterator[Operation]:
        """It as it is, then whenever something changed, until it is over."""
        live = self._all.get(operation)
        while live is not None:
            changed = live.changed
            yield live.operation
            if self._is_over(live.operation):
                return
            await changed.wait()

    # Driving

    def _drive(self, operation: OperationId, *, is_resumed: bool = False) -> None:
        live = self._all[operation]
        live.wake.set()
        if live.driver is None or live.driver.done():
            live.driver = self._tasks.start(self._run(live, is_resumed), f"operation-{operation}")

    async def _run(self, live: _Live, is_resumed: bool) -> None:
        if is_resumed and live.operation.owner != self._me:
            await self._hear_owner(live)
        try:
            while self._has_work(live.operation):
                live.wake.clear()
                await self._round(live)
                if self._has_work(live.operation):
                    await _wait_for(live.wake, ROUND_S)
                else:
                    await self._say_last(live)
        finally:
            await end(*live.working.values())
            live.working.clear()

    async def _round(self, live: _Live) -> None:
        operation = live.operation
        if operation.owner == self._me and operation.is_open:
            operation = self.replan(operation)
        self._tell(live, tidied(operation, self._me))
        if live.operation.is_cancelled or live.operation.finished_at is not None:
            await self._end_own(live)
        else:
            for index in startable(live.operation, self._me):
                if index not in live.working:
                    self._begin_step(live, index)
        await asyncio.gather(*(self._exchange(live, node) for node in awaited(live.operation, self._me)))
        if live.operation.owner == self._me and live.operation.is_settled:
            self._finish(live)
        await self._keep_quietly(live)

    def _begin_step(self, live: _Live, index: int) -> None:
        step = replace(live.operation.steps[index], state=State.RUNNING)
        self._tell(live, live.operation.with_step(index, step))

        def tell(told: Step) -> None:
            self._tell(live, live.operation.with_step(index, told))

        async def work() -> None:
            await self._keep_quietly(live)
            state, error = await self._doing.do(step, tell)
            live.working.pop(index, None)
            ended = live.operation.steps[index].ended(state, error)
            self._tell(live, live.operation.with_step(index, ended))
            await self._keep_quietly(live)
            live.wake.set()

        name = f"step-{live.operation.id}-{index}"
        live.working[index] = self._tasks.start(work(), name)

    async def _end_own(self, live: _Live) -> None:
        """End the steps that are being done here; what they have is kept for another time."""
        working = dict(live.working)
        live.working.clear()
        await end(*working.values())
        for index, step in enumerate(live.operation.steps):
            if step.doer == self._me and not step.state.is_final:
                self._tell(live, live.operation.with_step(index, step.ended(State.CANCELLED)))

    def _finish(self, live: _Live) -> None:
        if live.operation.finished_at is None:
            self._tell(live, replace(live.operation, finished_at=self._wall()))
            log.info(
                "operation_finished",
                operation=live.operation.id,
                kind=live.operation.kind,
                state=live.operation.state,
            )

    # Talking to the others

    async def _exchange(self, live: _Live, node: NodeId) -> None:
        """Tell ``node`` what it does not know yet, and hear how far it is."""
        plan = _plan_of(live.operation)
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
        self._tell(live, merged(live.operation, heard, node, self._me))
        if before != [step.state for step in live.operation.steps]:
            live.wake.set()  # what waited for it may begin

    def _letter(self, live: _Live) -> dict[str, Any]:
        return {"operation": to_document(live.operation), "sender": self._me}

    def _refused(self, live: _Live, node: NodeId, refused: PeerRefused) -> None:
        if refused.said_status == NotFound.status:
            live.told.pop(node, None)  # it forgot, or never knew: it is told again
        elif refused.said_status == BadRequest.status and live.operation.owner == self._me:
            self._fail_steps(live, node, f"{self._name(node)} does not take this: {refused}")
        self._note(live, node, f"{self._name(node)}: {refused}")

    def _unheard(self, live: _Live, node: NodeId, failure: Exception) -> None:
        """Nobody answers: what it does is waited for, unless that is in vain."""
        now = self._clock()
        since = live.silent_since.setdefault(node, now)
        if live.operation.owner != self._me:
            return
        member = self._view().nodes.get(node)
        if member is not None and member.state is MemberState.LEFT:
            self._fail_steps(live, node, f"{member.name} has left the cluster")
        elif now - since > GONE_S:
            self._fail_steps(live, node, f"{self._name(node)} has not been heard of for a day")
        elif live.operation.is_cancelled and not _lives(member):
            self._fail_steps(live, node, "", State.CANCELLED)
        else:
            state = member.state if member is not None else "unknown"
            self._note(live, node, f"waits for {self._name(node)} ({state}): {failure}")

    def _fail_steps(self, live: _Live, node: NodeId, error: str, state: State = State.FAILED) -> None:
        steps = [
            step.ended(state, error) if step.doer == node and not step.state.is_final else step
            for step in live.operation.steps
        ]
        self._tell(live, live.operation.with_steps(steps))

    def _note(self, live: _Live, node: NodeId, note: str) -> None:
        steps = [
            step.waiting(note) if step.doer == node and not step.state.is_final else step
            for step in live.operation.steps
        ]
        self._tell(live, live.operation.with_steps(steps))

    async def _hear_owner(self, live: _Live) -> None:
        """Whether this is still wanted, as far as the owner can be found."""
        deadline = self._clock() + OWNER_S
        while self._clock() < deadline:
            if _lives(self._view().nodes.get(live.operation.owner)):
                await self._exchange(live, live.operation.owner)
                return
            await asyncio.sleep(ROUND_S / 10)

    async def _say_last(self, live: _Live) -> None:
        """Tell those who had a part how it ended; who does not hear it knows its own part."""
        await self._keep_quietly(live)
        if live.operation.owner != self._me:
            return
        live.told.clear()
        others = {node for node in live.operation.doers() if node != self._me}
        heard = [node for node in others if _lives(self._view().nodes.get(node))]
        await asyncio.gather(*(self._exchange_last(live, node) for node in heard))

    async def _exchange_last(self, live: _Live, node: NodeId) -> None:
        try:
            await self._peers.ask(node, "POST", PATH, self._letter(live))
        except DistError as error:
            log.info("end_not_told", operation=live.operation.id, node=self._name(node), error=str(error))

    # Keeping

    def _tell(self, live: _Live, operation: Operation) -> None:
        if operation != live.operation:
            live.operation = operation
            live.changed.set()
            live.changed = asyncio.Event()

    async def _keep(self, live: _Live) -> None:
        part = _kept_part(live.operation)
        if part != live.kept:
            await self._shelf.save(live.operation.id, to_document(live.operation))
            live.kept = part

    async def _keep_quietly(self, live: _Live) -> None:
        """A disk that fails costs doing something twice, which does no harm, but never the work itself."""
        try:
            await self._keep(live)
        except OSError as error:
            log.warning("operation_not_kept", operation=live.operation.id, error=str(error))

    def _make_room(self) -> None:
        over = [live.operation for live in self._all.values() if not self._has_work(live.operation)]
        over.sort(key=lambda operation: operation.created_at)
        if len(self._all) - len(over) >= LIVE_MAX:
            raise NotKept(f"{LIVE_MAX} operations are under way already")
        for operation in over[: max(0, len(over) - FINISHED_MAX + 1)]:
            del self._all[operation.id]
            self._tasks.start(self._forget(operation.id), f"forget-{operation.id}")

    async def _forget(self, operation: OperationId) -> None:
        try:
            await self._shelf.remove(operation)
        except OSError as error:
            log.warning("operation_not_removed", operation=operation, error=str(error))

    # Questions

    @property
    def _me(self) -> NodeId:
        return self._view().self_id

    def _has_work(self, operation: Operation) -> bool:
        """Whether something of it is left to this node."""
        if operation.owner == self._me:
            return operation.finished_at is None
        return any(step.doer == self._me and not step.state.is_final for step in operation.steps)

    def _is_over(self, operation: Operation) -> bool:
        return operation.finished_at is not None or (
            operation.owner != self._me and operation.is_settled and not self._has_work(operation)
        )

    def _name(self, node: NodeId) -> str:
        known = self._view().nodes.get(node)
        return known.name if known else node


def _begun_again(operation: Operation, me: NodeId) -> Operation:
    """As it is taken up after a restart: nothing of it is being done yet."""
    steps = [
        replace(step, state=State.PLANNED) if step.doer == me and step.state is State.RUNNING else step
        for step in operation.steps
    ]
    return operation.with_steps(steps)


def _unbegun(operation: Operation, me: NodeId) -> Operation:
    """As it is taken over from somebody: what this node does it has not begun, whatever they say."""
    steps = [
        replace(step, state=State.PLANNED) if step.doer == me and not step.state.is_final else step
        for step in operation.steps
    ]
    return operation.with_steps(steps)


def _plan_of(operation: Operation) -> object:
    """What the others have to know of it."""
    steps = tuple((step.doer, step.model, step.action, step.attempt) for step in operation.steps)
    return steps, operation.is_cancelled, operation.is_open, operation.finished_at


def _kept_part(operation: Operation) -> object:
    """What has to be on disk: everything but how far a copy is."""
    return _plan_of(operation), tuple((step.state, step.error) for step in operation.steps)


def _lives(member: NodeView | None) -> bool:
    return member is not None and member.is_routable


async def _wait_for(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return
