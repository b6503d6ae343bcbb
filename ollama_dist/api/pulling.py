"""Pulling a model: onto this node or the one that was named, its bytes from members where they have them.

What a client reads is the progress of the engine that pulls, line by line as that engine writes it. Where
nothing is known that the engine does not know itself, it is handed the request as it came.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from aiohttp import web

from ollama_dist.api.exchange import Exchange
from ollama_dist.api.hearing import HEARD_S, until_heard
from ollama_dist.api.listing import Surroundings
from ollama_dist.api.making import send_on
from ollama_dist.api.passthrough import pass_back
from ollama_dist.api.relay import relay
from ollama_dist.core.errors import DistError, NoCandidate
from ollama_dist.core.names import InvalidModelName, ModelName, Source, parse_model_ref
from ollama_dist.core.view import EngineKind, NodeView
from ollama_dist.replication.intake.copying import OnLine
from ollama_dist.replication.intake.ollama_calls import PullLine
from ollama_dist.replication.pulls.pulling import Plan
from ollama_dist.runtime.tasks import background, end
from ollama_dist.wire import gojson

log = structlog.get_logger()

NDJSON: Final = "application/x-ndjson"
PLAIN_JSON: Final = "application/json"

_MANIFEST: Final = {"status": "pulling manifest"}
_SUCCESS: Final = {"status": "success"}


Tell = Callable[[bytes, str], None]
"""Takes a line, without its end, and the digest of the blob whose progress it tells; empty for others."""


class Puller(Protocol):
    """See `Pulling`."""

    async def find(self, name: ModelName, *, insecure: bool) -> Plan | None: ...

    async def carry_out(self, plan: Plan, on_line: OnLine) -> None: ...


class PullSurroundings(Surroundings, Protocol):
    """What is needed of the node here."""

    @property
    def puller(self) -> Puller | None:
        """None where the engine here takes no models from us."""
        ...

    @property
    def pull_hosts(self) -> Collection[str]:
        """Registries that this node asks itself."""
        ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What a body asks for."""

    name: ModelName
    insecure: bool
    is_streamed: bool


class Pull:
    """The handler, for clients and for members that were asked by name to have it pulled here.

    ``own_engine`` hands a request to this node's own engine.
    """

    def __init__(
        self,
        node: PullSurroundings,
        own_engine: Callable[[Exchange, bytes | None], Awaitable[web.StreamResponse]],
    ) -> None:
        self._node = node
        self._own_engine = own_engine

    async def __call__(self, exchange: Exchange) -> web.StreamResponse:
        """A client's."""
        body = await exchange.body()
        pin = exchange.header("X-Ollama-Node")
        view = self._node.view()
        node = view.find(pin) if pin else view.me
        exchange.headers.append(("X-Ollama-Node", node.name))
        return await (self._here(exchange, body) if node is view.me else self._there(node, exchange, body))

    async def from_member(self, exchange: Exchange) -> web.StreamResponse:
        """It ends here: who asks has looked who is to do it."""
        return await self._here(exchange, await exchange.body())

    async def _here(self, exchange: Exchange, body: bytes) -> web.StreamResponse:
        wish, puller = read_wish(body), self._node.puller
        is_ours = wish is not None and wish.name.host.casefold() in self._node.pull_hosts
        if wish is None or puller is None or not is_ours:
            return await self._own_engine(exchange, body)
        if self._node.view().me.engine.kind is EngineKind.NONE:
            return await self._own_engine(exchange, body)
        plan = await puller.find(wish.name, insecure=wish.insecure)
        if plan is None:
            return await self._own_engine(exchange, body)
        lines = _Lines(lambda tell: self._pull(puller, plan, tell))
        try:
            if wish.is_streamed:
                return await relay(exchange, lines, status=200, headers=[("Content-Type", NDJSON)])
            last = await lines.last()
            status = 500 if b'"error"' in last else 200
            return exchange.reply(last, status=status, content_type=PLAIN_JSON)
        finally:
            await lines.stop()

    async def _pull(self, puller: Puller, plan: Plan, tell: Tell) -> None:
        def on_line(line: PullLine) -> None:
            if line.raw != gojson.encode(_MANIFEST):
                tell(line.raw, line.digest)

        tell(gojson.encode(_MANIFEST), "")
        try:
            await puller.carry_out(plan, on_line)
        except DistError as error:
            log.warning("pull_failed", model=plan.name.short, error=str(error))
            tell(gojson.encode({"error": str(error)}), "")
            return
        self._node.engine.nudge()
        key = plan.name.key
        if not await until_heard(lambda: key in self._node.view().me.models):
            log.info("pulled_but_not_heard_of_yet", model=key, waited_s=HEARD_S)
        tell(gojson.encode(_SUCCESS), "")

    async def _there(self, node: NodeView, exchange: Exchange, body: bytes) -> web.StreamResponse:
        target = self._node.target(node.id) if node.can_serve else None
        if target is None:
            raise NoCandidate(f"node {node.name!r} was asked for by name, but it cannot be asked now")
        connection, head = await send_on(target, exchange, body)
        try:
            return await pass_back(exchange, connection, head)
        finally:
            target.drop(connection)


class _Lines:
    """Lines that ``work`` tells, as a `relay.Source`.

    Of progress nobody has read yet the last counts, and what was said already is not said again.
    """

    def __init__(self, work: Callable[[Tell], Awaitable[None]]) -> None:
        self._unread: deque[tuple[bytes, str]] = deque()
        self._told = asyncio.Event()
        self._task = background(self._run(work), "pull")

    async def more(self) -> bytes:
        while not self._unread:
            if self._task.done():
                self._task.result()
                return b""
            self._told.clear()
            await self._told.wait()
        lines = b"".join(line + b"\n" for line, _ in self._unread)
        self._unread.clear()
        return lines

    async def last(self) -> bytes:
        await asyncio.wait({self._task})
        self._task.result()
        return self._unread[-1][0]

    async def stop(self) -> None:
        await end(self._task)

    async def _run(self, work: Callable[[Tell], Awaitable[None]]) -> None:
        try:
            await work(self._tell)
        finally:
            self._told.set()

    def _tell(self, line: bytes, digest: str) -> None:
        before, about = self._unread[-1] if self._unread else (b"", "")
        if about == digest and (digest or before == line):
            self._unread.pop()
        self._unread.append((line, digest))
        self._told.set()


def read_wish(body: bytes) -> Wish | None:
    """What ``body`` asks for; None where an engine has to say what is wrong, or does it in its own way."""
    try:
        fields = gojson.read_object(body)
    except gojson.MalformedJson:
        return None
    text, insecure, stream = (
        fields.get("model") or fields.get("name"),
        fields.get("insecure"),
        fields.get("stream"),
    )
    if (
        not isinstance(text, str)
        or not isinstance(insecure, bool | None)
        or not isinstance(stream, bool | None)
    ):
        return None
    try:
        name, source = parse_model_ref(text)
    except InvalidModelName:
        return None
    if source is not Source.ANY or name.is_transfer:
        return None
    return Wish(name, bool(insecure), stream is not False)
