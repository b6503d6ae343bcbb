"""Copying and deleting a model: on every node that has it, as if there were one Ollama, or on the one named.

All are asked at once and all are told of: what worked on one node and failed on another is an error that says
so. Afterwards this node waits a moment until it has heard of the change itself, so that what its client lists
next is what it has just made (read after write).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from aiohttp import web

from ollama_dist.api.exchange import JSON, Exchange
from ollama_dist.api.hearing import HEARD_S, until_heard
from ollama_dist.api.listing import Surroundings
from ollama_dist.backends.fetch import fetch
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import ModelNotFound, NoCandidate, UpstreamFailed
from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey, model_key
from ollama_dist.core.view import ClusterView, NodeView
from ollama_dist.node.moves import Moves
from ollama_dist.wire import gojson

log = structlog.get_logger()

CHANGE_S: Final = 60.0
"""For one engine to copy or delete a model: files are removed, nothing is moved."""

ANSWER_LIMIT: Final = 2**20


@dataclass(frozen=True, slots=True)
class Told:
    """What became of the change on one node."""

    node: str
    status: int
    body: bytes
    """The engine's answer, or why there is none, in Ollama's form."""
    content_type: str = JSON
    was_told: bool = True

    @property
    def is_done(self) -> bool:
        return self.status == 200


class ChangeSurroundings(Surroundings, Protocol):
    """What is needed of the node here."""

    moves: Moves


class Changes:
    """The handler. ``alone`` hands a request to this node's own engine, as any Ollama would take it."""

    def __init__(
        self, node: ChangeSurroundings, alone: Callable[[Exchange, bytes], Awaitable[web.StreamResponse]]
    ) -> None:
        self._node = node
        self._alone = alone

    async def __call__(self, exchange: Exchange) -> web.StreamResponse:
        body = await exchange.body()
        view = self._node.view()
        change = read_change(exchange.route.path, body)
        pin = exchange.header("X-Ollama-Node")
        if pin and change is not None:
            return await self._on_one(view.find(pin), change, exchange, body)
        holders = view.serving_holders(change.model) if change and change.model in view.holders else []
        kept = self._pinned(change, holders)
        everywhere = view.holders.get(change.model, ()) if change else ()
        if change is not None and change.is_deletion and everywhere and not holders:
            return await self._remember(change, exchange)
        if change is None or not holders or (not kept and set(everywhere) == {view.self_id}):
            return await self._alone(exchange, body)
        holders = sorted(holders, key=lambda node: (node.id != view.self_id, node.name))
        told = await asyncio.gather(
            *(self._tell(node, exchange, body) for node in holders if node.id not in kept)
        )
        told = [*told, *kept.values()]
        self._node.engine.nudge()
        if change.is_deletion and any(each.is_done for each in told):
            heard = [node.id for node in holders if node.id in kept or _answered(told, node)]
            away = await self._node.moves.missed.note(change.model, heard)
            log.info("deletion", model=change.model, away=away)
        if any(each.is_done for each in told):
            done = {each.node for each in told if each.is_done}
            changed = [node for node in holders if node.name in done]
            if not await until_heard(lambda: change.is_visible(self._node.view(), changed)):
                log.info("change_not_heard_of_yet", model=change.model, waited_s=HEARD_S)
        status, answer, content_type = verdict(told, is_deletion=change.is_deletion)
        response = exchange.reply(answer, status=status, content_type=content_type)
        response.add("X-Ollama-Node", ", ".join(each.node for each in told if each.is_done))
        return response

    async def _remember(self, change: "Change", exchange: Exchange) -> web.StreamResponse:
        """Nobody who has it can be told now: they delete it when they are back."""
        away = await self._node.moves.missed.note(change.model, ())
        if not away:
            raise NoCandidate(
                "no node that has it can be reached, and for later it could not be written down"
            )
        text = (
            f"none of those that have it can be reached; it is deleted when they are back: {', '.join(away)}"
        )
        return exchange.reply(gojson.encode({"status": text}), status=202)

    async def _on_one(
        self, node: NodeView, change: "Change", exchange: Exchange, body: bytes
    ) -> web.StreamResponse:
        """On the node that is named, and no other."""
        if node not in self._node.view().serving_holders(change.model):
            raise ModelNotFound(f"{node.name} does not have that model, or cannot be reached")
        if change.is_deletion:
            await self._node.moves.remove(change.model, node.name, exchange.tenant or "client", CHANGE_S)
            told = Told(node.name, 200, b"")
        else:
            told = await self._tell(node, exchange, body)
        self._node.engine.nudge()
        if told.is_done and not await until_heard(lambda: change.is_visible(self._node.view(), [node])):
            log.info("change_not_heard_of_yet", model=change.model, waited_s=HEARD_S)
        status, answer, content_type = verdict([told], is_deletion=change.is_deletion)
        exchange.headers.append(("X-Ollama-Node", node.name))
        return exchange.reply(answer, status=status, content_type=content_type)

    def _pinned(self, change: "Change | None", holders: Sequence[NodeView]) -> dict[NodeId, Told]:
        """Who keeps what is to be deleted, and what is said for them."""
        if change is None or not change.is_deletion:
            return {}
        return {
            node.id: _refused(node.name, change.model)
            for node in holders
            if self._node.moves.is_pinned(node.id, change.model)
        }

    async def _tell(self, node: NodeView, exchange: Exchange, body: bytes) -> Told:
        target: Target | None = (
            self._node.engine.target if node.id == self._node.view().self_id else self._node.target(node.id)
        )
        if target is None:
            return _untold(node, "cannot be reached")
        try:
            answer = await fetch(
                target,
                exchange.request.method,
                exchange.route.path,
                headers=exchange.passed_on(),
                body=body,
                timeout=CHANGE_S,
                limit=ANSWER_LIMIT,
            )
        except UpstreamFailed as failure:
            log.warning("change_not_told", route=exchange.route.path, node=node.name, error=str(failure))
            return _untold(node, str(failure))
        return Told(node.name, answer.status, answer.body, answer.content_type or JSON)


@dataclass(frozen=True, slots=True)
class Change:
    """A copy, or a deletion where there is no destination."""

    model: ModelKey
    destination: ModelKey | None = None

    @property
    def is_deletion(self) -> bool:
        return self.destination is None

    def is_visible(self, view: ClusterView, nodes: Sequence[NodeView]) -> bool:
        """Whether ``view`` shows it on all of ``nodes``."""
        known = [view.nodes[node.id].models for node in nodes if node.id in view.nodes]
        if self.destination is None:
            return not any(self.model in models for models in known)
        return all(self.destination in models for models in known)


def read_change(path: str, body: bytes) -> Change | None:
    """What a body asks for; None when an engine has to say what is wrong with it."""
    try:
        fields = gojson.read_object(body)
    except gojson.MalformedJson:
        return None
    is_copy = path == "/api/copy"
    model = _key(fields.get("source") if is_copy else fields.get("model") or fields.get("name"))
    destination = _key(fields.get("destination")) if is_copy else None
    if model is None or (is_copy and destination is None):
        return None
    return Change(model, destination)


def verdict(told: Sequence[Told], *, is_deletion: bool) -> tuple[int, bytes, str | None]:
    """Status, body and content type of the answer to the client."""
    done = [each.node for each in told if each.is_done]
    # Deleted there already, by somebody who was faster: as good as done now.
    failed = [each for each in told if not (each.is_done or (done and is_deletion and each.status == 404))]
    if not failed:
        return 200, b"", None
    if not done:
        first = failed[0]
        return first.status, first.body, first.content_type
    why = "; ".join(f"{each.node}: {_error_of(each.body).removeprefix(each.node + ' ')}" for each in failed)
    text = f"done on {', '.join(done)}, but not everywhere: {why}"
    return 502, gojson.encode({"error": text}), JSON


def _key(text: object) -> ModelKey | None:
    return model_key(text) if isinstance(text, str) and text else None


def _answered(told: Sequence[Told], node: NodeView) -> bool:
    return any(each.node == node.name and each.was_told for each in told)


def _refused(node: str, model: ModelKey) -> Told:
    text = f"{node} keeps {model}: it is pinned there (ollama-dist policy list)"
    return Told(node, 409, gojson.encode({"error": text}))


def _untold(node: NodeView, why: str) -> Told:
    text = f"{node.name} could not be told: {why}"
    return Told(node.name, 502, gojson.encode({"error": text}), was_told=False)


def _error_of(body: bytes) -> str:
    try:
        said = gojson.read_object(body).get("error")
    except gojson.MalformedJson:
        said = None
    return said if isinstance(said, str) else body.decode("utf-8", "replace").strip()[:200]
