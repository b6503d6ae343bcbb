"""The one reference to the current picture of the cluster: built anew from what changed, swapped whole."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import (
    ClusterView,
    Engine,
    EngineState,
    MemberState,
    NodeView,
    Resources,
    Standing,
)
from ollama_dist.gossip.protocol.effects import MemberView
from ollama_dist.node.announce import Cold, Hot, decode_cold, decode_hot, engine_of, resources_of

UNHEARD: Final = Hot(engine_state=EngineState.STARTING)
"""What is assumed of a member that has not told its load yet: it has just joined."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """What a peer told of itself, decoded once: it is looked at every second, and seldom changes."""

    version: tuple[int, int]
    cold: Cold
    load: bytes
    hot: Hot
    engine: Engine
    resources: Resources


class ViewStore:
    """Holds the current `ClusterView`. The node itself and its peers change independently."""

    def __init__(self, cluster_id: str, me: NodeView) -> None:
        self._current = ClusterView(cluster_id, me.id, {me.id: me})
        self._heard: dict[NodeId, _Heard] = {}

    @property
    def current(self) -> ClusterView:
        return self._current

    def set_self(self, me: NodeView) -> None:
        self._current = self._current.with_node(me)

    def set_members(self, members: Iterable[MemberView], now: float, wall: float) -> None:
        """Take over what membership knows. ``now`` is its clock, ``wall`` Unix time for people to read."""
        me = self._current.me
        views = [view for view in members if not view.is_self]
        nodes = [self._node(view, now, wall) for view in views]
        named = _with_unique_names([me, *nodes], {view.id: view.generation for view in views})
        self._heard = {view.id: self._heard[view.id] for view in views if view.id in self._heard}
        self._current = ClusterView(self._current.cluster_id, me.id, named).after(self._current)

    def set_some(self, members: Iterable[MemberView], now: float, wall: float) -> bool:
        """Take over what these alone told of themselves. False, and nothing is changed, where one of them is
        new here, stands otherwise than before or has another name: that concerns the whole picture."""
        current = self._current
        for view in members:
            known, heard = current.nodes.get(view.id), self._heard.get(view.id)
            if known is None or heard is None or _stands(view) != (known.state, known.standing.generation):
                return False
            node = self._node(view, now, wall)
            if self._heard[view.id].cold.name != heard.cold.name:
                return False
            current = current.with_node(node if node.name == known.name else replace(node, name=known.name))
        self._current = current
        return True

    def _node(self, view: MemberView, now: float, wall: float) -> NodeView:
        heard = self._hear(view)
        cold, hot = heard.cold, heard.hot
        known = self._current.nodes.get(view.id)
        same = known is not None and known.models == cold.models
        host, _, _ = view.addresses[0].rpartition(":") if view.addresses else ("", "", "")
        return NodeView(
            id=view.id,
            name=cold.name or view.id,
            state=view.state,
            reachable=view.reachable,
            since=wall - (now - view.since),
            reason=view.reason,
            address=view.addresses[0] if view.addresses else "",
            relay=(host.strip("[]"), cold.relay_port) if host and cold.relay_port else None,
            version=cold.version,
            engine=heard.engine,
            load=hot.load,
            resources=heard.resources,
            models=known.models if known is not None and same else cold.models,
            loaded=cold.loaded,
            rtt_s=view.rtt,
            age_s=max(0.0, now - max(view.heard_at, view.hot_at)),
            load_version=view.hot_version,
            draining=hot.draining,
            labels=cold.labels,
            store=cold.store,
            standing=Standing(
                generation=view.generation,
                incarnation=view.incarnation,
                reached=view.reach,
                reaches_us=view.reaches_us if view.cold else None,
                accuser=view.accuser,
                protocol=view.protocol,
            ),
        )

    def _hear(self, view: MemberView) -> _Heard:
        version = (view.generation, view.cold_version)
        heard = self._heard.get(view.id)
        if heard is not None and (heard.version, heard.load) == (version, view.hot):
            return heard
        if heard is not None and heard.version == version:
            cold = heard.cold
        else:
            cold = decode_cold(view.cold)
            if not cold.name and heard is not None:  # started again, and has not said yet who it is
                cold = replace(cold, name=heard.cold.name)
        hot = decode_hot(view.hot) or (Hot() if view.hot or not view.cold else UNHEARD)
        heard = _Heard(version, cold, view.hot, hot, engine_of(cold, hot), resources_of(cold, hot))
        self._heard[view.id] = heard
        return heard


def _stands(view: MemberView) -> tuple[MemberState, int]:
    return view.state, view.generation


def _with_unique_names(
    nodes: Iterable[NodeView], generations: Mapping[NodeId, int]
) -> dict[NodeId, NodeView]:
    """Two nodes of one name both live; all but the one that lived first are shown with a piece of their id.

    This node keeps its name whatever others say: generations are no clock, and an order all agree on is not
    worth a node that does not know its own name.
    """
    taken: set[str] = set()
    unique: dict[NodeId, NodeView] = {}
    order = sorted(
        nodes, key=lambda node: (node.state is MemberState.DEAD, generations.get(node.id, 0), node.id)
    )
    for node in order:
        name = node.name if node.name not in taken else f"{node.name}-{node.id[:4]}"
        taken.add(name)
        unique[node.id] = node if name == node.name else replace(node, name=name)
    return unique
