"""What members ask each other to do: steps of operations, keeping a copy, draining, reading models again."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from aiohttp import web

from ollama_dist.api.exchange import Exchange
from ollama_dist.api.routes import ADMIN_LIMIT, Route, Where
from ollama_dist.core.errors import BadRequest
from ollama_dist.core.ids import NodeId, parse_node_id
from ollama_dist.core.names import parse_model_name
from ollama_dist.core.scopes import Scope
from ollama_dist.core.view import ClusterView
from ollama_dist.node.moves import DRAIN_PATH, PROMISE_END_PATH, PROMISE_PATH, SCRUB_PATH, Moves
from ollama_dist.replication.moves.correspondence import PATH
from ollama_dist.replication.moves.operations import Operation, parse_operation_id, to_document

_LETTER_LIMIT: Final = 4 * ADMIN_LIMIT


def _asked(method: str, path: str, name: str) -> Route:
    limit = _LETTER_LIMIT if method == "POST" else 0
    return Route(method, path, Where.HERE, Scope.MODELS_WRITE, name=name, body_limit=limit)


PEER_OPERATION_ROUTES: Final = (
    _asked("POST", PATH, "take_operation"),
    _asked("GET", PATH, "list_operations"),
    _asked("GET", f"{PATH}/{{operation}}", "tell_operation"),
    _asked("POST", f"{PATH}/{{operation}}/cancel", "cancel_operation"),
    _asked("POST", PROMISE_PATH, "promise"),
    _asked("POST", PROMISE_END_PATH, "end_promise"),
    _asked("POST", DRAIN_PATH, "drain"),
    _asked("DELETE", DRAIN_PATH, "undrain"),
    _asked("GET", SCRUB_PATH, "tell_scrub"),
    _asked("POST", SCRUB_PATH, "begin_scrub"),
)


class AskedNode(Protocol):
    """What is needed of the node."""

    moves: Moves

    def view(self) -> ClusterView: ...

    def scrub(self, *, begin: bool) -> dict[str, Any]: ...


class PeerOperations:
    """Handlers by the name of their row. ``sender`` tells the member that asks by its certificate."""

    def __init__(self, node: Callable[[], AskedNode]) -> None:
        self._node = node

    def _moves(self) -> Moves:
        return self._node().moves

    def _name(self) -> str:
        return self._node().view().self_id

    async def take_operation(self, exchange: Exchange) -> web.StreamResponse:
        letter = await exchange.json()
        operation = await self._moves().take(letter.get("operation"), _sender(exchange, letter))
        return _told(exchange, operation)

    async def list_operations(self, exchange: Exchange) -> web.StreamResponse:
        known = [to_document(each) for each in self._moves().operations.known()]
        return exchange.reply_json({"operations": known})

    async def tell_operation(self, exchange: Exchange) -> web.StreamResponse:
        identifier = parse_operation_id(exchange.params["operation"])
        return _told(exchange, self._moves().operations.part(identifier))

    async def cancel_operation(self, exchange: Exchange) -> web.StreamResponse:
        identifier = parse_operation_id(exchange.params["operation"])
        return _told(exchange, await self._moves().cancel_part(identifier))

    async def promise(self, exchange: Exchange) -> web.StreamResponse:
        letter = await exchange.json()
        name = parse_model_name(_text(letter, "model"))
        holds_s = await self._moves().promises.give(
            name.key, _text(letter, "content"), _sender(exchange, letter)
        )
        return exchange.reply_json({"holds_s": holds_s})

    async def end_promise(self, exchange: Exchange) -> web.StreamResponse:
        letter = await exchange.json()
        name = parse_model_name(_text(letter, "model"))
        await self._moves().promises.end(name.key, _sender(exchange, letter))
        return exchange.reply_json({"ended": name.short})

    async def drain(self, exchange: Exchange) -> web.StreamResponse:
        letter = await exchange.json()
        return _told(exchange, await self._moves().drain(self._name(), _text(letter, "by")))

    async def undrain(self, exchange: Exchange) -> web.StreamResponse:
        return _told(exchange, await self._moves().undrain(self._name()))

    async def tell_scrub(self, exchange: Exchange) -> web.StreamResponse:
        return exchange.reply_json(self._node().scrub(begin=False))

    async def begin_scrub(self, exchange: Exchange) -> web.StreamResponse:
        return exchange.reply_json(self._node().scrub(begin=True))


def _told(exchange: Exchange, operation: Operation | None) -> web.StreamResponse:
    return exchange.reply_json({"operation": None if operation is None else to_document(operation)})


def _sender(exchange: Exchange, letter: Mapping[str, Any]) -> NodeId:
    """Who the certificate says it is; where there is none to look at, who it says it is."""
    return NodeId(exchange.tenant) if exchange.tenant else parse_node_id(_text(letter, "sender"))


def _text(letter: Mapping[str, Any], name: str) -> str:
    said = letter.get(name)
    if not isinstance(said, str):
        raise BadRequest(f'"{name}" is missing')
    return said
