"""The node's two HTTP fronts put together: the public one for clients, and the one for other members."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import SystemRandom
from typing import Final

import psutil
from aiohttp import web

from ollama_dist.api.auth import NO_KEYS, Authorizer, ClientPolicy
from ollama_dist.api.changes import Changes
from ollama_dist.api.exchange import Exchange
from ollama_dist.api.front import Front, Handler
from ollama_dist.api.guard import DEFAULT_ORIGINS, Guard
from ollama_dist.api.heads import Incoming
from ollama_dist.api.inference import Inference
from ollama_dist.api.listing import Listing
from ollama_dist.api.making import Making
from ollama_dist.api.operations import OperationRoutes
from ollama_dist.api.own_routes import Operating, OwnRoutes
from ollama_dist.api.passthrough import Passthrough
from ollama_dist.api.peer_listener import PeerListener
from ollama_dist.api.pulling import Pull
from ollama_dist.api.reference import Reference
from ollama_dist.api.routes import OLLAMA_ROUTES, ROUTES, Where
from ollama_dist.core.errors import NoCandidate
from ollama_dist.core.ids import NodeId
from ollama_dist.core.modes import Mode
from ollama_dist.node.node import Node

PASSED_THROUGH: Final = tuple(
    replace(route, where=Where.ENTRY, name="", body_limit=None) for route in OLLAMA_ROUTES
)
"""The table of a node that is not to be distributed: Ollama's rows, all for its own engine."""


def public_front(
    node: Node,
    passthrough: Passthrough,
    operator: Operating,
    *,
    admin_token: str,
    clients: ClientPolicy = NO_KEYS,
    origins: Sequence[str] = (),
) -> Front:
    """What clients talk to."""
    listing, options = Listing(node, passthrough, node.describe), node.options
    own, reference = OwnRoutes(node, operator), Reference()
    pull = Pull(node, listing.own_engine)
    operations = OperationRoutes(lambda: node.moves, node.view)
    handlers: dict[str, Handler] = {
        Where.SCHEDULED: Inference(
            node.dispatcher, options.contexts, options.cached_routes, splice=options.splice
        ),
        Where.HOLDER: listing.holder,
        Where.SOURCE: Making(node, listing.own_engine),
        Where.HOLDERS: Changes(node, listing.own_engine),
        Where.PULL: pull,
        Where.ENTRY: listing.entry,
        **{name: getattr(listing, name) for name in ("root", "version", "tags", "ps", "v1_models")},
        **{
            route.name: getattr(holder, route.name)
            for holder in (own, reference, operations)
            for route in ROUTES
            if hasattr(holder, route.name)
        },
    }

    standing = {mode: (("X-Ollama-Distributed", "true"), ("X-Ollama-Mode", mode)) for mode in Mode}

    return Front(
        ROUTES,
        handlers,
        guard=_guard(origins),
        authorizer=Authorizer(admin_token, clients),
        standing=lambda: standing[node.mode],
        rng=SystemRandom(),
    )


def plain_front(
    engine: Callable[[], str | None],
    passthrough: Passthrough,
    *,
    clients: ClientPolicy = NO_KEYS,
    origins: Sequence[str] = (),
) -> Front:
    """A node that is not distributed: everything goes to its engine at ``engine()`` (``http://host:port``)."""

    async def entry(exchange: Exchange) -> web.StreamResponse:
        origin = engine()
        if origin is None:
            raise NoCandidate("this node has no engine")
        return await passthrough.send(exchange, origin, exchange.filled_path(), None)

    return Front(
        PASSED_THROUGH,
        {Where.ENTRY: entry},
        guard=_guard(origins),
        authorizer=Authorizer("", clients),
        standing=lambda: (("X-Ollama-Distributed", "false"),),
        rng=SystemRandom(),
    )


def peer_front(
    node: Node, passthrough: Passthrough, admit: Callable[[Incoming], NodeId | None]
) -> PeerListener:
    """What other members talk to."""
    return PeerListener(node, passthrough, admit)


def _guard(origins: Sequence[str]) -> Guard:
    return Guard(
        hosts=frozenset({socket.gethostname().lower()}),
        addresses=frozenset(_own_addresses()),
        origins=(*DEFAULT_ORIGINS, *origins),
    )


def _own_addresses() -> list[str]:
    families = (socket.AF_INET, socket.AF_INET6)
    return [
        str(ipaddress.ip_address(address.address.partition("%")[0]))
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in families
    ]
