"""Puts a node together from its settings: the one place that knows every part."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ollama_dist.backends.local import LocalEngine
from ollama_dist.backends.none import NoEngine
from ollama_dist.backends.ollama.engine import OllamaEngine, OllamaSettings
from ollama_dist.backends.ollama.finder import WELL_KNOWN, Listening, find_program, who_listens
from ollama_dist.backends.target import Security
from ollama_dist.core.errors import UpstreamRefused
from ollama_dist.core.ids import NodeId
from ollama_dist.core.modes import Mode
from ollama_dist.core.view import EngineKind, InstalledModel
from ollama_dist.gossip.cluster import ClusterOptions, GossipCluster
from ollama_dist.gossip.credentials import Pass
from ollama_dist.gossip.driver import GossipSettings
from ollama_dist.gossip.keys import ClusterKey, load_or_make_cluster_key
from ollama_dist.gossip.protocol.config import LAN, TEST, WAN, GossipConfig
from ollama_dist.gossip.tls import peer_certificate
from ollama_dist.node.config import ModelSettings, Settings
from ollama_dist.node.modes import Switches
from ollama_dist.node.mover import MakeCopier, Mover, MoverSettings
from ollama_dist.node.moves import MoveOptions
from ollama_dist.node.node import Node, NodeOptions
from ollama_dist.node.paths import StatePaths
from ollama_dist.node.secret_files import cluster_key_file
from ollama_dist.node.seeds import read_seeds
from ollama_dist.node.setting_values import EngineChoice, GossipProfile
from ollama_dist.replication.disk.gguf_store import GgufStore
from ollama_dist.replication.disk.keeper import Keeper
from ollama_dist.replication.disk.locating import Found, find_store
from ollama_dist.replication.intake.registry import LOOPBACK, WINDOWS, RegistryAddress
from ollama_dist.replication.pace import Rates
from ollama_dist.replication.pulls.mirror import MirrorSettings

PROFILES: Final[dict[GossipProfile, GossipConfig]] = {
    GossipProfile.LAN: LAN,
    GossipProfile.WAN: WAN,
    GossipProfile.TEST: TEST,
}


def make_cluster(settings: Settings, paths: StatePaths) -> GossipCluster:
    """The node's place in its cluster; a first start alone makes one. Raises `ConfigError`."""
    wanted = settings.cluster
    given, key_file = wanted.cluster_key, cluster_key_file(settings)
    key = ClusterKey.parse(given.reveal()) if given is not None else load_or_make_cluster_key(key_file)
    seeds = (*wanted.join, *read_seeds(paths))
    gossip = GossipSettings(
        host=wanted.node_listen.host,
        ports=wanted.node_listen.ports(),
        advertise=tuple(map(str, wanted.advertise)),
        seeds=tuple(dict.fromkeys(map(str, seeds))),
        mdns=wanted.mdns,
        mdns_interfaces=wanted.mdns_interfaces,
        memory=paths.membership,
        config=PROFILES[wanted.gossip_profile],
    )
    options = ClusterOptions(paths.root, gossip, key_file=None if given is not None else key_file)
    return GossipCluster(key, options)


async def make_engine(settings: Settings, paths: StatePaths, node: NodeId) -> LocalEngine:
    """What runs models here, as chosen: by default an Ollama where there is one, else the embedded engine."""
    match settings.engine.engine:
        case EngineChoice.NONE:
            return NoEngine()
        case EngineChoice.LLAMACPP:
            return _embedded(settings, paths, node)
        case EngineChoice.AUTO if not await _has_ollama(settings) and _has_embedded():
            return _embedded(settings, paths, node)
    address = settings.engine.ollama
    return OllamaEngine(
        OllamaSettings(
            node,
            address=(address.host, address.port) if address else None,
            program=settings.engine.ollama_bin,
            slots=settings.engine.slots,
            log_file=paths.root / "ollama.log",
        )
    )


def make_keeper(settings: Settings, paths: StatePaths, engine: LocalEngine) -> Keeper:
    """What knows the files of the engine's models."""

    async def find(models: Iterable[InstalledModel]) -> Found:
        if engine.snapshot.engine.kind is EngineKind.LLAMACPP:
            return Found(gguf_store_of(engine))
        if engine.target is None:
            return Found(None, "this node has no engine")
        said = settings.transfers.engine_store
        return await find_store(engine.target, models, os.environ, Path.home(), said)

    wanted = settings.transfers
    rates = Rates(wanted.transfer_rate, wanted.transfer_rate_serving, wanted.scrub_rate)
    return Keeper(find, paths.root, rates, wanted.scrub_days * 86_400.0)


def gguf_store_of(engine: LocalEngine) -> GgufStore:
    """The folder of the embedded engine."""
    from ollama_dist.backends.llamacpp.engine import LlamaCppEngine  # slow to import, and seldom wanted

    assert isinstance(engine, LlamaCppEngine)
    folder = engine.folder
    return GgufStore(folder.root, lambda: folder.models)


def make_node(
    settings: Settings, paths: StatePaths, cluster: GossipCluster, engine: LocalEngine, keeper: Keeper
) -> Node:
    mode = Mode.STANDALONE if settings.mode.standalone else Mode.DISTRIBUTED
    options = NodeOptions(
        id=cluster.node_id,
        name=settings.node.name,
        max_queue=settings.requests.max_queue,
        switches=Switches(mode, settings.mode.fallback),
        labels=settings.node.labels,
        contexts=settings.requests.context_lengths,
        cached_routes=frozenset(settings.requests.cached_routes),
        splice=settings.requests.splice,
        cache_bytes=settings.requests.cache_bytes,
        cache_age_s=settings.requests.cache_age_s,
        moves=MoveOptions(paths.root, settings.models.disk_reserve_bytes, settings.models.placement),
    )
    node = Node(options, engine, cluster, secured_by(cluster.pass_to), keeper)
    into = _into_folder(engine) if engine.snapshot.engine.kind is EngineKind.LLAMACPP else None
    node.mover = Mover(_mover_settings(settings), paths.root, engine, keeper, node.view, node.target, into)
    node.moves.copier = node.mover.copier
    return node


def _into_folder(engine: LocalEngine) -> MakeCopier:
    """What brings models into the folder of the embedded engine."""
    from ollama_dist.backends.llamacpp.engine import LlamaCppEngine  # slow to import, and seldom wanted
    from ollama_dist.replication.intake.gguf_copying import GgufCopier

    assert isinstance(engine, LlamaCppEngine)
    folder, store = engine.folder, gguf_store_of(engine)
    return lambda source, make_room: GgufCopier(folder.root, folder, store, source, make_room)


def _mover_settings(settings: Settings) -> MoverSettings:
    models = settings.models
    usual = WINDOWS if sys.platform == "win32" else LOOPBACK
    listen = models.registry_listen
    hosts = models.registry_hosts
    return MoverSettings(
        address=RegistryAddress(
            listen=((listen.host, listen.port),) if listen is not None else usual.listen,
            name_host=hosts[0] if hosts else usual.name_host,
            bytes_host=hosts[-1] if hosts else usual.bytes_host,
        ),
        pull_hosts=frozenset(host.casefold() for host in models.pull_registries),
        disk_reserve=models.disk_reserve_bytes,
        mirror=_mirror_settings(models),
    )


def _mirror_settings(models: ModelSettings) -> MirrorSettings | None:
    listen = models.mirror_listen
    if listen is None:
        return None
    return MirrorSettings((listen.host, listen.port), models.mirror_models, models.mirror_clients)


def secured_by(pass_to: Callable[[NodeId], Pass]) -> Callable[[NodeId], Security]:
    """How connections to a member are secured: with our certificate of the moment, and to nobody else.

    The same object as long as nothing changes.
    """
    known: dict[NodeId, tuple[Pass, Security]] = {}

    def secure(node: NodeId) -> Security:
        shown = pass_to(node)
        if node not in known or known[node][0] is not shown:
            known[node] = shown, Security(shown.relay, shown.server_name, _leads_to(node, shown), shown.bulk)
        return known[node][1]

    return secure


def _leads_to(node: NodeId, shown: Pass) -> Callable[[asyncio.Transport], None]:
    def verify(transport: asyncio.Transport) -> None:
        found = shown.admit(peer_certificate(transport))
        if found != node:
            raise UpstreamRefused(f"{found} answers where {node} was meant")

    return verify


async def _has_ollama(settings: Settings) -> bool:
    if settings.engine.ollama is not None or find_program(settings.engine.ollama_bin) is not None:
        return True
    return await who_listens(*WELL_KNOWN) is Listening.OLLAMA


def _has_embedded() -> bool:
    return find_spec("xllamacpp") is not None


def _embedded(settings: Settings, paths: StatePaths, node: NodeId) -> LocalEngine:
    from ollama_dist.backends.llamacpp.engine import LlamaCppEngine  # slow to import, and seldom wanted
    from ollama_dist.backends.llamacpp.settings import LlamaCppSettings

    return LlamaCppEngine(
        node,
        LlamaCppSettings(
            models_dir=settings.engine.engine_models or paths.models,
            state_dir=paths.root,
            slots=settings.engine.slots or 1,
            max_waiting=settings.requests.max_queue,
        ),
    )
