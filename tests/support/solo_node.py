"""A whole node with nobody else around, in this process, in front of a server that speaks as an Ollama."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_dist.admin.operator import Operator
from ollama_dist.api.auth import NO_KEYS, ClientPolicy
from ollama_dist.api.connections import HEAD_S
from ollama_dist.api.listener import Listener, bind
from ollama_dist.api.passthrough import Passthrough
from ollama_dist.api.server import public_front
from ollama_dist.backends.ollama.engine import OllamaEngine, OllamaSettings
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import InstalledModel
from ollama_dist.gossip.protocol.effects import MemberView
from ollama_dist.gossip.subscribers import Subscriber
from ollama_dist.node.modes import Switches
from ollama_dist.node.node import Node, NodeOptions
from ollama_dist.replication.disk.keeper import Keeper
from ollama_dist.replication.disk.locating import Found
from ollama_dist.replication.pace import Rates
from tests.support.views import node_id
from tests.support.wait import until

ADMIN_TOKEN = "the token of the tests"


class Nobody:
    """A cluster without anybody else in it."""

    id = "c0ffee00"
    address = ""

    def members(self) -> Sequence[MemberView]:
        return ()

    def member(self, member: NodeId) -> MemberView | None:
        return None

    def subscribe(self, changed: Subscriber) -> None:
        """Nothing ever changes."""

    def set_load(self, data: bytes) -> None:
        """Nobody listens."""

    def set_state(self, key: str, value: bytes | None) -> None:
        """Nobody listens."""

    def hint(self, member: NodeId) -> None:
        """Nobody is there to be looked at."""

    def seen_clusters(self) -> Sequence[tuple[str, tuple[str, ...]]]:
        return ()

    def strangers(self) -> Mapping[str, str]:
        return {}

    def silent_seeds(self) -> Mapping[str, str]:
        return {}

    def rotated(self) -> Mapping[str, str]:
        return {}

    def is_own(self, code: str) -> bool:
        return False

    epoch = 1
    revoked_by = ""

    async def rotate(self, overlap_s: float) -> dict[str, Any]:
        return {"cluster": self.id, "epoch": 2, "members": 1, "until": "2030-01-01T00:00:00Z"}

    async def revoke(self, member: NodeId, by: str) -> dict[str, Any]:
        raise AssertionError("nobody is revoked here")

    def forget(self, member: NodeId) -> None:
        raise AssertionError("nobody died here")

    def counters(self) -> dict[str, int]:
        return {}

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def invite(self, lifetime_s: float) -> dict[str, Any]:
        raise AssertionError("nobody invites here")

    async def join(self, code: str, *, replace: bool) -> dict[str, Any]:
        raise AssertionError("nobody joins here")

    async def leave(self) -> dict[str, Any]:
        return {"left": True}


async def _no_store(models: Iterable[InstalledModel]) -> Found:
    return Found(None, "a scripted engine has no files")


@dataclass
class SoloNode:
    node: Node
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def solo_node(
    engine_port: int,
    *,
    max_queue: int = 512,
    slots: int = 1,
    ready: bool = True,
    clients: ClientPolicy = NO_KEYS,
    head_s: float = HEAD_S,
    splice: bool = True,
) -> AsyncIterator[SoloNode]:
    """The node in front of ``engine_port`` on loopback, its engine ready unless that is not waited for."""
    settings = OllamaSettings(node_id(1), address=("127.0.0.1", engine_port), slots=slots)
    options = NodeOptions(node_id(1), "solo", max_queue, Switches(), splice=splice)
    state = tempfile.TemporaryDirectory(prefix="solo-node-")
    keeper = Keeper(_no_store, Path(state.name), Rates())
    node = Node(options, OllamaEngine(settings), Nobody(), lambda _: None, keeper)
    passthrough = Passthrough()
    front = public_front(node, passthrough, Operator(node), admin_token=ADMIN_TOKEN, clients=clients)
    listener = Listener(front, bind("127.0.0.1", [0]), head_s=head_s, ways=front if splice else None)
    await node.start(0)
    await listener.start()
    try:
        if ready:
            await until(lambda: node.view().me.can_serve, what="the engine's being ready")
        yield SoloNode(node, listener.address[1])
    finally:
        await listener.stop()
        await node.stop()
        await passthrough.close()
        state.cleanup()
