"""Operations under way: kept on disk, told to the nodes that do their steps, driven to their end.

Each node with a step drives its own part, and goes on without the owner. The owner asks the others how far
they are and says when all is over.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from random import Random
from typing import Any, Final

import structlog

from ollama_dist.core.errors import BadRequest, DistError, NotFound
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import ClusterView
from ollama_dist.replication.moves.correspondence import Correspondence
from ollama_dist.replication.moves.doing import Doing
from ollama_dist.replication.moves.live import Live, begun_again, kept_part, unbegun
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
)
from ollama_dist.replication.moves.peers import Peers
from ollama_dist.replication.moves.shelf import Shelf
from ollama_dist.runtime.tasks import Tasks, end

log = structlog.get_logger()

ROUND_S: Final = 1.0
"""How often the nodes that do steps are asked how far they are."""

FINISHED_MAX: Final = 200
"""Operations that are over and still remembered."""

LIVE_MAX: Final = 200
"""Operations under way."""

Replan = Callable[[Operation], Operation]


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
        self._others = Correspondence(peers, view, clock)
        self._doing = doing
        self._view = view
        self._rng = rng
        self._wall = wall
        self._all: dict[OperationId, Live] = {}
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
            live = self._all[operation.id] = Live(begun_again(operation, self._me))
            live.kept = kept_part(operation)
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
        live = self._all[operation.id] = Live(tidied(operation, self._me))
        try:
            await live.keep(self._shelf)
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
            live = self._all[heard.id] = Live(unbegun(heard, self._me))
        else:
            live.operation = merged(live.operation, heard, sender, self._me)
        live.tell(tidied(live.operation, self._me))
        try:
            await live.keep(self._shelf)
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
            live.tell(replace(live.operation, is_cancelled=True, is_open=False))
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

    async def _run(self, live: Live, is_resumed: bool) -> None:
        if is_resumed and live.operation.owner != self._me:
            await self._others.hear_owner(live)
        try:
            while self._has_work(live.operation):
                live.wake.clear()
                await self._round(live)
                if self._has_work(live.operation):
                    await _wait_for(live.wake, ROUND_S)
                else:
                    await live.keep_quietly(self._shelf)
                    await self._others.say_last(live)
        finally:
            await end(*live.working.values())
            live.working.clear()

    async def _round(self, live: Live) -> None:
        operation = live.operation
        if operation.owner == self._me and operation.is_open:
            operation = self.replan(operation)
        live.tell(tidied(operation, self._me))
        if live.operation.is_cancelled or live.operation.finished_at is not None:
            await self._end_own(live)
        else:
            for index in startable(live.operation, self._me):
                if index not in live.working:
                    self._begin_step(live, index)
        await asyncio.gather(
            *(self._others.exchange(live, node) for node in awaited(live.operation, self._me))
        )
        if live.operation.owner == self._me and live.operation.is_settled:
            self._finish(live)
        await live.keep_quietly(self._shelf)

    def _begin_step(self, live: Live, index: int) -> None:
        step = replace(live.operation.steps[index], state=State.RUNNING)
        live.tell(live.operation.with_step(index, step))

        def tell(told: Step) -> None:
            live.tell(live.operation.with_step(index, told))

        async def work() -> None:
            await live.keep_quietly(self._shelf)
            state, error = await self._doing.do(step, tell)
            live.working.pop(index, None)
            ended = live.operation.steps[index].ended(state, error)
            live.tell(live.operation.with_step(index, ended))
            await live.keep_quietly(self._shelf)
            live.wake.set()

        name = f"step-{live.operation.id}-{index}"
        live.working[index] = self._tasks.start(work(), name)

    async def _end_own(self, live: Live) -> None:
        """End the steps that are being done here; what they have is kept for another time."""
        working = dict(live.working)
        live.working.clear()
        await end(*working.values())
        for index, step in enumerate(live.operation.steps):
            if step.doer == self._me and not step.state.is_final:
                live.tell(live.operation.with_step(index, step.ended(State.CANCELLED)))

    def _finish(self, live: Live) -> None:
        if live.operation.finished_at is None:
            live.tell(replace(live.operation, finished_at=self._wall()))
            log.info(
                "operation_finished",
                operation=live.operation.id,
                kind=live.operation.kind,
                state=live.operation.state,
            )

    # Room

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


class NotKept(DistError):
    """What was asked could not be written down, so it was not begun."""

    status = 503
    code = "not_kept"
    retryable = True
    retry_after_s = 5


async def _wait_for(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return
