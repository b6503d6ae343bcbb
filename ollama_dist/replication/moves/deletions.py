"""Deletions that holders missed because they were away: known to all for a day, done when one is back. Pure.

What is meant is one copy, told from a later one of the same name by when its own engine says it was written:
that is only ever compared with what the same engine said before, so no two clocks are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ollama_dist.core.ids import NodeId, is_node_id
from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import ClusterView, InstalledModel, NodeView
from ollama_dist.replication.moves.records import Record

KIND: Final = "deletion"

REMEMBERED_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Missed:
    """A copy that was to be deleted while its node was away."""

    model: ModelKey
    node: NodeId
    digest: str
    written: str
    """``modified_at``, as its engine told it."""
    at: float
    """Unix time of the deletion, by the clock of the node that was asked."""

    @property
    def name(self) -> str:
        """Of its record."""
        return f"{self.model} {self.node}"

    def value(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "node": self.node,
            "digest": self.digest,
            "written": self.written,
            "at": self.at,
        }


def missed(view: ClusterView, model: ModelKey, told: Iterable[NodeId], now: float) -> list[Missed]:
    """The copies of those that hold the model and could not be ``told`` of its deletion."""
    away = [view.nodes[node] for node in view.holders.get(model, ()) if node not in set(told)]
    copies = [(node.id, node.models[model]) for node in away]
    return [Missed(model, node, copy.digest, written(copy), now) for node, copy in copies]


def written(copy: InstalledModel) -> str:
    return str(copy.row.get("modified_at", ""))


def missed_in(records: Iterable[Record]) -> list[Missed]:
    """What ``records`` tell; what makes no sense is left out."""
    found = [_read(record) for record in records]
    return [each for each in found if each is not None]


def is_elsewhere(each: Missed, view: ClusterView, known: Iterable[Missed] = ()) -> bool:
    """Whether it was pulled anew anywhere but on this node, whose copy it was.

    Copies that are to go as well, by what is ``known``, say nothing: who was away together is back together.
    """
    doomed = {other.node: other for other in known if other.model == each.model}
    others = [node for node in view.serving_holders(each.model) if node.id != view.self_id]
    return any(not is_meant(doomed.get(node.id), node) for node in others)


def is_meant(each: Missed | None, node: NodeView) -> bool:
    """Whether the node's copy is the one that is to go."""
    copy = node.models.get(each.model) if each is not None else None
    return (
        each is not None and copy is not None and (copy.digest, written(copy)) == (each.digest, each.written)
    )


def expired(all_missed: Iterable[Missed], now: float) -> list[Missed]:
    return [each for each in all_missed if now - each.at > REMEMBERED_S]


def _read(record: Record) -> Missed | None:
    said = record.value or {}
    texts = [said.get(name) for name in ("model", "node", "digest", "written")]
    at = said.get("at")
    if not all(isinstance(text, str) for text in texts) or not isinstance(at, int | float):
        return None
    model, node, digest, when = map(str, texts)
    return Missed(ModelKey(model), NodeId(node), digest, when, float(at)) if is_node_id(node) else None
