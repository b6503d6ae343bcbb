"""Which copies a node could do without: they are elsewhere, and nobody uses them here. Pure."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import ClusterView, NodeView
from ollama_dist.replication.moves.holders import content_of, keepers


@dataclass(frozen=True, slots=True)
class Spare:
    key: ModelKey
    name: str
    content: str
    size: int
    others: tuple[str, ...]
    """Names of the nodes that keep it, each store once."""


def spares(view: ClusterView, node: NodeView, least: Callable[[ModelKey], int] = lambda _: 1) -> list[Spare]:
    """``node``'s copies that leave at least ``least`` others, and always one, the largest first.

    None that is in memory there, whose content has a second name there (nothing would be freed), or whose
    holders disagree about what it is.
    """
    names = Counter(content_of(copy) for copy in node.models.values())
    found = []
    for key, copy in node.models.items():
        content = content_of(copy)
        if key in node.loaded or names[content] > 1 or view.is_in_conflict(key):
            continue
        stores = {other.store or other.id: other.name for other in keepers(view, key, content, but=node.id)}
        if len(stores) >= max(1, least(key)):
            found.append(Spare(key, copy.name, content, copy.size, tuple(sorted(stores.values()))))
    return sorted(found, key=lambda spare: (-spare.size, spare.key))
