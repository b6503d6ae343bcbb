"""What the cluster has and runs; and the rows that go to this node's own engine or to a model's holder."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import structlog
from aiohttp import web

from ollama_dist.api import union
from ollama_dist.api.exchange import JSON, Exchange
from ollama_dist.api.passthrough import Passthrough, unchanged
from ollama_dist.api.relay import Source
from ollama_dist.api.responses import Header, Response
from ollama_dist.backends.fetch import fetch, get
from ollama_dist.backends.local import LocalEngine
from ollama_dist.backends.poller import installed_models, loaded_models
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import NoCandidate, UpstreamFailed
from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import TRANSFER_NAMESPACE, ModelKey, model_key
from ollama_dist.core.view import ClusterView, NodeView
from ollama_dist.wire import gojson

log = structlog.get_logger()

OWN_TIMEOUT_S: Final = 2.0
"""For this node's own engine to list what it has; then what was last known is listed."""

PEER_TIMEOUT_S: Final = 0.05
"""For a peer to list what it runs; then what it last told by gossip is listed."""

SHOW_TIMEOUT_S: Final = 30.0
BODY_LIMIT: Final = 64 * 2**20

OPENAI_JSON: Final = "application/json"


class Surroundings(Protocol):
    """What the handlers here need of the node."""

    engine: LocalEngine

    def view(self) -> ClusterView: ...

    def target(self, node: NodeId) -> Target | None: ...


class Listing:
    """Handlers of the rows that are not scheduled."""

    def __init__(
        self, node: Surroundings, passthrough: Passthrough, describe: Callable[[], dict[str, Any]]
    ) -> None:
        self._node = node
        self._passthrough = passthrough
        self._describe = describe

    async def root(self, exchange: Exchange) -> web.StreamResponse:
        return exchange.reply(b"Ollama is running", content_type="text/plain; charset=utf-8")

    async def version(self, exchange: Exchange) -> web.StreamResponse:
        """The engine's version, for clients compare it with their own; ours stands beside it."""
        version = self._node.view().me.engine.version or "0.0.0"
        return exchange.reply(gojson.encode({"version": version, "distributed": self._describe()}))

    async def tags(self, exchange: Exchange) -> web.StreamResponse:
        raw = await self._own("/api/tags")
        is_own = raw is not None and TRANSFER_NAMESPACE.encode() not in raw
        if raw is not None and is_own and not _anybody_else_has_models(self._node.view()):
            return exchange.reply(raw)
        view = self._with_own(raw)
        _some_engine(view)
        return exchange.reply(gojson.encode({"models": union.tags(view)}))

    async def v1_models(self, exchange: Exchange) -> web.StreamResponse:
        view = self._with_own(await self._own("/api/tags"))
        _some_engine(view)
        return exchange.reply(gojson.encode_line(union.v1_models(union.tags(view))), content_type=OPENAI_JSON)

    async def ps(self, exchange: Exchange) -> web.StreamResponse:
        view = self._node.view()
        raw = await self._own("/api/ps")
        peers = [peer for peer in view.peers() if peer.can_serve]
        if raw is not None and not peers:
            return exchange.reply(raw)
        _some_engine(view)
        listed = await asyncio.gather(*(self._running_at(peer) for peer in peers))
        own = loaded_models(raw) if raw is not None else view.me.loaded
        rows = [
            (view.me.name, own),
            *((peer.name, loaded) for peer, loaded in zip(peers, listed, strict=True)),
        ]
        merged = union.ps((name, [model.row for model in loaded.values()]) for name, loaded in rows)
        return exchange.reply(gojson.encode({"models": merged}))

    async def holder(self, exchange: Exchange) -> web.StreamResponse:
        """A question about one model: to the own engine if it has it or nobody does, else to who has it."""
        body = await exchange.body()
        view = self._node.view()
        key = _asked_for(exchange, body)
        ids = view.holders.get(key, ()) if key is not None else ()
        if key is None or not ids:
            return await ask(self._own_target(), exchange, body)
        holders = view.serving_holders(key)
        if not holders:
            raise NoCandidate(gone(view, ids))
        if any(node.id == view.self_id for node in holders):
            return await ask(self._own_target(), exchange, body)
        meant = view.content(key, holders)
        return await self._ask([node for node in holders if node.models[key].is_same(meant)], exchange, body)

    async def entry(self, exchange: Exchange) -> web.StreamResponse:
        """A row for this node's own engine."""
        body = await exchange.body() if exchange.route.body_limit is not None else None
        return await self.own_engine(exchange, body)

    async def own_engine(
        self,
        exchange: Exchange,
        body: bytes | None,
        more: Sequence[Header] = (),
        through: Callable[[Source], Source] = unchanged,
    ) -> web.StreamResponse:
        """Answered by the engine here, as `Passthrough.send`. What it changes is looked at again at once."""
        target = self._own_target()
        try:
            origin, path = f"http://{target.authority}", exchange.filled_path()
            return await self._passthrough.send(exchange, origin, path, body, more=more, through=through)
        finally:
            if not exchange.route.idempotent:
                self._node.engine.nudge()

    def _own_target(self) -> Target:
        target = self._node.engine.target
        if target is None:
            raise NoCandidate(f"this node has no engine: {self._node.engine.snapshot.error}")
        return target

    async def _ask(self, holders: Sequence[NodeView], exchange: Exchange, body: bytes) -> web.StreamResponse:
        failures = []
        for node in sorted(holders, key=lambda node: node.load.in_flight):
            target = self._node.target(node.id)
            if target is None:
                continue
            try:
                response = await ask(target, exchange, body)
            except UpstreamFailed as failure:
                failures.append(f"{node.name}: {failure}")
                continue
            response.add("X-Ollama-Node", node.name)
            return response
        raise NoCandidate(f"no node that has it answers ({'; '.join(failures)})")

    async def _own(self, path: str) -> bytes | None:
        """What the own engine lists right now; None when it does not answer: then the last known counts."""
        target = self._node.engine.target
        if target is None:
            return None
        try:
            status, body = await get(target, path, timeout=OWN_TIMEOUT_S, limit=BODY_LIMIT)
        except UpstreamFailed as failure:
            log.info("listing_from_memory", path=path, reason=str(failure))
            return None
        return body if status == 200 else None

    def _with_own(self, raw: bytes | None) -> ClusterView:
        """The view, with the own engine's answer in place of what was last known."""
        view = self._node.view()
        if raw is None:
            return view
        return view.with_node(replace(view.me, models=_parsed(raw, view.me.models)))

    async def _running_at(self, peer: NodeView) -> Mapping[ModelKey, Any]:
        target = self._node.target(peer.id)
        if target is None:
            return peer.loaded
        try:
            status, body = await get(target, "/api/ps", timeout=PEER_TIMEOUT_S, limit=BODY_LIMIT)
            return loaded_models(body) if status == 200 else peer.loaded
        except (UpstreamFailed, ValueError):
            return peer.loaded


async def ask(target: Target, exchange: Exchange, body: bytes) -> Response:
    """The answer of one place to a question about a model, over a connection that is there already."""
    answer = await fetch(
        target,
        exchange.request.method,
        exchange.filled_path(),
        headers=exchange.passed_on(),
        body=body,
        timeout=SHOW_TIMEOUT_S,
        limit=BODY_LIMIT,
    )
    return exchange.reply(answer.body, status=answer.status, content_type=answer.content_type or JSON)


def _parsed(raw: bytes, known: Mapping[ModelKey, Any]) -> Mapping[ModelKey, Any]:
    try:
        return installed_models(raw)
    except ValueError:
        return known


def _anybody_else_has_models(view: ClusterView) -> bool:
    return any(peer.models and peer.can_serve for peer in view.peers())


def _some_engine(view: ClusterView) -> None:
    """Raises `NoCandidate` when no engine of the cluster answers: an empty list would be a lie."""
    if not any(node.can_serve for node in view.nodes.values()):
        raise NoCandidate("no engine answers, on this node or any other")


def _asked_for(exchange: Exchange, body: bytes) -> ModelKey | None:
    """The model in the path or the body; ``name`` counts where ``model`` is empty."""
    if "model" in exchange.params:
        return model_key(exchange.params["model"])
    try:
        fields = gojson.read_object(body)
    except gojson.MalformedJson:
        return None
    text = fields.get("model") or fields.get("name")
    return model_key(text) if isinstance(text, str) else None


def gone(view: ClusterView, holders: Sequence[NodeId]) -> str:
    """Why a model that is known cannot be asked."""
    names = ", ".join(f"{view.nodes[node].name} ({view.nodes[node].state})" for node in holders)
    return f"the model is on {names}, which cannot be reached now"
