"""Which nodes cannot serve a request at all, each with a code and a sentence. Pure.

A filter says what is impossible or forbidden; what is merely slow is a matter for the estimate.
"""

from collections.abc import Mapping, Sequence

from ollama_dist.core.ids import NodeId
from ollama_dist.core.labels import Wanted
from ollama_dist.core.modes import Mode
from ollama_dist.core.names import ModelKey
from ollama_dist.core.values import value
from ollama_dist.core.view import ClusterView, EngineState, InstalledModel, MemberState, NodeView
from ollama_dist.scheduling.breaker import Circuit
from ollama_dist.scheduling.decision import Rejection


@value(frozen=True, slots=True)
class Conditions:
    """What a decision depends on beside the request and the view."""

    mode: Mode = Mode.DISTRIBUTED
    circuits: Mapping[NodeId, Circuit] | None = None
    """Those that are not closed."""
    tried: Mapping[NodeId, str] | None = None
    """Nodes this request was sent to already, and how that ended."""

    def circuit(self, node: NodeId) -> Circuit:
        return (self.circuits or {}).get(node, Circuit.CLOSED)


def reject(node: NodeView, view: ClusterView, conditions: Conditions) -> Rejection | None:
    """Why nothing can be sent to ``node`` now, whatever it is; None when something can."""
    if conditions.tried and node.id in conditions.tried:
        return Rejection(node.id, "tried", f"was tried: {conditions.tried[node.id]}")
    if node.state in (MemberState.DEAD, MemberState.LEFT):
        return Rejection(node.id, "state", f"is {node.state}" + (f": {node.reason}" if node.reason else ""))
    if node.id != view.self_id and conditions.mode is not Mode.DISTRIBUTED:
        return Rejection(node.id, "mode", f"is not asked: this node is in mode {conditions.mode}")
    if not node.reachable:
        return Rejection(node.id, "reach", "cannot be reached from this node")
    if node.engine.state is EngineState.UNREACHABLE:
        return Rejection(node.id, "engine", "its engine does not answer")
    if node.draining and node.id != view.self_id:
        return Rejection(node.id, "drain", "is draining")
    if conditions.circuit(node.id) is Circuit.OPEN:
        return Rejection(node.id, "breaker", "failed just now; it is given a moment")
    return None


def reject_for_model(node: NodeView, key: ModelKey, meant: InstalledModel) -> Rejection | None:
    """Why ``node``, which has a model of that name on disk, cannot answer with the one that is meant."""
    model = node.models[key]
    if not model.is_same(meant):
        return Rejection(node.id, "conflict", "has another content under this name")
    if key in node.loaded:
        return None
    memory = node.resources.memory_bytes + sum(gpu.memory_bytes for gpu in node.resources.gpus)
    if 0 < memory < model.size:
        needs = f"needs {_gigabytes(model.size)}, has {_gigabytes(memory)} in all"
        return Rejection(node.id, "memory", needs)
    return None


def reject_for_labels(node: NodeView, wanted: Wanted) -> Rejection | None:
    """Why ``node`` is not one of those that were asked for by label."""
    missing = wanted.missing_of(node.labels)
    return Rejection(node.id, "label", f"has no label {missing}") if missing else None


def suspects_last(nodes: Sequence[NodeView]) -> tuple[list[NodeView], list[Rejection]]:
    """Only those surely alive, if there are any; the others then with the reason."""
    alive = [node for node in nodes if node.state is MemberState.ALIVE]
    if not alive or len(alive) == len(nodes):
        return list(nodes), []
    doubtful = [node for node in nodes if node.state is not MemberState.ALIVE]
    return alive, [Rejection(node.id, "suspect", "may be gone; others surely are not") for node in doubtful]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
