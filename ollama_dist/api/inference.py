"""Requests for inference: read, dispatched over the cluster, relayed."""

from collections.abc import Container, Iterable, Sequence
from typing import Final

from aiohttp import web

from ollama_dist.api.exchange import Exchange
from ollama_dist.api.relay import relay
from ollama_dist.api.responses import Header, Response
from ollama_dist.core.contexts import ContextRule, pinned_context
from ollama_dist.core.dialects import Dialect
from ollama_dist.core.errors import Busy
from ollama_dist.core.requests import InferenceRequest, Priority
from ollama_dist.node.answer_cache import Asking
from ollama_dist.node.dispatch import Dispatcher
from ollama_dist.node.served import Served
from ollama_dist.wire.canonical import canonical
from ollama_dist.wire.contexts import with_context
from ollama_dist.wire.inspection import Inspection, inspect
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
        body, found = self._pinned(exchange, await exchange.body())
        path = exchange.route.path
        request = found.request(
            exchange.id,
            path,
            pin=exchange.header("X-Ollama-Node") or None,
            priority=priority_of(exchange.header("X-Ollama-Priority")),
        )
        on_place = exchange.tell_place if wants_place(exchange.header(HEADER)) else None
        asking = self._asking(exchange, request, body)
        serving = self._dispatcher.serve(request, exchange.passed_on(), body, on_place, asking)
        del body  # it may be long, and so may the answer last
        async with serving as served:
            answer = served.answer
            assert answer is not None
            headers = [*answer.headers, *_about(served)]
            if on_place is not None and served.waited is not None:
                headers.append((HEADER, write_place(served.waited.place, served.waited.waited_s)))
            if answer.is_whole:
                if answer.status == Busy.status:
                    headers.append(("Retry-After", str(Busy.retry_after_s)))
                return whole(exchange, answer.status, answer.first, headers)
            return await relay(
                exchange,
                answer,
                status=answer.status,
                headers=headers,
                first=answer.first,
                splice=self._splice,
            )

    def _pinned(self, exchange: Exchange, body: bytes) -> tuple[bytes, Inspection]:
        """The body as it travels on, and what it says: with the context length that its model is to keep."""
        path, found = exchange.route.path, inspected(exchange, body)
        tokens = pinned_context(self._contexts, found.model)
        if tokens is None or found.dialect is not Dialect.OLLAMA:
            return body, found
        body = with_context(body, tokens)
        return body, inspect(path, body)

    def _asking(self, exchange: Exchange, request: InferenceRequest, body: bytes) -> Asking | None:
        """What may be kept of the answer; None where nobody wants that, or where it may be another one."""
        wish = exchange.header(CACHE).strip().lower()
        if wish != "allow" and (wish or exchange.route.path not in self._cached):
            return None
        said = canonical(request, body, is_zstd=exchange.header("Content-Encoding").lower() == "zstd")
        return None if said is None else Asking(exchange.tenant, said)


def inspected(exchange: Exchange, body: bytes) -> Inspection:
    """What the body says, read as its headers say it is written."""
    encoding, content_type = exchange.header("Content-Encoding") or None, exchange.header("Content-Type")
    return inspect(exchange.route.path, body, encoding=encoding, content_type=content_type)


def whole(exchange: Exchange, status: int, body: bytes, headers: Iterable[Header]) -> Response:
    """An answer that is here from its first byte to its last."""
    return exchange.reply(body, status=status, content_type=None, more=headers)


def _about(served: Served) -> list[Header]:
    """What we say of an answer: where it comes from, and why it is not the first choice's if it is not."""
    headers = []
    if served.node is not None:
        headers.append(("X-Ollama-Node", served.node.name))
    if served.decision is not None:
        headers.append(("X-Ollama-Reason", served.decision.reason))
    tries = len(served.attempts) + (served.node is not None and not served.is_refusal)
    headers.append(("X-Ollama-Attempts", str(tries)))
    if served.kept_s is not None:
        headers.append(("Age", str(int(served.kept_s))))
    if served.fallback_reason:
        headers += [("X-Ollama-Fallback", "true"), ("X-Ollama-Fallback-Reason", served.fallback_reason)]
    return headers


def priority_of(text: str) -> Priority:
    """What the caller asked for; what is not one of the words is as if nothing was said."""
    return Priority(text) if text in _PRIORITIES else Priority.NORMAL


_PRIORITIES: Final = frozenset(Priority)
