"""The routes we add: what the cluster is, why requests went where they did, and the operator's switches."""

from typing import Any, Final, Protocol

import orjson
from aiohttp import web

from ollama_dist.api import reports
from ollama_dist.api.asked import (
    FallbackChange,
    InviteRequest,
    JoinRequest,
    MaybeNode,
    ModeChange,
    NodeNamed,
    Nothing,
    RotateRequest,
    read_asked,
)
from ollama_dist.api.exchange import Exchange
from ollama_dist.core.errors import BadRequest, NotFound
from ollama_dist.core.view import ClusterView
from ollama_dist.node.dispatch import Dispatcher
from ollama_dist.node.modes import Switches
from ollama_dist.node.moves import Moves
from ollama_dist.node.reports import Problem, SelfReport

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format (exposition_formats.md of its documentation)."""

DECISIONS_SHOWN: Final = 100
DECISIONS_LIMIT: Final = 1000


class Shown(Protocol):
    """What is shown of the node, and turned at it."""

    dispatcher: Dispatcher
    switches: Switches
    moves: Moves

    def view(self) -> ClusterView: ...


class Operating(Protocol):
    """What is done for operators."""

    def report(self) -> SelfReport: ...

    def problems(self) -> list[Problem]: ...

    def seen_clusters(self) -> list[tuple[str, tuple[str, ...]]]: ...

    def statistics(self) -> dict[str, Any]: ...

    def metrics(self) -> bytes: ...

    async def invite(self, lifetime_s: float) -> dict[str, Any]: ...

    async def join(self, code: str, *, replace_cluster: bool) -> dict[str, Any]: ...

    async def leave(self) -> dict[str, Any]: ...

    async def rotate(self, overlap_s: float) -> dict[str, Any]: ...

    async def revoke(self, name: str) -> dict[str, Any]: ...

    async def forget(self, name: str) -> dict[str, Any]: ...

    async def scrub_at(self, name: str | None, *, begin: bool) -> Any: ...


class OwnRoutes:
    """Handlers by the name of their row."""

    def __init__(self, node: Shown, operator: Operating) -> None:
        self._node = node
        self._operator = operator

    async def healthz(self, exchange: Exchange) -> web.StreamResponse:
        """200 as long as this process answers; what it can do is a matter for ``status``."""
        return exchange.reply_json({"status": "ok"})

    async def status(self, exchange: Exchange) -> web.StreamResponse:
        view, operator = self._node.view(), self._operator
        return exchange.reply_json(
            reports.status(view, operator.report(), operator.problems(), operator.seen_clusters())
        )

    async def nodes(self, exchange: Exchange) -> web.StreamResponse:
        return exchange.reply_json(reports.nodes(self._node.view()))

    async def models(self, exchange: Exchange) -> web.StreamResponse:
        return exchange.reply_json(reports.models(self._node.view(), self._node.moves.placing()))

    async def decisions(self, exchange: Exchange) -> web.StreamResponse:
        """The newest first; ``model``, ``node`` (the winner) and ``outcome`` narrow it, ``limit`` cuts it."""
        query = exchange.full.query
        limit = _limit(query.get("limit"))
        wanted = {name: query[name] for name in ("model", "node", "outcome") if name in query}
        found: list[dict[str, Any]] = []
        for record in self._node.dispatcher.decisions.newest():
            rendered = record.render()
            if _matches(rendered, wanted):
                found.append(rendered)
            if len(found) == limit:
                break
        return exchange.reply_json({"decisions": found})

    async def decision(self, exchange: Exchange) -> web.StreamResponse:
        record = self._node.dispatcher.decisions.get(exchange.params["id"])
        if record is None:
            raise NotFound("no decision about a request with this id is remembered")
        return exchange.reply_json({"decisions": [record.render()]})

    async def invite(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(InviteRequest, await exchange.json())
        return exchange.reply_json(await self._operator.invite(asked.lifetime_s))

    async def join(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(JoinRequest, await exchange.json())
        return exchange.reply_json(await self._operator.join(asked.code, replace_cluster=asked.replace))

    async def leave(self, exchange: Exchange) -> web.StreamResponse:
        read_asked(Nothing, await exchange.json())
        return exchange.reply_json(await self._operator.leave())

    async def rotate(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(RotateRequest, await exchange.json())
        return exchange.reply_json(await self._operator.rotate(asked.overlap_s))

    async def revoke(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(NodeNamed, await exchange.json())
        return exchange.reply_json(await self._operator.revoke(asked.node))

    async def forget(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(NodeNamed, await exchange.json())
        return exchange.reply_json(await self._operator.forget(asked.node))

    async def scrub(self, exchange: Exchange) -> web.StreamResponse:
        name = exchange.full.query.get("node")
        return exchange.reply_json(await self._operator.scrub_at(name, begin=False))

    async def begin_scrub(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(MaybeNode, await exchange.json())
        return exchange.reply_json(await self._operator.scrub_at(asked.node, begin=True))

    async def mode(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(ModeChange, await exchange.json())
        previous = self._node.switches.mode
        self._node.switches = self._node.switches.with_mode(asked.mode)
        return exchange.reply_json({"mode": asked.mode, "previous": previous})

    async def fallback(self, exchange: Exchange) -> web.StreamResponse:
        asked = read_asked(FallbackChange, await exchange.json())
        self._node.switches = self._node.switches.with_fallback(asked.enabled)
        return exchange.reply_json({"fallback": asked.enabled})

    async def stats(self, exchange: Exchange) -> web.StreamResponse:
        body = orjson.dumps(self._operator.statistics(), option=orjson.OPT_NON_STR_KEYS)
        return exchange.reply(body)

    async def metrics(self, exchange: Exchange) -> web.StreamResponse:
        """The same, and members and problems, as Prometheus reads it."""
        return exchange.reply(self._operator.metrics(), content_type=METRICS_TYPE)


def _limit(text: str | None) -> int:
    if text is None:
        return DECISIONS_SHOWN
    if not text.isdigit() or not 0 < int(text) <= DECISIONS_LIMIT:
        raise BadRequest(f'"limit" must be a number from 1 to {DECISIONS_LIMIT}')
    return int(text)


def _matches(rendered: dict[str, Any], wanted: dict[str, str]) -> bool:
    outcome = rendered["outcome"] or {}
    held = {"model": rendered["model"], "node": rendered["winner"], "outcome": outcome.get("result", "")}
    return all(held[name] == value for name, value in wanted.items())
