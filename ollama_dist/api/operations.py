"""The routes by which operators have models moved and see how far that is."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from ollama_dist.api.asked import (
    MigrateRequest,
    NodeNamed,
    Nothing,
    PolicyRequest,
    RebalanceRequest,
    read_asked,
)
from ollama_dist.api.exchange import Exchange
from ollama_dist.api.operation_reports import render, render_policy
from ollama_dist.api.responses import StreamResponse
from ollama_dist.core.errors import BadRequest
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import ClusterView
from ollama_dist.node.moves import Moves
from ollama_dist.replication.moves.operations import Operation, parse_operation_id

LINES = "application/x-ndjson"


class OperationRoutes:
    """Handlers by the name of their row."""

    def __init__(self, moves: Callable[[], Moves], view: Callable[[], ClusterView]) -> None:
        self._moves = moves
        self._view = view

    async def migrate(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(MigrateRequest, await exchange.json())
        wish = {
            "model": asked.model,
            "to": asked.to,
            "from": asked.source,
            "keep_source": asked.keep_source,
            "load": asked.load,
            "force": asked.force,
        }
        planned = self._moves().plan_migration(wish)
        if asked.dry_run:
            return self._told(exchange, planned, status=200)
        return self._told(exchange, await self._moves().begin(planned, _asker(exchange)), status=202)

    async def rebalance(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(RebalanceRequest, await exchange.json())
        planned = self._moves().plan_rebalance(asked.models)
        if asked.dry_run:
            return self._told(exchange, planned, status=200)
        return self._told(exchange, await self._moves().begin(planned, _asker(exchange)), status=202)

    async def policies(self, exchange: Exchange) -> web.StreamResponse:
        found = sorted(self._moves().shared.policies, key=lambda policy: policy.pattern)
        return exchange.reply_json({"policies": [render_policy(each, self._names()) for each in found]})

    async def policy(self, exchange: Exchange) -> web.StreamResponse:
        found = self._moves().policy(exchange.params["pattern"])
        return exchange.reply_json({"policy": render_policy(found, self._names())})

    async def set_policy(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(PolicyRequest, await exchange.json())
        made = await self._moves().set_policy(exchange.params["pattern"], asked.min, asked.max, asked.pinned)
        return exchange.reply_json({"policy": render_policy(made, self._names())})

    async def remove_policy(self, exchange: Exchange) -> web.StreamResponse:
        await self._moves().remove_policy(exchange.params["pattern"])
        return exchange.reply_json({"removed": exchange.params["pattern"]})

    async def drain(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(NodeNamed, await exchange.json())
        operation = await self._moves().drain(asked.node, _asker(exchange))
        return self._told_or_nothing(exchange, operation)

    async def undrain(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(NodeNamed, await exchange.json())
        return self._told_or_nothing(exchange, await self._moves().undrain(asked.node))

    async def operations(self, exchange: Exchange) -> web.StreamResponse:
        names = self._names()
        found = [render(each, names) for each in await self._moves().operations.all()]
        return exchange.reply_json({"operations": found})

    async def operation(self, exchange: Exchange) -> web.StreamResponse:
        """As it is; with ``stream=true`` a line now and one after each change, until it is over."""
        identifier = parse_operation_id(exchange.params["operation"])
        if not _wants_stream(exchange):
            return self._told(exchange, await self._moves().operations.get(identifier), status=200)
        first = await self._moves().operations.get(identifier)  # what it raises can still be told
        response = StreamResponse(headers={"Content-Type": LINES})
        exchange.mark(response)
        await response.prepare(exchange.full)
        await response.write(self._line(first))
        told = self._line(first)
        if first.finished_at is None:
            async for each in self._moves().operations.watch(identifier):
                line = self._line(each)
                if line != told:
                    await response.write(line)
                told = line
        await response.write_eof()
        return response

    async def cancel(self, exchange: Exchange) -> web.StreamResponse:
        read_asked(Nothing, await exchange.json())
        identifier = parse_operation_id(exchange.params["operation"])
        return self._told(exchange, await self._moves().operations.cancel(identifier), status=200)

    def _told(self, exchange: Exchange, operation: Operation, *, status: int) -> web.StreamResponse:
        return exchange.reply_json({"operation": render(operation, self._names())}, status=status)

    def _told_or_nothing(self, exchange: Exchange, operation: Operation | None) -> web.StreamResponse:
        if operation is None:
            return exchange.reply_json({"operation": None})
        return self._told(exchange, operation, status=202 if operation.finished_at is None else 200)

    def _line(self, operation: Operation) -> bytes:
        return orjson.dumps({"operation": render(operation, self._names())}) + b"\n"

    def _names(self) -> Mapping[NodeId, str]:
        return {node.id: node.name for node in self._view().nodes.values()}


def _asker(exchange: Exchange) -> str:
    return exchange.tenant or "admin"


def _wants_stream(exchange: Exchange) -> bool:
    said: Any = exchange.full.query.get("stream", "false")
    if said not in ("true", "false"):
        raise BadRequest('"stream" must be true or false')
    return bool(said == "true")
