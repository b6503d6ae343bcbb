"""What members may ask of this node: to serve a request here, to say what it has and runs, and to give it.

A request that comes in here is never sent on: the node that sent it decides again when it is refused.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import structlog
from aiohttp import web

from ollama_dist.api.changes import read_change
from ollama_dist.api.exchange import JSON, Exchange
from ollama_dist.api.front import Handler
from ollama_dist.api.giving import Giving
from ollama_dist.api.heads import Incoming, Request, RequestHead
from ollama_dist.api.inference import priority_of, whole, wishes_of
from ollama_dist.api.lending import Lends, LoanGiving
from ollama_dist.api.listing import ask
from ollama_dist.api.passthrough import Passthrough
from ollama_dist.api.peer_operations import PEER_OPERATION_ROUTES, PeerOperations
from ollama_dist.api.pulling import Pull, PullSurroundings
from ollama_dist.api.relay import relay
from ollama_dist.api.responses import Response
from ollama_dist.api.routes import OLLAMA_ROUTES, REPLICATION_ROUTES, Route, Where
from ollama_dist.api.table import Found, Matched, RouteTable
from ollama_dist.api.turns import TurnGiving
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import Busy, DistError, NoCandidate, Unauthorized, UpstreamFailed
from ollama_dist.core.ids import NodeId, RequestId, is_request_id
from ollama_dist.core.outcomes import Result
from ollama_dist.core.scopes import Scope
from ollama_dist.node.answers import AttemptFailed
from ollama_dist.node.dispatch import Dispatcher
from ollama_dist.node.logs import log_with
from ollama_dist.node.moves import Moves
from ollama_dist.node.node import NodeOptions
from ollama_dist.replication.disk.giving import Giver
from ollama_dist.replication.moves.doing import Pinned
from ollama_dist.replication.pulls.turns import Turns
from ollama_dist.wire.inspection import inspect
from ollama_dist.wire.places import HEADER, write_place
from ollama_dist.wire.relay_headers import PRIORITY, REFUSAL

log = structlog.get_logger()

_SENT_ON: Final = (Where.SCHEDULED, Where.HOLDER, Where.SOURCE, Where.HOLDERS, Where.PULL)

PEER_ROUTES: Final = (
    *(route for route in OLLAMA_ROUTES if route.where in _SENT_ON),
    *PEER_OPERATION_ROUTES,
    *REPLICATION_ROUTES,
    Route("GET", "/api/ps", Where.ENTRY, Scope.MODELS_READ),
)
"""Inference, questions about a model, its bytes, and whatever is done with one."""


class Home(PullSurroundings, Protocol):
    """What is needed of the node here."""

    dispatcher: Dispatcher
    options: NodeOptions
    moves: Moves

    def scrub(self, *, begin: bool) -> dict[str, Any]: ...

    @property
    def giver(self) -> Giver: ...

    @property
    def turns(self) -> Turns: ...

    @property
    def lender(self) -> Lends | None: ...


class PeerListener:
    """The handler of the node listener.

    ``admit`` says which member is on the other side, None
    where there is no telling, and raises unless it is one.
    """

    names_requests: Final = True

    def __init__(
        self,
        node: Home,
        passthrough: Passthrough,
        admit: Callable[[Incoming], NodeId | None],
    ) -> None:
        self._node = node
        self._passthrough = passthrough
        self._admit = admit
        self._table = RouteTable(PEER_ROUTES)
        giving = Giving(lambda: node.giver)
        turns, loans = TurnGiving(node.turns, node.view), LoanGiving(lambda: node.lender)
        self._handlers: dict[str, Handler] = {
            route.name: getattr(holder, route.name)
            for holder in (giving, turns, loans)
            for route in REPLICATION_ROUTES
            if hasattr(holder, route.name)
        }
        asked = PeerOperations(lambda: node)
        self._handlers |= {route.name: getattr(asked, route.name) for route in PEER_OPERATION_ROUTES}
        self._pull = Pull(node, self._own_engine)

    def __call__(self, request: Request) -> Awaitable[web.StreamResponse]:
        return self.answer(request, self._table.find(request.method, request.raw_path))

    def find(self, method: str, target: str, _head: RequestHead) -> Matched | None:
        """The row of a request that wants no more of it than an answer to its head and body."""
        found = self._table.find(method, target)
        return found if isinstance(found, Matched) and found.route.is_plain else None

    async def answer(self, request: Incoming, found: Found) -> web.StreamResponse:
        """Answer ``request``, whose row was looked for before."""
        route = found.route if isinstance(found, Matched) else PEER_ROUTES[-1]
        request_id = RequestId(request.name if is_request_id(request.name) else "0" * 24)
        exchange = Exchange(
            request, route, request_id, [], found.params if isinstance(found, Matched) else {}
        )
        log_with(request_id)
        try:
            exchange.tenant = self._admit(request) or ""
            if not isinstance(found, Matched):
                return exchange.reply(b"404 page not found", status=404, content_type="text/plain")
            if route.where is Where.HERE:
                return await self._handlers[route.name](exchange)
            if route.where is Where.PULL:
                return await self._pull.from_member(exchange)
            if route.where is Where.SCHEDULED:
                return await self._serve(exchange)
            if route.where is Where.HOLDER:
                return await ask(self._own_target(), exchange, await exchange.body())
            return await self._ask_engine(exchange)
        except AttemptFailed as failed:
            return _refuse(exchange, failed)
        except Unauthorized as stranger:
            log.warning("stranger_refused", reason=str(stranger))
            return _refuse(exchange, AttemptFailed(Result.REFUSED, str(stranger)))
        except DistError as error:
            return _excuse(exchange, error)

    async def _serve(self, exchange: Exchange) -> web.StreamResponse:
        body = await exchange.body()
        wishes = wishes_of(exchange.request.head)
        priority = priority_of(exchange.header(PRIORITY))
        request = inspect(
            exchange.route.path,
            body,
            encoding=wishes.encoding,
            content_type=wishes.content_type,
            request_id=exchange.id,
            priority=priority,
        )
        on_place = exchange.tell_place if wishes.wants_place else None
        serving = self._node.dispatcher.serve_peer(request, exchange.passed_on(), body, on_place)
        del body  # it may be long, and so may the answer last
        async with serving as (answer, waited):
            headers = answer.headers
            if on_place is not None:
                headers += ((HEADER, write_place(waited.place, waited.waited_s)),)
            if answer.is_whole:
                return whole(exchange, answer.status, answer.first, headers)
            return await relay(
                exchange,
                answer,
                status=answer.status,
                headers=headers,
                first=answer.first,
                explain=False,
                splice=self._node.options.splice,
            )

    async def _ask_engine(self, exchange: Exchange) -> web.StreamResponse:
        body = await exchange.body()
        change = read_change(exchange.route.path, body) if exchange.route.where is Where.HOLDERS else None
        me = self._node.view().self_id
        if change and change.is_deletion and self._node.moves.is_pinned(me, change.model):
            raise Pinned(f"{change.model} is pinned here")
        return await self._own_engine(exchange, body)

    def _own_target(self) -> Target:
        target = self._node.engine.target
        if target is None:
            raise NoCandidate("this node has no engine")
        return target

    async def _own_engine(self, exchange: Exchange, body: bytes | None) -> web.StreamResponse:
        target, path = self._own_target(), exchange.filled_path()
        try:
            origin = f"http://{target.authority}"
            return await self._passthrough.send(exchange, origin, path, body, explain=False)
        finally:
            if not exchange.route.idempotent:
                self._node.engine.nudge()


def _excuse(exchange: Exchange, error: DistError) -> Response:
    """Tell of ``error``, and where the engine has seen nothing of the request, that another may take it."""
    response = exchange.failure(error)
    if isinstance(error, NoCandidate) or (isinstance(error, UpstreamFailed) and not error.is_sent):
        response.add(REFUSAL, Result.REFUSED)
    return response


def _refuse(exchange: Exchange, failed: AttemptFailed) -> Response:
    """Say why the request was not served here: in the engine's own words, else in the caller's dialect."""
    said = failed.said
    if said is not None:
        content_type = dict(said.headers).get("Content-Type", JSON)
        response = exchange.reply(said.first, status=said.status, content_type=content_type)
    else:
        response = exchange.failure(Busy(str(failed)) if failed.result is Result.BUSY else failed)
    response.add(REFUSAL, failed.result)
    return response
