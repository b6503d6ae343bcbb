"""Who has a model, as far as a decision about its copies may rely on it. Pure."""

from collections.abc import Iterable, Iterator

from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import ClusterView, InstalledModel, NodeView


def content_of(copy: InstalledModel) -> str:
    """What tells two copies of one name apart: the identity where it is known, else the digest."""
    return copy.identity or copy.digest


def has(node: NodeView, key: ModelKey, content: str = "") -> bool:
    """Whether it lists the model, with that content where one is meant."""
    copy = node.models.get(key)
    return copy is not None and content in ("", copy.identity, copy.digest)


def identity_of(nodes: Iterable[NodeView], key: ModelKey, content: str) -> Digest | None:
    """The identity that is meant by ``content``; None where only a digest is known."""
    copies = [node.models[key] for node in nodes if key in node.models]
    known = {copy.identity for copy in copies if content in (copy.identity, copy.digest)} - {""}
    return Digest(known.pop()) if len(known) == 1 else None


def holders(view: ClusterView, key: ModelKey, content: str = "") -> list[NodeView]:
    """The nodes that can give the model now, by name."""
    found = [node for node in view.serving_holders(key) if has(node, key, content)]
    return sorted(found, key=lambda node: (node.name, node.id))


def keepers(view: ClusterView, key: ModelKey, content: str, *, but: NodeId) -> list[NodeView]:
    """The other nodes that have a copy of their own and are to stay.

    Two nodes in front of one store have one copy between them.
    """
    store = view.nodes[but].store if but in view.nodes else ""
    found = [node for node in holders(view, key, content) if node.id != but and not node.draining]
    return [node for node in found if not store or node.store != store]


def only_here(view: ClusterView) -> Iterator[ModelKey]:
    """The models that this node has and nobody else keeps."""
    me = view.me
    for key, copy in me.models.items():
        if not keepers(view, key, content_of(copy), but=me.id):
            yield key
