"""Making a model of another one and bringing a model to a registry: where the model is that it begins with.

Either may take hours and tells how far it is meanwhile: its lines pass as they come, and only silence is
bounded. What was sent to a node is not sent to another one: it may have been begun.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from aiohttp import web

from ollama_dist.api.exchange import Exchange
from ollama_dist.api.hearing import HEARD_S, until_heard
from ollama_dist.api.listing import Surroundings, gone
from ollama_dist.api.passthrough import SILENCE_S, pass_back, unchanged
from ollama_dist.api.relay import Source
from ollama_dist.api.responses import Header
from ollama_dist.backends.http1 import Connection, Head
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import BadRequest, ModelNotFound, NoCandidate, UpstreamFailed
from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey, model_key
from ollama_dist.core.view import ClusterView, EngineKind, NodeView
from ollama_dist.wire import gojson
from ollama_dist.wire.relay_headers import REFUSAL, REQUEST_ID

log = structlog.get_logger()

GIVEN_FIELDS: Final = ("files", "adapters", "draft_files")
"""What a model is made of that was given to the engine here before."""

_SUCCESS: Final = b'"success"'
"""In the last line of what went well, and the whole answer where it is not streamed."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a body asks for; nothing of it where an engine has to say what is wrong."""

    source: ModelKey | None = None
    """The model it begins with."""
    made: ModelKey | None = None
    """The model there will be."""
    is_bound: bool = False
    """It needs something that only the engine of the node that was asked has."""


class OwnEngine(Protocol):
    """Hands a request to this node's own engine; see `Listing.own_engine`."""

    def __call__(
        self,
        exchange: Exchange,
        body: bytes | None,
        more: Sequence[Header] = ...,
        through: Callable[[Source], Source] = ...,
    ) -> Awaitable[web.StreamResponse]: ...


class Making:
    """The handler."""

    def __init__(self, node: Surroundings, own_engine: OwnEngine) -> None:
        self._node = node
        self._own_engine = own_engine

    async def __call__(self, exchange: Exchange) -> web.StreamResponse:
        body = await exchange.body()
        view = self._node.view()
        wish = read_wish(exchange.route.path, body)
        nodes = places(view, wish, exchange.header("X-Ollama-Node") or None)
        if nodes[0].id == view.self_id:
            return await self._here(nodes[0], wish, exchange, body)
        failures = []
        for node in nodes:
            target = self._node.target(node.id)
            if target is None:
                failures.append(f"{node.name} has no known address")
                continue
            try:
                connection, head = await send_on(target, exchange, body)
            except UpstreamFailed as failure:
                if failure.is_sent:
                    raise
                failures.append(f"{node.name}: {failure}")
                continue
            try:
                if head.get(REFUSAL) is None:
                    return await self._relay(node, wish, exchange, connection, head)
                failures.append(f"{node.name} refused")
            finally:
                target.drop(connection)
        raise NoCandidate(f"no node that has it takes it ({'; '.join(failures)})")

    async def _here(self, me: NodeView, wish: Wish, exchange: Exchange, body: bytes) -> web.StreamResponse:
        through = self._held_back(me, wish, self._node.engine.nudge)
        return await self._own_engine(exchange, body, [("X-Ollama-Node", me.name)], through)

    async def _relay(
        self, node: NodeView, wish: Wish, exchange: Exchange, connection: Connection, head: Head
    ) -> web.StreamResponse:
        more = [("X-Ollama-Node", node.name)]
        return await pass_back(exchange, connection, head, more=more, through=self._held_back(node, wish))

    def _held_back(
        self, node: NodeView, wish: Wish, hurry: Callable[[], None] = lambda: None
    ) -> Callable[[Source], Source]:
        """Success is told when this node has heard of it. ``hurry`` makes that soon."""
        made = wish.made
        if made is None:
            return unchanged
        before = node.models.get(made)

        async def heard() -> None:
            hurry()
            if not await until_heard(lambda: _is_new(self._node.view(), node.id, made, before)):
                log.info("made_but_not_heard_of_yet", model=made, node=node.name, waited_s=HEARD_S)

        return lambda source: HeldBack(source, heard)


class HeldBack:
    """Passes on what ``source`` gives, but what tells of success only after ``heard``."""

    def __init__(self, source: Source, heard: Callable[[], Awaitable[None]]) -> None:
        self._source = source
        self._heard = heard
        self._before = b""

    async def more(self) -> bytes:
        data = await self._source.more()
        if _SUCCESS in self._before + data:
            await self._heard()
        self._before = (self._before + data)[1 - len(_SUCCESS) :]
        return data


async def send_on(target: Target, exchange: Exchange, body: bytes) -> tuple[Connection, Head]:
    """Have another node do it; whoever opened the connection drops it. Raises `UpstreamFailed`."""
    return await target.open(
        exchange.request.method,
        exchange.filled_path(),
        [*exchange.passed_on(), (REQUEST_ID, str(exchange.id))],
        body,
        head_timeout=SILENCE_S,
        is_fresh=True,
    )


# What is asked for, and where it can be done


def read_wish(path: str, body: bytes) -> Wish:
    """What the body of a create or a push asks for."""
    try:
        fields = gojson.read_object(body)
    except gojson.MalformedJson:
        return Wish()
    named = _key(fields.get("model") or fields.get("name"))
    if path == "/api/push":
        return Wish(source=named)
    is_elsewhere = bool(fields.get("remote_host"))  # then ``from`` names a model of that host
    is_bound = is_elsewhere or any(fields.get(name) for name in GIVEN_FIELDS)
    return Wish(_key(fields.get("from")), named, is_bound)


def places(view: ClusterView, wish: Wish, pin: str | None) -> list[NodeView]:
    """The nodes where it can be done, the best first. This one alone, if it can or if nobody is known to.

    Raises `NoCandidate`, and for pins `NodeNotFound`, `ModelNotFound` or `BadRequest`.
    """
    if pin is not None:
        return [_pinned(view, wish, view.find(pin))]
    ids = view.holders.get(wish.source, ()) if wish.source is not None else ()
    if wish.source is None or not ids or wish.is_bound:
        return [view.me]
    holders = view.serving_holders(wish.source)
    if not holders:
        raise NoCandidate(gone(view, ids))
    able = [node for node in holders if node.engine.kind is EngineKind.OLLAMA] or holders
    meant = view.content(wish.source, able)
    if any(node.id == view.self_id for node in able):
        return [view.me]
    fitting = [node for node in able if node.models[wish.source].is_same(meant)]
    return sorted(fitting, key=lambda node: (node.draining, node.load.in_flight))


def _pinned(view: ClusterView, wish: Wish, node: NodeView) -> NodeView:
    asked = f"node {node.name!r} was asked for by name, but"
    if wish.is_bound and node.id != view.self_id:
        raise BadRequest(f"{asked} what the model is made of was given to {view.me.name!r}")
    if not node.can_serve:
        raise NoCandidate(f"{asked} it cannot be asked now")
    if wish.source in view.holders and wish.source not in node.models:
        raise ModelNotFound(f"{asked} it does not have the model")
    return node


def _is_new(view: ClusterView, node: NodeId, made: ModelKey, before: object) -> bool:
    """Whether ``node`` shows the model, and not as it was before it was made."""
    known = view.nodes.get(node)
    return known is not None and known.models.get(made) not in (None, before)


def _key(text: object) -> ModelKey | None:
    return model_key(text) if isinstance(text, str) and text else None
