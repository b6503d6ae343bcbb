"""``python -m benchmarks.transfer.registry CERTIFICATES PEER``: a node's own registry, fed by a peer.

Prints the name by which an Ollama on this machine pulls the model ``tiny`` from it.
"""

import asyncio
import sys
from pathlib import Path

import uvloop

from benchmarks.transfer.security import security
from ollama_dist.backends.target import Target
from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.intake.registry import LoopbackRegistry
from ollama_dist.replication.transfer.fetching import open_peers


async def serve(certificates: Path, port: int) -> None:
    peer = Target(NodeId("1" * 16), "127.0.0.1", port, security(certificates))
    name, registry = parse_model_name("tiny"), LoopbackRegistry()
    source = await open_peers(name, None, lambda: [peer.node], {peer.node: peer}.get)
    await registry.start()
    with registry.offer(source, name) as offer:
        print(offer.name.full, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
