"""What must hold of membership after every single input, whatever happens."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import MemberState
from ollama_dist.gossip.protocol.effects import MemberView
from ollama_dist.gossip.protocol.rumours import QUEUE_MAX
from ollama_dist.sim.network import VirtualNode

GONE = (MemberState.DEAD, MemberState.LEFT)


@dataclass
class Watch:
    """Call it after every input; it fails on what must never be."""

    checks: int = 0
    states_seen: set[MemberState] = field(default_factory=set)
    _last: dict[tuple[str, int, NodeId], MemberView] = field(default_factory=dict)
    """What each observer, in each of its lives, last believed of each member."""
    _written: dict[tuple[NodeId, int, str, int], bytes | None] = field(default_factory=dict)
    """What each member wrote: by generation, key and version."""
    _compared: dict[tuple[str, int, NodeId], Mapping[str, bytes]] = field(default_factory=dict)

    def __call__(self, node: VirtualNode) -> None:
        self.checks += 1
        assert len(node.core._context.rumours) <= QUEUE_MAX
        assert len(node.core._context.pending) <= 64
        for view in node.core.members():
            self.states_seen.add(view.state)
            key = node.name, node.life, view.id
            before = self._last.get(key)
            if before is not None:
                self._follows(node, before, view)
            self._last[key] = view
            self._says_the_same(node, view)

    def _follows(self, node: VirtualNode, before: MemberView, now: MemberView) -> None:
        old, new = (before.generation, before.incarnation), (now.generation, now.incarnation)
        assert new >= old, f"{node.name}: the life of {now.id} fell from {old} to {new}"
        if before.state in GONE and now.state not in GONE:
            assert new > old, f"{node.name}: {now.id} came back without a new life"
        if before.state is MemberState.LEFT and new == old:
            assert now.state is MemberState.LEFT, f"{node.name}: {now.id} left and is {now.state}"
        if now.is_self:
            assert now.state not in (MemberState.SUSPECT, MemberState.DEAD)
        if old[0] == new[0]:
            assert now.cold_version >= before.cold_version
            assert now.hot_version >= before.hot_version

    def _says_the_same(self, node: VirtualNode, view: MemberView) -> None:
        """One version of a key has one value, whoever tells it."""
        reader = node.name, node.life, view.id
        if self._compared.get(reader) is view.cold:
            return
        self._compared[reader] = view.cold
        row = node.core._context.members.get(view.id)
        assert row is not None
        for entry in row.cold._entries.values():
            key = view.id, view.generation, entry.key, entry.version
            assert self._written.setdefault(key, entry.value) == entry.value, f"{node.name}: {key} differs"
            assert entry.version <= view.cold_version
