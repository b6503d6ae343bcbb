"""An operation as it is under way on this node: how it stands, what of it is on disk, who watches."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from ollama_dist.core.ids import NodeId
from ollama_dist.replication.moves.operations import Operation, State, Step, to_document
from ollama_dist.replication.moves.shelf import Shelf

log = structlog.get_logger()


@dataclass
class Live:
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

    def tell(self, operation: Operation) -> None:
        """It stands so now."""
        if operation != self.operation:
            self.operation = operation
            self.changed.set()
            self.changed = asyncio.Event()

    def end_steps(self, doer: NodeId, error: str, state: State = State.FAILED) -> None:
        """End what ``doer`` has not done."""
        self._change(doer, lambda step: step.ended(state, error))

    def note(self, doer: NodeId, note: str) -> None:
        """Say what the steps of ``doer`` wait for."""
        self._change(doer, lambda step: step.waiting(note))

    def _change(self, doer: NodeId, change: Callable[[Step], Step]) -> None:
        steps = self.operation.steps
        self.tell(
            self.operation.with_steps(
                change(step) if step.doer == doer and not step.state.is_final else step for step in steps
            )
        )

    async def keep(self, shelf: Shelf) -> None:
        """Write it down where that is needed. Raises `OSError`."""
        part = kept_part(self.operation)
        if part != self.kept:
            await shelf.save(self.operation.id, to_document(self.operation))
            self.kept = part

    async def keep_quietly(self, shelf: Shelf) -> None:
        """A disk that fails costs doing something twice, which does no harm, but never the work itself."""
        try:
            await self.keep(shelf)
        except OSError as error:
            log.warning("operation_not_kept", operation=self.operation.id, error=str(error))


def begun_again(operation: Operation, me: NodeId) -> Operation:
    """As it is taken up after a restart: nothing of it is being done yet."""
    steps = [
        replace(step, state=State.PLANNED) if step.doer == me and step.state is State.RUNNING else step
        for step in operation.steps
    ]
    return operation.with_steps(steps)


def unbegun(operation: Operation, me: NodeId) -> Operation:
    """As it is taken over from somebody: what this node does it has not begun, whatever they say."""
    steps = [
        replace(step, state=State.PLANNED) if step.doer == me and not step.state.is_final else step
        for step in operation.steps
    ]
    return operation.with_steps(steps)


def plan_of(operation: Operation) -> object:
    """What the others have to know of it."""
    steps = tuple((step.doer, step.model, step.action, step.attempt) for step in operation.steps)
    return steps, operation.is_cancelled, operation.is_open, operation.finished_at


def kept_part(operation: Operation) -> object:
    """What has to be on disk: everything but how far a copy is."""
    return plan_of(operation), tuple((step.state, step.error) for step in operation.steps)
