"""Who has a model, as far as a decision about its copies may rely on it. Pure."""

from collections.abc import Iterator, Sequence

from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import ClusterView, InstalledModel, NodeView


def content_of(copy: InstalledModel) -> str:
    """What tells two copies of one name apart."""
    return copy.digest


def has(node: NodeView, key: ModelKey, content: str = "") -> bool:
    """Whether it lists the model, with that content where one is meant."""
    copy = node.models.get(key)
    return copy is not None and content in ("", content_of(copy))


def holders(view: ClusterView, key: ModelKey, content: str = "") -> list[NodeView]:
    """The nodes that can give the model now, by name."""
    found = [node for node in view.serving_holders(key) if has(node, key, content)]
    return sorted(found, key=lambda node: (node.name, node.id))


def keepers(view: ClusterView, key: ModelKey, content: str, *, but: NodeId) -> list[NodeView]:
    """The other nodes that have it and are to stay."""
    return [node for node in holders(view, key, content) if node.id != but and not node.draining]


def contents(view: ClusterView, key: ModelKey) -> Sequence[str]:
    """The different contents its living holders have; more than one is a conflict."""
    return sorted({content_of(node.models[key]) for node in view.serving_holders(key)})


def only_here(view: ClusterView) -> Iterator[ModelKey]:
    """The models that this node has and nobody else keeps."""
    me = view.me
    for key, copy in me.models.items():
        if not keepers(view, key, content_of(copy), but=me.id):
            yield key
