"""Deletions that reach holders that were away: noted when they are missed, done when this node is back."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import structlog

from ollama_dist.core.errors import DistError
from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey, ModelName, parse_model_name
from ollama_dist.core.view import ClusterView
from ollama_dist.node.shared import Shared
from ollama_dist.replication.copier import Copier
from ollama_dist.replication.moves.deletions import KIND as DELETION
from ollama_dist.replication.moves.deletions import Missed, expired, is_elsewhere, is_meant, missed, missed_in

log = structlog.get_logger()

CATCH_UP_S: Final = 5.0
"""How often a node looks whether something was deleted while it was away."""

Write = Callable[[str, str, Mapping[str, Any] | None], Awaitable[None]]
"""Writes a record of a kind by its name; raises errors of the `DistError` tree."""


class MissedDeletions:
    """`run` is its life."""

    def __init__(
        self,
        shared: Shared,
        view: Callable[[], ClusterView],
        copier: Callable[[], Copier],
        is_pinned: Callable[[NodeId, ModelKey], bool],
        write: Write,
        nudge: Callable[[], None],
    ) -> None:
        self._shared = shared
        self._view = view
        self._copier = copier
        self._is_pinned = is_pinned
        self._write = write
        self._nudge = nudge
        self._elsewhere: set[str] = set()
        """Deletions, by name, that were seen to be void by another node's copy when it was last looked."""

    async def note(self, model: ModelKey, told: Sequence[NodeId]) -> list[str]:
        """Have the holders that were not told delete it when they are back; the names of those that will."""
        view = self._view()
        noted = []
        for each in missed(view, model, told, time.time()):
            try:
                await self._write(DELETION, each.name, each.value())
            except DistError as error:
                log.warning("deletion_not_kept", model=model, node=each.node, error=str(error))
            else:
                noted.append(view.nodes[each.node].name)
        return noted

    async def run(self) -> None:
        """Delete what was deleted everywhere while this node was away."""
        while True:
            await asyncio.sleep(CATCH_UP_S)
            found = missed_in(self._shared.records.of(DELETION))
            self._shared.forget(DELETION, [each.name for each in expired(found, time.time())])
            for each in found:
                if each.node == self._view().self_id and self._view().me.can_serve:
                    await self._delete_late(each, found)

    async def _delete_late(self, each: Missed, found: Sequence[Missed]) -> None:
        """Delete it, or find that it is gone or pulled anew; only then is the deletion forgotten.

        The others are to hear that the copy is gone before they hear that this is settled. And what this
        node knows of them may be from before it was away: what it sees of them has to last for a while.
        """
        view = self._view()
        if is_meant(each, view.me) and not self._is_pinned(view.self_id, each.model):
            if not is_elsewhere(each, view, found):
                self._elsewhere.discard(each.name)
                await self._delete(parse_model_name(view.me.models[each.model].name))
                return
            if each.name not in self._elsewhere:
                self._elsewhere.add(each.name)
                return
        self._elsewhere.discard(each.name)
        try:
            await self._write(DELETION, each.name, None)
        except DistError as error:
            log.warning("deletion_not_kept", model=each.model, error=str(error))

    async def _delete(self, name: ModelName) -> None:
        log.info("deleted_while_away", model=name.short)
        try:
            await self._copier().delete(name)
        except DistError as error:
            log.warning("late_deletion_failed", model=name.short, error=str(error))
        self._nudge()
