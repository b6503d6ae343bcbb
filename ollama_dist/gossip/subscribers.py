"""Telling the node of which members something changed: once for all that changes in one turn of the loop."""

import asyncio
from collections.abc import Callable, Collection

import structlog

from ollama_dist.core.ids import NodeId

log = structlog.get_logger()

Subscriber = Callable[[Collection[NodeId]], None]


class Subscribers:
    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []
        self._news: set[NodeId] = set()
        """Members of whom they are about to be told."""

    def add(self, changed: Subscriber) -> Callable[[], None]:
        """``changed`` is told from now on, until what is returned is called."""
        self._subscribers.append(changed)
        return lambda: self._subscribers.remove(changed)

    def tell_soon(self, *members: NodeId) -> None:
        if not self._news:
            asyncio.get_running_loop().call_soon(self._tell)
        self._news.update(members)

    def _tell(self) -> None:
        news, self._news = frozenset(self._news), set()
        for changed in list(self._subscribers):
            try:
                changed(news)
            except Exception:
                log.exception("subscriber_failed")
