"""Requests for inference: read, dispatched over the cluster, relayed."""

from collections.abc import Container, Sequence
from functools import lru_cache
from typing import Final

from aiohttp import web

from ollama_dist.api.exchange import Exchange
from ollama_dist.api.heads import RequestHead
from ollama_dist.api.relay import relay
from ollama_dist.api.responses import Header, Response
from ollama_dist.core.contexts import ContextRule, pinned_context
from ollama_dist.core.dialects import Dialect
from ollama_dist.core.errors import Busy
from ollama_dist.core.requests import InferenceRequest, Priority
from ollama_dist.core.values import value
from ollama_dist.node.answer_cache import Asking
from ollama_dist.node.dispatch import Dispatcher
from ollama_dist.node.served import Served
from ollama_dist.wire.canonical import canonical
from ollama_dist.wire.contexts import with_context
from ollama_dist.wire.inspection import inspect
from ollama_dist.wire.places import HEADER, wants_place, write_place

CACHE: Final = "X-Ollama-Cache"
"""``allow``: a kept answer is better than none; anything else: it is not."""


class Inference:
    """The handler of all scheduled rows."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        contexts: Sequence[ContextRule] = (),
        cached: Container[str] = (),
        *,
        splice: bool = True,
    ) -> None:
        self._dispatcher = dispatcher
        self._contexts = contexts
        self._cached = cached
        self._splice = splice

    async def __call__(self, exchange: Exchange) -> web.StreamResponse:
        head, path = exchange.request.head, exchange.route.path
        wishes = head.worked_out.get(Wishes) or wishes_of(head)
        body = exchange.whole
        if body is None:
            body = await exchange.body()
        request = inspect(
            path,
            body,
            encoding=wishes.encoding,
            content_type=wishes.content_type,
            request_id=exchange.id,
            pin=wishes.node,
            priority=wishes.priority,
        )
        if self._contexts:
            request, body = self._pinned(request, body)
        on_place = exchange.tell_place if wishes.wants_place else None
        asking = None
        if wishes.cache == "allow" or (not wishes.cache and path in self._cached):
            asking = _asking(exchange, wishes, request, body)
        dispatcher = self._dispatcher
        with dispatcher.serve(request, head.passed_on, body, on_place, asking) as served:
            del body  # it may be long, and so may the answer last
            answer = await dispatcher.begin(served)
            headers = answer.headers + _about(served)
            if on_place is not None and served.waited is not None:
                headers += ((HEADER, write_place(served.waited.place, served.waited.waited_s)),)
            if answer.is_whole:
                if answer.status == Busy.status:
                    headers += (("Retry-After", str(Busy.retry_after_s)),)
                return whole(exchange, answer.status, answer.first, headers)
            return await relay(
                exchange,
                answer,
                status=answer.status,
                headers=headers,
                first=answer.first,
                splice=self._splice,
            )

    def _pinned(self, request: InferenceRequest, body: bytes) -> tuple[InferenceRequest, bytes]:
        """The request with the context length that its model is to keep, and its body as it travels on."""
        tokens = pinned_context(self._contexts, request.model)
        if tokens is None or request.dialect is not Dialect.OLLAMA:
            return request, body
        body, said = with_context(body, tokens), request
        request = inspect(said.route, body, request_id=said.id, pin=said.pin, priority=said.priority)
        return request, body


@value(frozen=True, slots=True)
class Wishes:
    """What the headers of a request for inference say of it."""

    encoding: str | None
    content_type: str
    node: str | None
    """Where it is to go, if anywhere in particular."""
    priority: Priority
    wants_place: bool
    cache: str


def wishes_of(head: RequestHead) -> Wishes:
    known: Wishes | None = head.worked_out.get(Wishes)
    if known is None:
        known = head.worked_out[Wishes] = Wishes(
            encoding=head.get("content-encoding") or None,
            content_type=head.get("content-type"),
            node=head.get("x-ollama-node") or None,
            priority=priority_of(head.get("x-ollama-priority")),
            wants_place=wants_place(head.get(HEADER.lower())),
            cache=head.get(CACHE.lower()).strip().lower(),
        )
    return known


def _asking(exchange: Exchange, wishes: Wishes, request: InferenceRequest, body: bytes) -> Asking | None:
    """What may be kept of the answer; None where it may be another one."""
    said = canonical(request, body, is_zstd=(wishes.encoding or "").lower() == "zstd")
    return None if said is None else Asking(exchange.tenant, said)


def whole(exchange: Exchange, status: int, body: bytes, headers: tuple[Header, ...]) -> Response:
    """An answer that is here from its first byte to its last. Of ``headers`` many answers have the same."""
    return Response(body, status=status, standing=exchange.standing + headers, headers=exchange.headers)


def _about(served: Served) -> tuple[Header, ...]:
    """What we say of an answer: where it comes from, and why it is not the first choice's if it is not."""
    tries, node, decision = len(served.attempts), served.node, served.decision
    if node is not None and not served.is_refusal:
        tries += 1
    told = _told(
        None if node is None else node.name,
        None if decision is None else decision.reason,
        tries,
        served.fallback_reason,
    )
    return told if served.kept_s is None else (*told, ("Age", str(int(served.kept_s))))


@lru_cache(maxsize=512)
def _told(node: str | None, reason: str | None, tries: int, fallback: str) -> tuple[Header, ...]:
    headers = []
    if node is not None:
        headers.append(("X-Ollama-Node", node))
    if reason is not None:
        headers.append(("X-Ollama-Reason", reason))
    headers.append(("X-Ollama-Attempts", str(tries)))
    if fallback:
        headers += (("X-Ollama-Fallback", "true"), ("X-Ollama-Fallback-Reason", fallback))
    return tuple(headers)


def priority_of(text: str) -> Priority:
    """What the caller asked for; what is not one of the words is as if nothing was said."""
    return Priority(text) if text in _PRIORITIES else Priority.NORMAL


_PRIORITIES: Final = frozenset(Priority)
