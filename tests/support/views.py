"""Clusters in a line, for tests of everything that looks at one."""

from collections.abc import Iterable
from typing import Any

from ollama_dist.core.dialects import Dialect
from ollama_dist.core.ids import NodeId, RequestId
from ollama_dist.core.names import ModelKey, parse_model_name
from ollama_dist.core.requests import InferenceRequest, Intent
from ollama_dist.core.view import (
    ClusterView,
    Engine,
    EngineKind,
    EngineState,
    Gpu,
    InstalledModel,
    Load,
    LoadedModel,
    NodeView,
    Resources,
)

READY = Engine(EngineKind.OLLAMA, "0.11.11", EngineState.READY)
NO_ENGINE = Engine()
GPU = Resources(8, 2**35, 2**34, (Gpu("gpu", 24 * 2**30, 24 * 2**30),))
CPU = Resources(8, 2**35, 2**34)
SIZE = 5_000_000_000


def key(name: str) -> ModelKey:
    return parse_model_name(name).key


def node_id(number: int) -> NodeId:
    return NodeId(f"{number:016x}")


def installed(name: str, digest: str = "a", size: int = SIZE) -> InstalledModel:
    full = parse_model_name(name).short
    row = {"name": full, "model": full, "size": size, "digest": digest * 64}
    return InstalledModel(full, digest * 64, size, row)


def node(
    number: int,
    models: Iterable[str] = (),
    loaded: Iterable[str] = (),
    *,
    digest: str = "a",
    size: int = SIZE,
    in_flight: int = 0,
    slots: int = 1,
    speed: float = 0.0,
    **more: Any,
) -> NodeView:
    """Node ``number``, called "n<number>", with a ready engine and a GPU unless said otherwise."""
    fields: dict[str, Any] = {"engine": READY, "resources": GPU, "age_s": 0.1} | more
    on_disk = {key(name): installed(name, digest, size) for name in (*models, *loaded)}
    in_memory = {key(name): LoadedModel(on_disk[key(name)].name, digest * 64) for name in loaded}
    load = Load(in_flight, max(0, in_flight - slots), slots, speed)
    return NodeView(node_id(number), f"n{number}", load=load, models=on_disk, loaded=in_memory, **fields)


def view(*nodes: NodeView, self_number: int | None = None) -> ClusterView:
    """A cluster seen from its first node, or from the one with ``self_number``."""
    own = nodes[0].id if self_number is None else node_id(self_number)
    return ClusterView("c0ffee00", own, {each.id: each for each in nodes})


def request(model: str = "tiny", **more: Any) -> InferenceRequest:
    fields: dict[str, Any] = {"intent": Intent.GENERATE, "stream": True, "prompt_bytes": 400} | more
    return InferenceRequest(
        id=RequestId("0" * 24),
        route="/api/chat",
        dialect=Dialect.OLLAMA,
        model_text=model,
        model=key(model) if model else None,
        **fields,
    )
