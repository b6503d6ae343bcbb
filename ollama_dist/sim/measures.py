"""What a run shows: how soon deaths and news are known, what judging costs and how often it errs.

Only who could know is counted: a node that is down, stands still or is cut off when something happens, or
before it has heard of it, is not waited for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip import codec
from ollama_dist.gossip.protocol.effects import Effect, Event, EventKind, Updated
from ollama_dist.gossip.protocol.messages import Envelope, Kind
from ollama_dist.sim.network import Given, VirtualNetwork, VirtualNode

GRACE_S: Final = 5.0
"""For so long after a node or a link was in trouble, a suspicion is no error of who suspects."""

REPORTERS: Final = 16
"""Nodes whose loads are followed."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure was distributed over a run. Seconds, if nothing else is said."""

    count: int
    p50: float
    p90: float
    p99: float
    most: float


def spread_of(values: Sequence[float]) -> Spread | None:
    """None for no values."""
    if not values:
        return None
    ordered = sorted(values)

    def rank(part: float) -> float:
        return round(ordered[max(0, math.ceil(part * len(ordered)) - 1)], 4)

    return Spread(len(ordered), rank(0.5), rank(0.9), rank(0.99), round(ordered[-1], 4))


@dataclass(slots=True)
class _Waiting:
    """Something that everybody is to know: since when it is so, and who does not know yet."""

    began: float
    lacking: set[str]
    at_least: tuple[int, int] = (0, 0)
    """Of news: the generation and version (or incarnation) that brings it."""
    first: float | None = None
    """Of a death: when anybody first suspected it."""


@dataclass
class Traffic:
    """Messages of one kind, requests and replies, and their bytes."""

    messages: int = 0
    measured: int = 0
    bytes: int = 0

    @property
    def bytes_each(self) -> float:
        return self.bytes / self.measured if self.measured else 0.0


@dataclass
class Measures:
    """Watches a run, once `begin` was called."""

    network: VirtualNetwork
    measure_every: int = 1
    """Every so manyth message is put into bytes."""
    first_suspicion: list[float] = field(default_factory=list)
    dead_everywhere: list[float] = field(default_factory=list)
    claims: list[float] = field(default_factory=list)
    """From a new life (a start, a refutation) until all know of it."""
    writes: list[float] = field(default_factory=list)
    """From a write of slow state until all have it."""
    loads: list[float] = field(default_factory=list)
    """From the publication of a load until one other node has it or a newer one."""
    heals: list[float] = field(default_factory=list)
    """From the end of a partition until all see all."""
    unfinished: int = 0
    """Deaths and news that had not come to everybody when the run ended or a fault ended the measuring."""
    false_suspicions: int = 0
    false_deaths: int = 0
    deaths: int = 0
    node_seconds: float = 0.0
    traffic: dict[Kind, Traffic] = field(default_factory=dict)
    most_queued: int = 0
    _running: bool = False
    _dying: dict[NodeId, _Waiting] = field(default_factory=dict)
    _claims: dict[NodeId, list[_Waiting]] = field(default_factory=dict)
    _writes: dict[NodeId, list[_Waiting]] = field(default_factory=dict)
    _loads: dict[NodeId, list[_Waiting]] = field(default_factory=dict)
    _lives: dict[NodeId, tuple[int, int]] = field(default_factory=dict)
    _told: dict[NodeId, tuple[int, int]] = field(default_factory=dict)
    _reporters: set[NodeId] = field(default_factory=set)
    _excused: set[tuple[str, NodeId]] = field(default_factory=set)
    """Suspicions that had a reason."""
    _links_troubled_at: float = float("-inf")
    _counted_at: float = 0.0
    _sent: int = 0

    # What the scenario tells

    def begin(self, rng: Random) -> None:
        """The cluster has settled: from now on everything counts."""
        self._running = True
        self._counted_at = self.network.now
        nodes = list(self.network.nodes.values())
        self._reporters = {node.id for node in rng.sample(nodes, min(REPORTERS, len(nodes)))}

    def end(self) -> None:
        self.elapsed()
        self._running = False
        waiting = [*self._claims.values(), *self._writes.values(), list(self._dying.values())]
        self.unfinished += sum(map(len, waiting))

    def went(self, node: VirtualNode) -> None:
        """The node is down, and to be missed."""
        if not self._running or self.network.by_id.get(node.id) is not node:
            return
        self.elapsed()
        self.unreachable(node)
        observers = {
            each.name
            for each in self._able(node)
            if (row := each.core.inside.members.get(node.id)) is not None and row.is_living
        }
        if observers:
            self._dying[node.id] = _Waiting(self.network.now, observers)

    def came(self, node: VirtualNode) -> None:
        """The node was started: who still missed it has no reason to any more."""
        self.elapsed()
        if self._dying.pop(node.id, None) is not None:
            self.unfinished += 1

    def unreachable(self, node: VirtualNode) -> None:
        """The node stands still or is gone: nobody waits for what it knows, or for what it last said."""
        for members in (self._claims, self._writes, self._loads):
            members.pop(node.id, None)
        for waiting in self._all():
            waiting.lacking.discard(node.name)
        self._sift()

    def parted(self) -> None:
        """Some cannot hear others any more: what is under way is not measured to its end."""
        self.links_troubled()
        waiting = [*self._claims.values(), *self._writes.values(), list(self._dying.values())]
        self.unfinished += sum(map(len, waiting))
        for members in (self._claims, self._writes, self._loads):
            members.clear()
        self._dying.clear()

    def links_troubled(self) -> None:
        """Something was wrong between nodes until now."""
        self._links_troubled_at = self.network.now

    def elapsed(self) -> None:
        """Node-seconds up to now; called before the number of running nodes changes."""
        if self._running:
            self.node_seconds += (self.network.now - self._counted_at) * len(self.network.living())
            self._counted_at = self.network.now

    # What the network tells

    def sent(self, node: VirtualNode, envelope: Envelope) -> None:  # noqa: ARG002 - an Observer
        if not self._running:
            return
        traffic = self.traffic.get(envelope.kind)
        if traffic is None:
            traffic = self.traffic[envelope.kind] = Traffic()
        traffic.messages += 1
        self._sent += 1
        if self._sent % self.measure_every == 0:
            traffic.measured += 1
            traffic.bytes += len(codec.encode(envelope))

    def handled(self, node: VirtualNode, given: Given, effects: list[Effect]) -> None:  # noqa: ARG002
        if not self._running:
            return
        if (queued := self.network.queued) > self.most_queued:
            self.most_queued = queued
        self._own_news(node)
        loads, writes, claims = self._loads, self._writes, self._claims
        for effect in effects:
            if isinstance(effect, Event):
                self._judges(node, effect.kind, effect.member)
                self._learns(node, effect.member)
            elif isinstance(effect, Updated):
                for member in effect.members:
                    if member in loads or member in writes or member in claims:
                        self._learns(node, member)

    # Errors of judgement

    def _judges(self, node: VirtualNode, kind: EventKind, member: NodeId) -> None:
        if kind is EventKind.SUSPECT:
            self._suspects(node, member)
        elif kind in (EventKind.DEAD, EventKind.LEFT):
            self._buries(node, member, is_death=kind is EventKind.DEAD)

    def _suspects(self, node: VirtualNode, member: NodeId) -> None:
        waiting = self._dying.get(member)
        if waiting is not None and waiting.first is None:
            waiting.first = self.network.now
            self.first_suspicion.append(self.network.now - waiting.began)
        if self._has_reason(node, member):
            self._excused.add((node.name, member))
        else:
            self._excused.discard((node.name, member))
            self.false_suspicions += 1

    def _buries(self, node: VirtualNode, member: NodeId, *, is_death: bool) -> None:
        if is_death:
            self.deaths += 1
            if (node.name, member) not in self._excused and not self._has_reason(node, member):
                self.false_deaths += 1
        waiting = self._dying.get(member)
        if waiting is not None:
            waiting.lacking.discard(node.name)
            if not waiting.lacking:
                del self._dying[member]
                self.dead_everywhere.append(self.network.now - waiting.began)

    def _has_reason(self, node: VirtualNode, member: NodeId) -> bool:
        """Whether the member, or the way to it, really is or just was in trouble."""
        accused, links = self.network.by_id.get(member), self.network.links
        if accused is None or not accused.runs or self.network.now - accused.troubled_at < GRACE_S:
            return True
        if self.network.now - self._links_troubled_at < GRACE_S:
            return True
        there, back = links.passes(node.name, accused.name), links.passes(accused.name, node.name)
        return not (there and back)

    # News

    def _own_news(self, node: VirtualNode) -> None:
        """A life or a load of its own that is new is to be known by all."""
        row = node.core.inside.members.get(node.id)
        if row is None or not node.core.is_member or self.network.by_id.get(node.id) is not node:
            return
        life = row.standing.life
        if self._lives.get(node.id) != life:
            if node.id in self._lives:
                self._follow(self._claims, node, life)
            self._lives[node.id] = life
        if node.id in self._reporters and row.hot is not None:
            told = row.standing.generation, row.hot.version
            if self._told.get(node.id) != told:
                self._told[node.id] = told
                self._follow(self._loads, node, told)

    def wrote(self, node: VirtualNode) -> None:
        """The node has just written slow state."""
        row = node.core.inside.members.get(node.id)
        if row is not None and self._running:
            self._follow(self._writes, node, (row.standing.generation, row.cold.version))

    def _follow(
        self, members: dict[NodeId, list[_Waiting]], node: VirtualNode, at_least: tuple[int, int]
    ) -> None:
        lacking = {each.name for each in self._able(node)}
        if lacking:
            members.setdefault(node.id, []).append(_Waiting(self.network.now, lacking, at_least))

    def _learns(self, node: VirtualNode, member: NodeId) -> None:
        """Something about the member changed at the node: perhaps what it was waited for."""
        row = node.core.inside.members.get(member)
        if row is None:
            return
        generation, now = row.standing.generation, self.network.now
        if waiting := self._claims.get(member):
            self._strike(waiting, node.name, row.standing.life, self.claims)
        if waiting := self._writes.get(member):
            self._strike(waiting, node.name, (generation, row.cold.version), self.writes)
        if (waiting := self._loads.get(member)) and row.hot is not None:
            version = generation, row.hot.version
            for each in waiting:
                if each.at_least <= version and node.name in each.lacking:
                    each.lacking.discard(node.name)
                    self.loads.append(now - each.began)
            self._loads[member] = [each for each in waiting if each.lacking]

    def _strike(
        self, waiting: list[_Waiting], name: str, version: tuple[int, int], done: list[float]
    ) -> None:
        over = []
        for each in waiting:
            if each.at_least <= version:
                each.lacking.discard(name)
                if not each.lacking:
                    over.append(each)
                    done.append(self.network.now - each.began)
        for each in over:
            waiting.remove(each)

    # Shared

    def _able(self, node: VirtualNode) -> list[VirtualNode]:
        """Who can hear of the node now."""
        links = self.network.links
        return [
            each
            for each in self.network.nodes.values()
            if each is not node and each.runs and each.core.is_member and links.passes(node.name, each.name)
        ]

    def _all(self) -> list[_Waiting]:
        """All that is waited for."""
        news = [self._claims, self._writes, self._loads]
        return [each for members in news for waiting in members.values() for each in waiting] + list(
            self._dying.values()
        )

    def _sift(self) -> None:
        """Drop what nobody is left to hear."""
        for members in (self._claims, self._writes, self._loads):
            for member, waiting in list(members.items()):
                members[member] = [each for each in waiting if each.lacking]
        for member in [member for member, each in self._dying.items() if not each.lacking]:
            del self._dying[member]
