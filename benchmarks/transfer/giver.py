"""``python -m benchmarks.transfer.giver PORT STORE CERTIFICATES CAP``: a node's listener before a store.

It gives at most so many bytes a second (0: as fast as may be). Says its port, and for each line that it is
sent how many bytes it has given.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.transfer.security import server_context
from ollama_dist.api.bulk_giving import BulkGiving
from ollama_dist.api.listener import bind
from ollama_dist.api.node_listener import NodeListener
from ollama_dist.api.passthrough import Passthrough
from ollama_dist.api.peer_listener import Home, PeerListener
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import ClusterView
from ollama_dist.replication.disk.giving import Giver
from ollama_dist.replication.disk.pieces import PieceLists
from ollama_dist.replication.disk.store import OllamaStore
from ollama_dist.replication.pace import Pace
from ollama_dist.replication.pulls.turns import Turns


class _Home:
    """As much of a node as is asked for models."""

    def __init__(self, giver: Giver) -> None:
        self.turns = Turns()
        self.giver = giver

    def view(self) -> ClusterView:
        raise AssertionError("nobody is asked for turns here")


@asynccontextmanager
async def listening(giver: Giver, port: int, certificates: Path) -> AsyncIterator[int]:
    """A node's listener before ``giver``: its port."""
    tls, passthrough = server_context(certificates), Passthrough()
    front = PeerListener(cast(Home, _Home(giver)), passthrough, lambda _: None)
    bulk = BulkGiving(lambda: giver, lambda _: NodeId("0" * 16), tls)
    listener = NodeListener(front, bind("127.0.0.1", [port]), tls, bulk)
    await listener.start()
    try:
        yield listener.address[1]
    finally:
        await listener.stop()
        await passthrough.close()


async def serve(port: int, store: Path, certificates: Path, cap: float) -> None:
    kept = OllamaStore(store)
    giver = Giver(lambda: kept, PieceLists(store / "pieces"), Pace(lambda: cap))
    async with listening(giver, port, certificates) as taken:
        print(taken, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(giver.given, flush=True)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])))
