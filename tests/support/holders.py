"""Members that hold models, each a real node listener before a store, with faults on a switch."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from ollama_dist.api.bulk_giving import BulkGiving
from ollama_dist.api.heads import Request
from ollama_dist.api.listener import Listener, bind
from ollama_dist.api.node_listener import NodeListener
from ollama_dist.api.passthrough import Passthrough
from ollama_dist.api.peer_listener import Home, PeerListener
from ollama_dist.backends.target import Security, Target
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import parse_model_name
from ollama_dist.core.view import ClusterView
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.identity import Identity
from ollama_dist.replication.disk.giving import Giver
from ollama_dist.replication.disk.pieces import PieceLists
from ollama_dist.replication.pace import Pace
from ollama_dist.replication.pulls.turns import Turns
from ollama_dist.replication.transfer.fetching import PeerSource, open_peers
from ollama_dist.replication.transfer.sharing import Share
from tests.support.members import KEY
from tests.support.model_store import ModelStore
from tests.support.views import node_id


@dataclass
class Faults:
    """What goes wrong while a holder gives bytes."""

    spoil: Callable[[bytes], bytes] = lambda part: part
    """What becomes of bytes on the wire."""
    cut_after: int | None = None
    """Bytes of blobs after which it hangs up on everybody, now and later."""
    stall_after: int | None = None
    """Bytes of blobs after which it sends nothing more, but lives."""
    bytes_per_s: float = 0.0


class Holder:
    """One of them; `sent` are the bytes of blobs it has written."""

    def __init__(self, number: int, folder: Path, secured: bool = False) -> None:
        self.id: NodeId = node_id(number)
        self.store = ModelStore(folder / "models")
        self.faults = Faults()
        self.sent = 0
        self.requests: list[str] = []
        self.is_present = True
        self.lists = PieceLists(folder / "pieces")
        self.giver = _FaultyGiver(self)
        self.turns = Turns()
        self._passthrough = Passthrough()
        front = PeerListener(cast(Home, self), self._passthrough, lambda _: None)

        async def counted(request: Request) -> web.StreamResponse:
            self.requests.append(f"{request.method} {request.path}")
            try:
                return await front(request)
            except _Cut:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()

        bound = bind("127.0.0.1", [0])
        self.stopped = threading.Event()
        self.credentials: Credentials | None = None
        self.bulk: BulkGiving | None = None
        if not secured:
            self._listener = Listener(counted, bound)
            self.target = Target(self.id, *self._listener.address)
            return
        credentials = self.credentials = Credentials(Identity.load(folder / "identity", KEY))
        tls = credentials.server_context()
        self.bulk = BulkGiving(lambda: self.giver, credentials.admit, tls)
        self._listener = NodeListener(counted, bound, tls, self.bulk)
        shown = Credentials(Identity.load(folder / "taker", KEY)).passes[0]
        security = Security(shown.relay, shown.server_name, lambda _: None, shown.bulk)
        self.target = Target(self.id, *self._listener.address, security=security)

    def view(self) -> ClusterView:
        raise AssertionError("a holder alone sees nobody")

    async def start(self) -> None:
        await self._listener.start()

    async def stop(self) -> None:
        self.target.fail()
        self.stopped.set()
        await self._listener.stop()
        await self._passthrough.close()


class _Cut(ConnectionError):
    """The holder dies."""


class _FaultyGiver(Giver):
    def __init__(self, holder: Holder) -> None:
        super().__init__(lambda: holder.store, holder.lists, Pace(lambda: holder.faults.bytes_per_s))
        self._holder = holder

    async def read(self, *args: Any) -> Any:
        holder = self._holder
        async with contextlib.aclosing(super().read(*args)) as parts:
            async for part in parts:
                if self._stalls():
                    await asyncio.sleep(3600)
                holder.sent += len(part)
                yield holder.faults.spoil(part)

    async def pass_on(self, *args: Any) -> Any:
        async with contextlib.aclosing(super().pass_on(*args)) as parts:
            async for part in parts:
                if self._stalls():
                    await asyncio.sleep(3600)
                self._holder.sent += len(part)
                yield self._holder.faults.spoil(bytes(part))

    def give(self, *args: Any) -> Iterator[Any]:
        holder = self._holder
        for part in super().give(*args):
            if self._stalls():
                holder.stopped.wait(60)
            holder.sent += len(part)
            yield memoryview(holder.faults.spoil(bytes(part)))

    def _stalls(self) -> bool:
        """Raises `_Cut` where it dies now."""
        faults, sent = self._holder.faults, self._holder.sent
        if faults.cut_after is not None and sent >= faults.cut_after:
            raise _Cut
        return faults.stall_after is not None and sent >= faults.stall_after


@contextlib.asynccontextmanager
async def holders(folder: Path, count: int, *, secured: bool = False) -> AsyncIterator[list[Holder]]:
    """So many holders, started, with empty stores. ``secured``: with TLS, so that threads give bytes."""
    started: list[Holder] = []
    try:
        for number in range(1, count + 1):
            holder = Holder(number, folder / str(number), secured)
            await holder.start()
            started.append(holder)
        yield started
    finally:
        for holder in started:
            await holder.stop()


async def peer_source(
    name: str,
    held_by: Sequence[Holder],
    identity: Digest | None = None,
    pace: Pace | None = None,
    taker: Holder | None = None,
    others: Sequence[Holder] = (),
) -> PeerSource:
    """What a target would read the model from. ``taker`` shares what it has of it, and ``others`` do."""
    targets = {holder.id: holder.target for holder in (*held_by, *others)}
    present = {holder.id: holder for holder in held_by}
    return await open_peers(
        parse_model_name(name),
        identity,
        lambda: [node for node, holder in present.items() if holder.is_present],
        targets.get,
        pace,
        Share(lambda: taker.id, taker.giver.offer, taker.store.coming) if taker is not None else None,
    )
