"""``python -m benchmarks.transfer.giver PORT STORE CERTIFICATES``: a node's listener before a store."""

import asyncio
import sys
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

    def __init__(self, store: Path) -> None:
        kept = OllamaStore(store)
        self.turns = Turns()
        self.giver = Giver(lambda: kept, PieceLists(store / "pieces"), Pace())

    def view(self) -> ClusterView:
        raise AssertionError("nobody is asked for turns here")


async def serve(port: int, store: Path, certificates: Path) -> None:
    home, tls = _Home(store), server_context(certificates)
    front = PeerListener(cast(Home, home), Passthrough(), lambda _: None)
    bulk = BulkGiving(lambda: home.giver, lambda _: NodeId("0" * 16), tls)
    listener = NodeListener(front, bind("127.0.0.1", [port]), tls, bulk)
    await listener.start()
    print(listener.address[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))
