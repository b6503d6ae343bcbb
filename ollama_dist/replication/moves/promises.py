"""Promises to keep a copy: a node gives its own copy up only with one from another holder, had by asking it.

Two nodes that each want to give up their copy would otherwise both see the other's, and the model would be
gone. A node that is about to give its copy up promises nothing, and one that has promised gives nothing up
until the promise has run out, or the other says or is seen to have given up its own: then it has done its
part. A promise is on disk before it is told.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from ollama_dist.core.errors import DistError
from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import ClusterView
from ollama_dist.replication.moves.holders import has
from ollama_dist.replication.moves.shelf import Shelf

log = structlog.get_logger()

PROMISE_S: Final = 900.0
"""How long a copy is kept for somebody who gives its own up; that takes seconds."""

PROMISES_MAX: Final = 10_000

_FILE: Final = "promises"


class NotPromised(DistError):
    """This node cannot promise to keep its copy; nothing was changed."""

    status = 409
    code = "not_promised"


@dataclass(frozen=True, slots=True)
class Promise:
    to: NodeId
    until: float
    """By this node's steady clock. After a restart the whole time begins anew: that errs on the safe side."""


class Promises:
    """The promises this node gave, and the copies it is about to give up itself."""

    def __init__(self, shelf: Shelf, view: Callable[[], ClusterView], clock: Callable[[], float]) -> None:
        self._shelf = shelf
        self._view = view
        self._clock = clock
        self._given: dict[ModelKey, Promise] = {}
        self._leaving: set[ModelKey] = set()

    def load(self) -> None:
        rows = self._shelf.load().get(_FILE)
        until = self._clock() + PROMISE_S
        for key, to in rows.items() if isinstance(rows, dict) else ():
            self._given[ModelKey(key)] = Promise(NodeId(str(to)), until)

    def kept_for(self, key: ModelKey) -> NodeId | None:
        """To whom this node promised to keep its copy; None where it is free to give it up."""
        promise = self._given.get(key)
        if promise is None or promise.until <= self._clock():
            return None
        to = self._view().nodes.get(promise.to)
        is_done = to is not None and to.can_serve and key not in to.models
        return None if is_done else promise.to

    def give_up(self, key: ModelKey, *, is_forced: bool = False) -> None:
        """From now on nothing is promised for this model. Raises `NotPromised` when something was.

        ``is_forced``: whatever was.
        """
        to = self.kept_for(key)
        if to is not None and not is_forced:
            raise NotPromised(f"this node promised {self._name(to)} to keep its copy a while longer")
        self._leaving.add(key)

    def given_up(self, key: ModelKey) -> None:
        """It is gone, or stays after all."""
        self._leaving.discard(key)

    async def give(self, key: ModelKey, content: str, to: NodeId) -> float:
        """Promise to keep this node's copy; the seconds it holds. Raises `NotPromised`."""
        me = self._view().me
        if not me.can_serve or not has(me, key, content):
            raise NotPromised(f"{me.name} does not have that model, or its engine does not answer")
        if me.draining:
            raise NotPromised(f"{me.name} is being drained")
        if key in self._leaving:
            raise NotPromised(f"{me.name} is about to give its own copy up")
        now = self._clock()
        self._given = {each: promise for each, promise in self._given.items() if promise.until > now}
        if len(self._given) >= PROMISES_MAX:
            raise NotPromised(f"{me.name} has promised too much already")
        # Before it is written, so that nothing is given up while the disk is slow.
        self._given[key] = Promise(to, now + PROMISE_S)
        try:
            await self._shelf.save(_FILE, self._document())
        except OSError as error:
            raise NotPromised(f"{me.name} cannot write the promise down: {error}") from error
        return PROMISE_S

    async def end(self, key: ModelKey, to: NodeId) -> None:
        """The other needs the promise no more: its own copy is gone, or stays after all."""
        promise = self._given.get(key)
        if promise is None or promise.to != to:
            return
        del self._given[key]
        try:
            await self._shelf.save(_FILE, self._document())
        except OSError as error:
            log.warning("end_of_promise_not_kept", model=key, error=str(error))

    def _document(self) -> dict[str, Any]:
        return {key: promise.to for key, promise in self._given.items()}

    def _name(self, node: NodeId) -> str:
        known = self._view().nodes.get(node)
        return known.name if known else node
