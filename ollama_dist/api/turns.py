"""Giving members their turn at asking an upstream registry."""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import web

from ollama_dist.api.exchange import Exchange
from ollama_dist.api.responses import StreamResponse
from ollama_dist.core.ids import NodeId, parse_digest, parse_node_id
from ollama_dist.core.view import ClusterView
from ollama_dist.replication.pulls.turns import BEAT_S, WAITING, YOURS, YOURS_AFTER, Turns
from ollama_dist.runtime.tasks import background, end

NDJSON: Final = "application/x-ndjson"


class TurnGiving:
    """The handler. A turn ends with its connection, or when the member is no longer there."""

    def __init__(self, turns: Turns, view: Callable[[], ClusterView], beat_s: float = BEAT_S) -> None:
        self._turns = turns
        self._view = view
        self._beat_s = beat_s

    async def replication_turn(self, exchange: Exchange) -> web.StreamResponse:
        """Answers at once, goes on while the member waits and while it has its turn."""
        subject = parse_digest(exchange.params["digest"])
        node = parse_node_id(exchange.full.query.get("node", ""))
        response = StreamResponse()
        response.content_type = NDJSON
        exchange.mark(response)
        await response.prepare(exchange.full)
        beating = background(self._beat(response), "turn-beat")
        try:
            async with self._turns.turn(subject, node) as is_after:
                await response.write(YOURS_AFTER if is_after else YOURS)
                while self._is_there(node):  # noqa: ASYNC110 - what is seen of it has no event
                    await asyncio.sleep(self._beat_s)
        finally:
            await end(beating)
        await response.write_eof()
        return response

    async def _beat(self, response: web.StreamResponse) -> None:
        while True:
            await response.write(WAITING)
            await asyncio.sleep(self._beat_s)

    def _is_there(self, node: NodeId) -> bool:
        known = self._view().nodes.get(node)
        return known is not None and known.is_routable
