"""Members that hold models, each a real node listener before a store, with faults on a switch."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from ollama_dist.api.heads import Request
from ollama_dist.api.listener import Listener, bind
from ollama_dist.api.passthrough import Passthrough
from ollama_dist.api.peer_listener import Home, PeerListener
from ollama_dist.backends.target import Target
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import parse_model_name
from ollama_dist.core.view import ClusterView
from ollama_dist.replication.disk.giving import Giver
from ollama_dist.replication.disk.pieces import PieceLists
from ollama_dist.replication.pace import Pace
from ollama_dist.replication.pulls.turns import Turns
from ollama_dist.replication.transfer.fetching import PeerSource, open_peers
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

    def __init__(self, number: int, folder: Path) -> None:
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

        self._listener = Listener(counted, bind("127.0.0.1", [0]))
        self.target = Target(self.id, *self._listener.address)

    def view(self) -> ClusterView:
        raise AssertionError("a holder alone sees nobody")

    async def start(self) -> None:
        await self._listener.start()

    async def stop(self) -> None:
        self.target.fail()
        await self._listener.stop()
        await self._passthrough.close()


class _Cut(Exception):
    """The holder dies."""


class _FaultyGiver(Giver):
    def __init__(self, holder: Holder) -> None:
        super().__init__(lambda: holder.store, holder.lists, Pace(lambda: holder.faults.bytes_per_s))
        self._holder = holder

    async def read(self, *args: Any) -> Any:
        holder = self._holder
        async with contextlib.aclosing(super().read(*args)) as parts:
            async for part in parts:
                faults = holder.faults
                if faults.cut_after is not None and holder.sent >= faults.cut_after:
                    raise _Cut
                if faults.stall_after is not None and holder.sent >= faults.stall_after:
                    await asyncio.sleep(3600)
                holder.sent += len(part)
                yield faults.spoil(part)


@contextlib.asynccontextmanager
async def holders(folder: Path, count: int) -> AsyncIterator[list[Holder]]:
    """So many holders, started, with empty stores."""
    started: list[Holder] = []
    try:
        for number in range(1, count + 1):
            holder = Holder(number, folder / str(number))
            await holder.start()
            started.append(holder)
        yield started
    finally:
        for holder in started:
            await holder.stop()


async def peer_source(
    name: str, held_by: Sequence[Holder], identity: Digest | None = None, pace: Pace | None = None
) -> PeerSource:
    """What a target would read the model from."""
    targets = {holder.id: holder.target for holder in held_by}
    present = {holder.id: holder for holder in held_by}
    return await open_peers(
        parse_model_name(name),
        identity,
        lambda: [node for node, holder in present.items() if holder.is_present],
        targets.get,
        pace,
    )
