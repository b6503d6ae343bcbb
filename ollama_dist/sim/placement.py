"""Placement under virtual time: nodes that each decide for themselves from pictures that are a little old.

What decides is the real thing (`replication.placement`, `replication.promises`); gossip is a delay, a copy
takes its size, and nodes crash, come back and are cut off from each other. `run` raises `Broken` the moment
a model is lost or a disk fuller than allowed.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final, TypeVar

from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import (
    ClusterView,
    Engine,
    EngineKind,
    EngineState,
    InstalledModel,
    MemberState,
    NodeView,
    Resources,
)
from ollama_dist.replication.moves.demand import Demand
from ollama_dist.replication.moves.holders import keepers
from ollama_dist.replication.moves.operations import Action
from ollama_dist.replication.moves.placement import COPY_BYTES_PER_S, Picture, Wish, plan
from ollama_dist.replication.moves.policies import Policy
from ollama_dist.replication.moves.promises import NotPromised, Promises
from ollama_dist.replication.moves.shelf import Shelf

STEP_S: Final = 5.0
PERIOD_S: Final = 30.0
"""Between two decisions of a node."""

DEATH_S: Final = 10.0
"""Until the others hold a silent node dead."""

LAG_STEPS: Final = 3
"""How many steps old at most what a node knows of another."""

GB: Final = 10**9
DISK: Final = 100 * GB
RESERVE: Final = 10 * GB

_Result = TypeVar("_Result")


class Broken(AssertionError):
    """Something happened that must not; it says when and what."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What a node did at last."""

    at: float
    node: NodeId
    model: ModelKey
    action: Action


@dataclass
class SimNode:
    id: NodeId
    models: dict[ModelKey, InstalledModel]
    lags: dict[NodeId, int] = field(default_factory=dict)
    phase: float = 0.0
    is_up: bool = True
    silent_since: float = 0.0
    side: int = 0
    """Nodes see those on their own side."""
    work: tuple[Wish, float] | None = None
    """What it does, and when that ends."""
    placed: set[ModelKey] = field(default_factory=set)
    told: list[tuple[NodeView, dict[ModelKey, Action]]] = field(default_factory=list)
    """What it said of itself, step by step, the newest last."""
    promises: Promises | None = None
    disk: int = DISK

    @property
    def free(self) -> int:
        return self.disk - sum(model.size for model in self.models.values())


class World:
    """``decide`` is what each node does with its picture."""

    def __init__(
        self,
        seed: int,
        nodes: int = 6,
        models: int = 10,
        *,
        by_demand: bool = True,
        disk: int = DISK,
        decide: Callable[[Picture], list[Wish]] = plan,
    ) -> None:
        self.rng = Random(seed)
        self._decide = decide
        self._disk = disk
        self.now = 100_000.0
        self.by_demand = by_demand
        self.policies: tuple[Policy, ...] = ()
        self.demand: dict[ModelKey, Demand] = {}
        self.deeds: list[Deed] = []
        self.refused = 0
        """Times a copy was not given up because nobody promised to keep another."""
        self.keys = [ModelKey(f"registry.ollama.ai/library/m{number}:latest") for number in range(models)]
        ids = [NodeId(f"{number + 1:016x}") for number in range(nodes)]
        self.nodes = {each: self._node(each, ids) for each in ids}
        for number, key in enumerate(self.keys):
            size = self.rng.randint(1, 12) * GB
            for node in self.rng.sample(ids, self.rng.randint(1, 3)):
                if self.nodes[node].free - size > RESERVE or not any(
                    key in n.models for n in self.nodes.values()
                ):
                    self.nodes[node].models[key] = InstalledModel(f"m{number}:latest", f"{number:064x}", size)

    def _node(self, node: NodeId, ids: list[NodeId]) -> SimNode:
        lags = {each: self.rng.randrange(LAG_STEPS) for each in ids}
        made = SimNode(node, {}, lags, self.rng.uniform(0, PERIOD_S), disk=self._disk)
        made.promises = Promises(Shelf(None), lambda: self.view(made), lambda: self.now)
        return made

    # One step

    def run(self, seconds: float, trouble: float = 0.0) -> None:
        """Go on for so long; at each step something happens with the chance ``trouble``."""
        for _ in range(round(seconds / STEP_S)):
            if self.rng.random() < trouble:
                self._trouble()
            self._tell()
            for node in self.nodes.values():
                if node.is_up:
                    self._act(node)
            self._check()
            self.now += STEP_S

    @property
    def sizes(self) -> dict[ModelKey, int]:
        """Bytes of each model."""
        return {key: copy.size for node in self.nodes.values() for key, copy in node.models.items()}

    def begin_trouble(self) -> None:
        """Somebody says what is wanted, and asks for models."""
        self._rule()
        self._shift()

    def calm(self) -> None:
        """All are back, and see each other."""
        for node in self.nodes.values():
            node.is_up, node.side = True, 0

    def _act(self, node: SimNode) -> None:
        if node.work is not None:
            wish, until = node.work
            if self.now >= until:
                node.work = None
                self._finish(node, wish)
        elif (self.now + node.phase) % PERIOD_S < STEP_S:
            view = self.view(node)
            wishes = self._decide(self.picture(node, view))
            if wishes:
                self._begin(node, wishes[0], view)

    def _begin(self, node: SimNode, wish: Wish, view: ClusterView) -> None:
        if wish.action is Action.COPY:
            for each in wish.first:
                if not self._gives_up(node, each, view):
                    return
                self._finish(node, each)
            if node.free - wish.size * 1.1 >= RESERVE:
                node.work = wish, self.now + wish.size / COPY_BYTES_PER_S
        elif self._gives_up(node, wish, view):
            node.work = wish, self.now + self.rng.choice((0.0, STEP_S, 3 * STEP_S))

    def _gives_up(self, node: SimNode, wish: Wish, view: ClusterView) -> bool:
        """Whether a copy may go now: somebody has promised to keep another."""
        assert node.promises is not None
        try:
            node.promises.give_up(wish.model)
        except NotPromised:
            self.refused += 1
            return False
        if self._is_promised(node, wish, view):
            return True
        self.refused += 1
        node.promises.given_up(wish.model)
        return False

    def _is_promised(self, node: SimNode, wish: Wish, view: ClusterView) -> bool:
        for keeper in keepers(view, wish.model, wish.content, but=node.id):
            other = self.nodes[keeper.id]
            if not other.is_up or other.side != node.side or other.promises is None:
                continue
            try:
                at_once(other.promises.give(wish.model, wish.content, node.id))
            except NotPromised:
                continue
            return True
        return False

    def _finish(self, node: SimNode, wish: Wish) -> None:
        if wish.action is Action.DELETE:
            node.models.pop(wish.model, None)
            node.placed.discard(wish.model)
            assert node.promises is not None
            node.promises.given_up(wish.model)
        else:
            givers = [
                other
                for other in self.nodes.values()
                if other.is_up and other.side == node.side and wish.model in other.models
            ]
            if not givers:
                return
            node.models[wish.model] = givers[0].models[wish.model]
            node.placed.add(wish.model)
        self.deeds.append(Deed(self.now, node.id, wish.model, wish.action))

    # What each knows

    def _tell(self) -> None:
        for node in self.nodes.values():
            if node.is_up:
                intents = {node.work[0].model: node.work[0].action} if node.work else {}
                node.told = [*node.told, (self._said(node), intents)][-LAG_STEPS:]

    def _said(self, node: SimNode) -> NodeView:
        return NodeView(
            node.id,
            node.id[-2:],
            engine=Engine(EngineKind.OLLAMA, "1", EngineState.READY),
            resources=Resources(disk_free_bytes=node.free),
            models=dict(node.models),
        )

    def view(self, node: SimNode) -> ClusterView:
        """The cluster as ``node`` sees it."""
        seen = {node.id: self._said(node)}
        for other in self.nodes.values():
            if other is not node and other.told:
                seen[other.id] = self._seen(node, other)
        return ClusterView("simulated", node.id, seen)

    def _seen(self, node: SimNode, other: SimNode) -> NodeView:
        said = other.told[max(0, len(other.told) - 1 - node.lags[other.id])][0]
        if other.is_up and other.side == node.side:
            return said
        silent = self.now - other.silent_since
        state = MemberState.DEAD if silent > DEATH_S else MemberState.SUSPECT
        return replace(said, state=state, since=other.silent_since)

    def picture(self, node: SimNode, view: ClusterView) -> Picture:
        intents = {
            other.id: other.told[max(0, len(other.told) - 1 - node.lags[other.id])][1]
            for other in self.nodes.values()
            if other is not node and other.told
        }
        return Picture(
            view,
            self.now,
            self.policies,
            self.demand,
            intents,
            frozenset(node.placed),
            RESERVE,
            self.by_demand,
        )

    # What happens to them

    def _trouble(self) -> None:
        happening = self.rng.choice(
            (self._crash, self._return, self._cut, self._heal, self._shift, self._rule)
        )
        happening()

    def _crash(self) -> None:
        node = self.rng.choice(list(self.nodes.values()))
        if node.is_up:
            node.is_up, node.silent_since, node.work = False, self.now, None
            if node.promises is not None:
                for key in self.keys:
                    node.promises.given_up(key)

    def _return(self) -> None:
        down = [node for node in self.nodes.values() if not node.is_up]
        if down:
            self.rng.choice(down).is_up = True

    def _cut(self) -> None:
        for node in self.nodes.values():
            node.side = self.rng.randrange(2)
            node.silent_since = self.now

    def _heal(self) -> None:
        for node in self.nodes.values():
            node.side = 0

    def _shift(self) -> None:
        self.demand = {
            key: Demand(self.rng.uniform(0.0, 1.0), self.rng.uniform(0.0, 10.0))
            for key in self.rng.sample(self.keys, 3)
        }

    def _rule(self) -> None:
        policies = []
        for key in self.rng.sample(self.keys, 5):
            least = self.rng.randint(0, 3)
            most = self.rng.choice((None, max(1, least), max(1, least) + 1))
            pinned = tuple(self.rng.sample(list(self.nodes), self.rng.randint(0, 1)))
            policies.append(Policy(key.partition("/library/")[2], least, most, pinned))
        self.policies = tuple(policies)

    # What must hold

    def _check(self) -> None:
        for key in self.keys:
            if not any(key in node.models for node in self.nodes.values()):
                raise Broken(f"at {self.now:.0f} s nobody has {key} any more")
        for node in self.nodes.values():
            if node.free < RESERVE and node.placed & set(node.models):
                raise Broken(f"at {self.now:.0f} s the disk of {node.id} has {node.free} bytes free")


def at_once(work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of work that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as ended:
        result: _Result = ended.value
        return result
    raise AssertionError("it waits for something")
