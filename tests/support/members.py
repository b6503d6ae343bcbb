"""Members for tests: identities of one cluster, and a listener whose answers the test decides."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.identity import Identity
from ollama_dist.gossip.keys import ClusterKey
from ollama_dist.gossip.protocol.messages import Kind
from ollama_dist.gossip.server import Server

KEY = ClusterKey("9f2c41d0", 1, bytes(range(32)))
OTHER_KEY = ClusterKey("abcdef01", 1, bytes(32))


def member(folder: Path, name: str, key: ClusterKey = KEY) -> Identity:
    return Identity.load(folder / name, key)


class Answering:
    """A member's listener that answers as it is told and remembers what it was asked."""

    def __init__(self, identity: Identity, services: Sequence[grpc.GenericRpcHandler] = ()) -> None:
        self.identity = identity
        self.asked: list[tuple[NodeId, Kind, bytes]] = []
        self.counts: Counter[str] = Counter()
        self.answer: Callable[[bytes], Awaitable[bytes]] = self.echo
        self.server = Server(Credentials(identity), self._answer, self._count, services)
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> None:
        self.port = await self.server.start("127.0.0.1", [port])

    async def echo(self, payload: bytes) -> bytes:
        return payload

    async def silence(self, payload: bytes) -> bytes:
        await asyncio.sleep(60)
        return payload

    async def _answer(self, peer: NodeId, kind: Kind, payload: bytes) -> bytes:
        self.asked.append((peer, kind, payload))
        return await self.answer(payload)

    def _count(self, reason: str) -> None:
        self.counts[reason] += 1


@asynccontextmanager
async def answering(
    identity: Identity, services: Sequence[grpc.GenericRpcHandler] = ()
) -> AsyncIterator[Answering]:
    listener = Answering(identity, services)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.server.stop()


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """An address that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as bound:
        yield f"127.0.0.1:{bound.getsockname()[1]}"
