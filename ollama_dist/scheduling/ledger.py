"""What this node has sent and the others cannot have counted yet. Pure.

A node's load is known as of its last gossip. Between two gossips this node may send it ten requests: without
a correction each of them would find it idle. The correction is the net number of requests begun and ended
since the load that is known was first seen; a new load starts it afresh.
"""

from dataclasses import dataclass

from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import NodeView


@dataclass(slots=True)
class _Entry:
    load_version: int
    net: int = 0


class Ledger:
    """Counts own dispatches per node."""

    def __init__(self) -> None:
        self._entries: dict[NodeId, _Entry] = {}

    def sent(self, node: NodeView) -> None:
        self._entry(node).net += 1

    def ended(self, node: NodeView) -> None:
        self._entry(node).net -= 1

    def in_flight(self, node: NodeView) -> int:
        """Requests at the node, as far as this node can know."""
        entry = self._entries.get(node.id)
        net = entry.net if entry is not None and entry.load_version == node.load_version else 0
        return max(0, node.load.in_flight + net)

    def forget(self, node: NodeId) -> None:
        self._entries.pop(node, None)

    def _entry(self, node: NodeView) -> _Entry:
        entry = self._entries.get(node.id)
        if entry is None or entry.load_version != node.load_version:
            entry = self._entries[node.id] = _Entry(node.load_version)
        return entry
