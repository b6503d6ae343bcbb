"""Requests for inference: read, dispatched over the cluster, relayed."""

from collections.abc import Iterable

from aiohttp import web

from ollama_dist.api.exchange import Exchange, Header
from ollama_dist.api.relay import relay
from ollama_dist.core.errors import Busy
from ollama_dist.core.requests import Priority
from ollama_dist.node.dispatch import Dispatcher, Served
from ollama_dist.wire.inspection import inspect
from ollama_dist.wire.places import HEADER, wants_place, write_place


class Inference:
    """The handler of all scheduled rows."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def __call__(self, exchange: Exchange) -> web.StreamResponse:
        body = await exchange.body()
        path = exchange.route.path
        request = inspect(path, body, encoding=exchange.header("Content-Encoding") or None).request(
            exchange.id,
            path,
            pin=exchange.header("X-Ollama-Node") or None,
            priority=priority_of(exchange.header("X-Ollama-Priority")),
        )
        on_place = exchange.tell_place if wants_place(exchange.header(HEADER)) else None
        async with self._dispatcher.serve(request, exchange.passed_on(), body, on_place) as served:
            answer = served.answer
            assert answer is not None
            headers = [*answer.headers, *_about(served)]
            if on_place is not None and served.waited is not None:
                headers.append((HEADER, write_place(served.waited.place, served.waited.waited_s)))
            if answer.is_whole:
                if answer.status == Busy.status:
                    headers.append(("Retry-After", str(Busy.retry_after_s)))
                return whole(exchange, answer.status, answer.first, headers)
            return await relay(exchange, answer, status=answer.status, headers=headers, first=answer.first)


def whole(exchange: Exchange, status: int, body: bytes, headers: Iterable[Header]) -> web.Response:
    """An answer that is here from its first byte to its last."""
    response = exchange.reply(body, status=status, content_type=None)
    for name, value in headers:
        response.headers.add(name, value)
    return response


def _about(served: Served) -> list[Header]:
    """What we say of an answer: where it comes from, and why it is not the first choice's if it is not."""
    headers = []
    if served.node is not None:
        headers.append(("X-Ollama-Node", served.node.name))
    if served.decision is not None:
        headers.append(("X-Ollama-Reason", served.decision.reason))
    tries = len(served.attempts) + (not served.is_refusal)
    headers.append(("X-Ollama-Attempts", str(tries)))
    if served.fallback_reason:
        headers += [("X-Ollama-Fallback", "true"), ("X-Ollama-Fallback-Reason", served.fallback_reason)]
    return headers


def priority_of(text: str) -> Priority:
    """What the caller asked for; what is not one of the words is as if nothing was said."""
    return Priority(text) if text in set(Priority) else Priority.NORMAL
