"""Several nodes in one process, each in front of a scripted Ollama, that know each other at once.

Membership is a board they all write on and read from, and requests between them travel without TLS: what is
tested with this is what nodes do with what they know, not how they come to know it.
"""

import contextlib
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ollama_dist.admin.operator import Operator
from ollama_dist.api.listener import Listener, bind
from ollama_dist.api.passthrough import Passthrough
from ollama_dist.api.server import peer_front, public_front
from ollama_dist.backends.ollama.engine import OllamaEngine, OllamaSettings
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import InstalledModel, MemberState
from ollama_dist.gossip.protocol.effects import MemberView
from ollama_dist.gossip.subscribers import Subscriber
from ollama_dist.node.modes import Switches
from ollama_dist.node.mover import Mover, MoverSettings
from ollama_dist.node.node import Node, NodeOptions
from ollama_dist.replication.disk.keeper import Keeper
from ollama_dist.replication.disk.locating import Found
from ollama_dist.replication.disk.store import OllamaStore
from ollama_dist.replication.pace import Rates
from tests.support.fake_ollama import FakeOllama
from tests.support.solo_node import ADMIN_TOKEN, Nobody
from tests.support.views import node_id
from tests.support.wait import until


@dataclass
class Entry:
    """What one node has written on the board."""

    state: MemberState = MemberState.ALIVE
    reason: str = "joined"
    load: bytes = b""
    load_version: int = 0
    cold: dict[str, bytes] = field(default_factory=dict)
    cold_version: int = 0


class Board:
    """What all nodes know of all."""

    def __init__(self) -> None:
        self.entries: dict[NodeId, Entry] = {}
        self._subscribers: list[Subscriber] = []

    def subscribe(self, changed: Subscriber) -> None:
        self._subscribers.append(changed)

    def changed(self, *nodes: NodeId) -> None:
        """Of these, or of all."""
        for tell in self._subscribers:
            tell(nodes or list(self.entries))

    def set_state(self, node: NodeId, state: MemberState, reason: str) -> None:
        self.entries[node].state, self.entries[node].reason = state, reason
        self.changed(node)


class BoardCluster(Nobody):
    """One node's membership."""

    def __init__(self, board: Board, me: NodeId) -> None:
        self._board = board
        self._me = me
        self._entry = board.entries[me] = Entry()

    def members(self) -> Sequence[MemberView]:
        return [self._view(node, entry) for node, entry in self._board.entries.items()]

    def member(self, member: NodeId) -> MemberView | None:
        entry = self._board.entries.get(member)
        return self._view(member, entry) if entry is not None else None

    def subscribe(self, changed: Subscriber) -> None:
        self._board.subscribe(changed)

    def set_load(self, data: bytes) -> None:
        self._entry.load = data
        self._entry.load_version += 1
        self._board.changed(self._me)

    def set_state(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._entry.cold.pop(key, None)
        else:
            self._entry.cold[key] = value
        self._entry.cold_version += 1
        self._board.changed(self._me)

    def _view(self, node: NodeId, entry: Entry) -> MemberView:
        return MemberView(
            id=node,
            state=entry.state,
            is_self=node == self._me,
            reachable=True,
            since=0.0,
            reason=entry.reason,
            addresses=("127.0.0.1:1",),
            generation=1,
            incarnation=0,
            rtt=0.0005,
            hot=entry.load,
            hot_version=entry.load_version,
            hot_at=float("-inf"),
            heard_at=float("inf"),
            cold=dict(entry.cold),
            cold_version=entry.cold_version,
        )


@dataclass
class JoinedNode:
    name: str
    node: Node
    fake: FakeOllama
    public: Listener
    relay: Listener
    passthrough: Passthrough

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.public.address[1]}"

    async def stop(self) -> None:
        parts = (self.fake.stop, self.passthrough.close, self.node.stop, self.relay.stop, self.public.stop)
        async with contextlib.AsyncExitStack() as undo:  # the last first, and all of them
            for part in parts:
                undo.push_async_callback(part)


class JoinedNodes:
    """Nodes by name. Each node's models are given by name; the ids follow the order."""

    def __init__(self) -> None:
        self.board = Board()
        self._nodes: dict[str, JoinedNode] = {}

    def __getitem__(self, name: str) -> JoinedNode:
        return self._nodes[name]

    def __iter__(self) -> Any:
        return iter(self._nodes.values())

    async def add(
        self,
        name: str,
        models: Sequence[str],
        node_options: Mapping[str, Any] | None = None,
        engine: int | None = None,
        folder: Path | None = None,
        pull_hosts: Collection[str] = (),
        is_readable: bool = True,
        **fake_options: Any,
    ) -> JoinedNode:
        """With a ``folder`` its models lie there, and it can be brought others.

        Not ``is_readable``: its engine keeps them where the node may not look.
        """
        if folder is not None:
            fake_options["folder"] = folder / name / "models"
        fake = FakeOllama(**{"age": "0.33.0-rc2", "models": tuple(models), **fake_options})
        undo = contextlib.AsyncExitStack()
        async with undo:  # what a start that fails leaves open keeps the loop from closing, deaf to Ctrl-C
            undo.push_async_callback(fake.stop)
            await fake.start()
            me = node_id(len(self._nodes) + 1)
            settings = OllamaSettings(
                me, address=("127.0.0.1", engine or fake.port), slots=fake_options.get("slots", 1)
            )
            options = NodeOptions(me, name, 4, Switches(), **(node_options or {}))
            local = OllamaEngine(settings)
            keeper = keeper_of(fake, folder / name, is_readable) if folder is not None else None
            node = Node(options, local, BoardCluster(self.board, me), lambda _: None, keeper)
            if folder is not None and keeper is not None:
                moving = MoverSettings(pull_hosts=pull_hosts)
                node.mover = Mover(moving, folder / name, local, keeper, node.view, node.target)
            passthrough = Passthrough()
            front = public_front(node, passthrough, Operator(node), admin_token=ADMIN_TOKEN)
            members = peer_front(node, passthrough, lambda _: None)
            public, relay = (
                Listener(each, bind("127.0.0.1", [0]), ways=each if node.options.splice else None)
                for each in (front, members)
            )
            for part in (passthrough.close, node.stop, relay.stop, public.stop):
                undo.push_async_callback(part)
            await node.start(relay.address[1])
            await relay.start()
            await public.start()
            joined = JoinedNode(name, node, public=public, relay=relay, fake=fake, passthrough=passthrough)
            await until(lambda: node.view().me.can_serve, what=f"{name}'s engine being ready")
            undo.pop_all()
        self._nodes[name] = joined
        return joined

    async def settle(self) -> None:
        """Until everybody knows what everybody has."""
        wanted = {node.name: set(node.node.view().me.models) for node in self}

        def agree() -> bool:
            return all(
                {peer.name: set(peer.models) for peer in node.node.view().nodes.values()} == wanted
                for node in self
            )

        await until(agree, what="everybody's knowing everything")

    async def stop(self) -> None:
        async with contextlib.AsyncExitStack() as undo:
            for node in self:
                undo.push_async_callback(node.stop)


def keeper_of(fake: FakeOllama, state: Path, is_readable: bool = True) -> Keeper:
    """What knows the files of a fake that has some."""
    assert fake.store is not None
    store = OllamaStore(fake.store.folder)

    async def find(_models: Iterable[InstalledModel]) -> Found:
        return Found(store) if is_readable else Found(None, "it may not be read")

    return Keeper(find, state, Rates())


@contextlib.asynccontextmanager
async def joined_nodes(
    models: Mapping[str, Sequence[str]],
    node_options: Mapping[str, Any] | None = None,
    engines: Mapping[str, int] | None = None,
    folder: Path | None = None,
    pull_hosts: Collection[str] = (),
    **fake_options: Any,
) -> AsyncIterator[JoinedNodes]:
    """Nodes by name with the models each holds, once all know of all.

    ``engines`` are ports of engines that stand in for the scripted Ollama of some.
    """
    nodes = JoinedNodes()
    try:
        for name, held in models.items():
            await nodes.add(
                name, held, node_options, (engines or {}).get(name), folder, pull_hosts, **fake_options
            )
        await nodes.settle()
        yield nodes
    finally:
        await nodes.stop()
