"""Emptying this node: it takes no new requests, and what only it has is copied to others, over restarts."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import structlog

from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import ClusterView, EngineKind, NodeView
from ollama_dist.replication.moves.driving import NotKept
from ollama_dist.replication.moves.operations import Action, Kind, Operation, State, Step, asked_for
from ollama_dist.replication.moves.planning import drained, is_drained, room_for
from ollama_dist.replication.moves.shelf import Shelf

log = structlog.get_logger()

_DRAINING: Final = "draining"


class Draining:
    """``changed`` is called when this node begins or ends to take new work."""

    def __init__(
        self, shelf: Shelf, view: Callable[[], ClusterView], reserve: int, changed: Callable[[], None]
    ) -> None:
        self.is_on = False
        self._shelf = shelf
        self._view = view
        self._reserve = reserve
        self._changed = changed
        self._tried_at: dict[ModelKey, float] = {}

    def load(self, documents: Mapping[str, Any]) -> None:
        self.is_on = bool(documents.get(_DRAINING))
        if self.is_on:
            self._changed()

    def is_done(self, operation: Operation) -> bool:
        """Whether there is nothing to do for ``operation``, which has not begun."""
        return not self.replan(operation).steps and is_drained(operation, self._view())

    async def set(self, is_draining: bool) -> None:
        """Raises `NotKept`."""
        if self.is_on == is_draining:
            return
        try:
            if is_draining:
                await self._shelf.save(_DRAINING, {"draining": True})
            else:
                await self._shelf.remove(_DRAINING)
        except OSError as error:
            raise NotKept(f"it cannot be written down: {error}") from error
        self.is_on = is_draining
        log.info("draining" if is_draining else "draining_ended")
        self._changed()

    def replan(self, operation: Operation) -> Operation:
        """The drain of this node as it stands."""
        view, now = self._view(), time.monotonic()
        before = operation.steps
        operation = drained(operation, view, self._place, now, self._tried_at)
        for index, step in enumerate(operation.steps):
            if index >= len(before) or step.attempt != before[index].attempt:
                self._tried_at[step.key] = now
        if operation.steps == before and is_drained(operation, view):
            done = [step if step.state is not State.FAILED else _done_without(step) for step in before]
            return replace(operation, steps=tuple(done), is_open=False)
        return operation

    def _place(self, key: ModelKey) -> tuple[NodeId | None, str]:
        """Where this node's copy of a model can go; else None and why nowhere."""
        view = self._view()
        copy = view.me.models[key]
        refusals = []
        for node in sorted(view.peers(), key=lambda node: (-(node.resources.disk_free_bytes or 0), node.id)):
            if (
                not node.can_serve
                or node.draining
                or node.engine.kind is EngineKind.NONE
                or key in node.models
            ):
                continue
            lacking = room_for(node, copy.size, self._reserve)
            if not lacking:
                return node.id, ""
            refusals.append(f"{node.name}: {lacking}")
        return None, f"no node can take it ({'; '.join(refusals) or 'no other node takes models now'})"


def _done_without(step: Step) -> Step:
    """One that failed and is not needed any more; of memory it stays known why."""
    return step.ended(State.SUCCEEDED, step.error if step.action in (Action.LOAD, Action.UNLOAD) else "")


def drain_of(node: NodeView) -> Operation:
    """The drain of a node, as it is asked for."""
    return asked_for(Kind.DRAIN, {"node": node.id})
