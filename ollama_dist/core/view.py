"""The cluster as one node sees it at one moment: an immutable picture, swapped whole."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from ollama_dist.core.errors import NodeNotFound
from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.requests import RunnerOption
from ollama_dist.core.values import value


class MemberState(StrEnum):
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


_THERE: Final = frozenset({MemberState.ALIVE, MemberState.SUSPECT})


class EngineKind(StrEnum):
    OLLAMA = "ollama"
    LLAMACPP = "llama.cpp"
    NONE = "none"


class EngineState(StrEnum):
    READY = "ready"
    STARTING = "starting"
    BUSY = "busy"
    """It is alive but slow to say what it runs."""
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Engine:
    """What runs models on a node."""

    kind: EngineKind = EngineKind.NONE
    version: str = ""
    state: EngineState = EngineState.UNREACHABLE


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int
    memory_free_bytes: int


@dataclass(frozen=True, slots=True)
class Resources:
    cpus: int = 0
    memory_bytes: int = 0
    memory_free_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()
    disk_free_bytes: int | None = None
    """Where its models are; None where that is not known."""

    @property
    def vram_free_bytes(self) -> int:
        return sum(gpu.memory_free_bytes for gpu in self.gpus)


@value(frozen=True, slots=True)
class Load:
    """How busy a node's engine is."""

    in_flight: int = 0
    """Requests in the engine or waiting for it."""
    waiting: int = 0
    """The part of `in_flight` beyond the slots."""
    slots: int = 1
    """Requests one loaded model answers at once."""
    tokens_per_s: float = 0.0
    """Lately measured decode rate of one request; 0 when nothing was measured yet."""


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model on a node's disk."""

    name: str
    """As the node's engine lists it."""
    digest: str
    """Of the manifest, as the engine lists it: 64 hex digits."""
    size: int
    row: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The engine's own line about it in ``/api/tags``, untouched."""
    identity: str = ""
    """Over the digests of its config and layers, equal across versions of Ollama; empty where not known."""

    def is_same(self, other: "InstalledModel") -> bool:
        """Whether both have the same content, as far as is known: a manifest may be spelt in two ways."""
        if self.identity and other.identity:
            return self.identity == other.identity
        return self.digest == other.digest


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in a node's memory."""

    name: str
    digest: str
    context_length: int = 0
    """Context per slot it was loaded with; 0 where the engine does not say."""
    options: tuple[RunnerOption, ...] | None = None
    """What its owner asked for when it was loaded; None where somebody else had it loaded."""
    row: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The engine's own line about it in ``/api/ps``, untouched."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What membership holds of a node, for operators."""

    generation: int = 0
    """How often it was started, from an arbitrary number on."""
    incarnation: int = 0
    """How often it had to contradict somebody since."""
    reached: bool = True
    """Whether this node reaches it by itself."""
    reaches_us: bool | None = None
    """Whether it says it reaches this node; None as long as it has said nothing of itself."""
    accuser: str = ""
    """Who accuses it, where it is suspect or dead: an id."""
    protocol: tuple[int, int] = (0, 0)
    """The oldest and newest version of the membership protocol it speaks."""


@value(frozen=True, slots=True)
class NodeView:
    """What is known of one node, ourselves included."""

    id: NodeId
    name: str
    state: MemberState = MemberState.ALIVE
    reachable: bool = True
    """False when it lives but this node cannot talk to it (a one-way link)."""
    since: float = 0.0
    """Unix time of the last change of `state`, by this node's clock; for people to read."""
    reason: str = ""
    address: str = ""
    """``host:port`` of its membership listener."""
    relay: tuple[str, int] | None = None
    """Where it takes relayed requests."""
    version: str = ""
    engine: Engine = Engine()
    load: Load = Load()
    resources: Resources = Resources()
    models: Mapping[ModelKey, InstalledModel] = field(default_factory=dict, hash=False)
    loaded: Mapping[ModelKey, LoadedModel] = field(default_factory=dict, hash=False)
    store: str = ""
    """Tells stores from each other: two nodes with the same hold the same files. Empty where not known."""
    rtt_s: float | None = None
    age_s: float = 0.0
    """How old the load is that we know of it, seconds."""
    load_version: int = 0
    """Rises with every load the node publishes: tells which of our own requests it has already counted."""
    draining: bool = False
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What its operator says of it."""
    standing: Standing = Standing()

    @property
    def is_routable(self) -> bool:
        return self.state is MemberState.ALIVE and self.reachable

    @property
    def can_serve(self) -> bool:
        """Whether its engine can be asked for something."""
        return self.is_routable and self.engine.state is not EngineState.UNREACHABLE


@dataclass(frozen=True)
class ClusterView:
    """Everything the scheduler may look at."""

    cluster_id: str
    self_id: NodeId
    nodes: Mapping[NodeId, NodeView]

    @property
    def me(self) -> NodeView:
        return self.nodes[self.self_id]

    def peers(self) -> Iterator[NodeView]:
        return (node for node in self.nodes.values() if node.id != self.self_id)

    @cached_property
    def holders(self) -> Mapping[ModelKey, tuple[NodeId, ...]]:
        """Who has each model on disk, in whatever state: built once per picture."""
        index: dict[ModelKey, list[NodeId]] = {}
        for node in self.nodes.values():
            for key in node.models:
                index.setdefault(key, []).append(node.id)
        return MappingProxyType({key: tuple(ids) for key, ids in index.items()})

    @cached_property
    def names(self) -> Mapping[NodeId, str]:
        """What every node is called."""
        return {node.id: node.name for node in self.nodes.values()}

    @cached_property
    def reaches_others(self) -> bool:
        """Whether another node can be talked to, and is not known to be gone."""
        return any(node.reachable and node.state in _THERE for node in self.peers())

    @cached_property
    def misses_others(self) -> bool:
        """Whether another node is known that did not leave by itself."""
        return any(node.state is not MemberState.LEFT for node in self.peers())

    @cached_property
    def worked_out(self) -> dict[Any, Any]:
        """For what follows from this picture alone, to be worked out once."""
        return {}

    def serving_holders(self, key: ModelKey) -> list[NodeView]:
        """The nodes that have the model on disk and an engine that answers."""
        return [node for node in map(self.nodes.__getitem__, self.holders.get(key, ())) if node.can_serve]

    def content(self, key: ModelKey, holders: Sequence[NodeView]) -> InstalledModel:
        """What a name stands for where its holders disagree: this node's own copy, else what most hold.

        A tie goes to the lowest digest, so that every node decides alike. ``holders`` must not be empty.
        """
        for node in holders:
            if node.id == self.self_id:
                return node.models[key]
        copies = [node.models[key] for node in holders]
        count = Counter(copy.identity or copy.digest for copy in copies)
        return min(copies, key=lambda copy: (-count[copy.identity or copy.digest], copy.digest))

    def is_in_conflict(self, key: ModelKey) -> bool:
        """Whether those who could serve it hold different content under this name."""
        copies = [node.models[key] for node in self.serving_holders(key)]
        return any(not copy.is_same(copies[0]) for copy in copies)

    def with_node(self, node: NodeView) -> "ClusterView":
        """The same picture with ``node`` in it, in place of what was known of it.

        Cheap when its models are the same: who holds what is then not worked out again.
        """
        changed = ClusterView(self.cluster_id, self.self_id, {**self.nodes, node.id: node})
        known = self.nodes.get(node.id)
        if known is not None and known.models is node.models and "holders" in self.__dict__:
            changed.__dict__["holders"] = self.holders
        if known is not None and known.name == node.name and "names" in self.__dict__:
            changed.__dict__["names"] = self.names
        return changed

    def after(self, earlier: "ClusterView") -> "ClusterView":
        """This picture, which shares with an ``earlier`` one what has not changed and others hold on to."""
        if self.names == earlier.names:
            self.__dict__["names"] = earlier.names
        return self

    def find(self, name_or_id: str) -> NodeView:
        """The node with this id or name; raises `NodeNotFound`."""
        for node in self.nodes.values():
            if name_or_id in (node.id, node.name):
                return node
        raise NodeNotFound(f"no node is called {name_or_id[:80]!r}")
