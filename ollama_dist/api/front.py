"""The public listener's handler: from a request line to whatever answers it.

In order: browser guard, redirects, route table, key, then the row's own handler. Whatever goes wrong on the
way ends here and is told in the caller's dialect.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final

import structlog
from aiohttp import web

from ollama_dist.api.auth import Authorizer
from ollama_dist.api.exchange import Exchange
from ollama_dist.api.guard import Guard, Judgement, Verdict
from ollama_dist.api.heads import HEADS_KEPT, Incoming, Request, RequestHead
from ollama_dist.api.responses import Header, Response, refused
from ollama_dist.api.routes import Route, Where
from ollama_dist.api.shares import Shares
from ollama_dist.api.table import Elsewhere, Found, Matched, RouteTable, WrongMethod
from ollama_dist.core.errors import DistError, Forbidden
from ollama_dist.core.ids import RequestId, new_request_ids
from ollama_dist.core.scopes import Scope
from ollama_dist.node.logs import log_with

log = structlog.get_logger()

Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]

_PLAIN: Final = "text/plain"
_IDS_AT_ONCE: Final = 64
_REDIRECTS: Final = {301: "Moved Permanently", 307: "Temporary Redirect"}


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """A row with what its path says, who answers it, and what the answers say for the guard."""

    route: Route
    params: Mapping[str, str]
    handler: Handler
    headers: tuple[Header, ...]


class Internal(DistError):
    """A mistake of ours. Its particulars are in the log, under the request's id."""


class Front:
    """Answers requests. ``handlers`` has one for each row, by `Route.name` where it has one, else by `Where`.

    ``standing`` gives the headers that every answer carries.
    """

    names_requests: Final = False

    def __init__(
        self,
        routes: Iterable[Route],
        handlers: Mapping[str, Handler],
        *,
        guard: Guard,
        authorizer: Authorizer,
        standing: Callable[[], tuple[Header, ...]],
        rng: Random,
    ) -> None:
        rows = list(routes)
        self._table = RouteTable(rows)
        self._handlers = {route.key: handlers[route.name or route.where] for route in rows}
        self._guard = guard
        self._judged = lru_cache(maxsize=HEADS_KEPT)(self._judge)
        self._authorizer = authorizer
        self._shares = Shares()
        self._standing = standing
        self._rng = rng
        self._ids: list[RequestId] = []

    def __call__(self, request: Request) -> Awaitable[web.StreamResponse]:
        head = request.head
        judge = self._judged if head.is_remembered else self._judge
        found, verdict = judge(request.method, request.raw_path, head)
        request_id = self._new_id()
        if not isinstance(found, Matched) or verdict.judgement is not Judgement.PASS:
            return self._turned_away(request, request_id, found, verdict)
        return self._let_in(request, request_id, self._way(found, verdict))

    def find(self, method: str, target: str, head: RequestHead) -> Way | None:
        """The way of a request that wants no more of its row than an answer to its head and body."""
        found, verdict = self._judge(method, target, head)
        if not isinstance(found, Matched) or verdict.judgement is not Judgement.PASS:
            return None
        return self._way(found, verdict) if found.route.is_plain else None

    def _way(self, found: Matched, verdict: Verdict) -> Way:
        return Way(found.route, found.params, self._handlers[found.route.key], verdict.headers)

    def answer(self, request: Incoming, way: Way) -> Awaitable[web.StreamResponse]:
        """Answer ``request``, whose way was found before."""
        return self._let_in(request, self._new_id(), way)

    def _new_id(self) -> RequestId:
        """Made in numbers: what is random comes from the system, which is asked seldom."""
        if not self._ids:
            self._ids = new_request_ids(self._rng, _IDS_AT_ONCE)
        return self._ids.pop()

    def _let_in(self, request: Incoming, request_id: RequestId, way: Way) -> Awaitable[web.StreamResponse]:
        log_with(request_id)
        standing, own = way.headers + self._standing(), ("X-Request-ID", request_id)
        exchange = Exchange(request, way.route, request_id, [own], way.params, "", standing)
        return self._answer(exchange, way.handler)

    async def _turned_away(
        self, request: Request, request_id: RequestId, found: Found, verdict: Verdict
    ) -> web.StreamResponse:
        """The answer to what leads nowhere, or may not go there."""
        if verdict.judgement is Judgement.BAD_HOST:
            return refused(400)
        if isinstance(found, Elsewhere) and verdict.judgement is Judgement.PASS:
            return _redirect(request, found)
        route = found.route if isinstance(found, Matched) else _UNKNOWN
        exchange = Exchange(request, route, request_id, [*verdict.headers])
        if isinstance(found, WrongMethod):
            exchange.headers.append(("Allow", found.allow))
        if verdict.judgement is not Judgement.PASS:
            return _excluded(exchange, verdict)
        exchange.headers += (("X-Request-ID", request_id), *self._standing())
        if isinstance(found, WrongMethod):
            return exchange.reply(b"405 method not allowed", status=405, content_type=_PLAIN)
        return exchange.reply(b"404 page not found", status=404, content_type=_PLAIN)

    def _judge(self, method: str, target: str, head: RequestHead) -> tuple[Found, Verdict]:
        """Where a request leads, and whether it may go there."""
        host, site = head.values.get("host"), head.get("sec-fetch-site")
        verdict = self._guard.judge(method, host, head.origin, target=target, site=site)
        return self._table.find(method, target), verdict

    async def _answer(self, exchange: Exchange, handler: Handler) -> web.StreamResponse:
        try:
            route = exchange.route
            caller = self._authorizer.admit(route.scope, route.dialect, exchange.request)
            exchange.tenant = caller.tenant
            if caller.share is None:
                return await handler(exchange)
            with self._shares.taken(caller, time.monotonic()):
                return await handler(exchange)
        except DistError as error:
            return exchange.failure(error)
        except ConnectionError:
            raise  # the client left while it was being written to
        except Exception:
            log.exception("request_failed", route=exchange.route.key)
            return exchange.failure(Internal("something went wrong inside this node; see its log"))


_UNKNOWN: Final = Route("", "", Where.HERE, Scope.PUBLIC)
"""Stands for the row of a request that leads to none."""


def _redirect(request: web.BaseRequest, found: Elsewhere) -> Response:
    """As Go's ``http.Redirect``: with a link for those who fetch it, without a body for others."""
    location = ("Location", found.location)
    if request.method not in ("GET", "HEAD"):
        return Response(status=found.status, headers=[location])
    link = f'<a href="{_escaped(found.location)}">{_REDIRECTS[found.status]}</a>.\n\n'
    kind = ("Content-Type", "text/html; charset=utf-8")
    return Response(link.encode(), status=found.status, headers=[location, kind])


def _excluded(exchange: Exchange, verdict: Verdict) -> Response:
    if verdict.judgement is Judgement.PREFLIGHT:
        return exchange.reply(status=204, content_type=None)
    if verdict.judgement is Judgement.WRONG_ORIGIN:
        return exchange.reply(status=403, content_type=None)  # only browsers send one: Ollama's bare answer
    host = exchange.header("Host")[:100]
    text = f"this node does not answer to the host name {host!r}; use its address, or a name that is its own"
    return exchange.failure(Forbidden(text))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&#34;").replace("<", "&lt;").replace(">", "&gt;")
