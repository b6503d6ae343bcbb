"""Every setting of a node: what it means, what it is when nobody says, and how a person can say it.

For each setting the flag, the environment variable and the key in the YAML file go by one name
(``--node-listen``, ``OLLAMA_DIST_NODE_LISTEN``, ``node_listen``), but for a few well-known variables. Each
room is handed its own slice and never reads the environment. `config_sources` reads; this file says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from ollama_dist.core.contexts import ContextRule
from ollama_dist.core.dialects import DIALECTS
from ollama_dist.core.labels import Label
from ollama_dist.node.setting import Origin, Setting, Source, about, described
from ollama_dist.node.setting_values import (
    MIRROR_PORT,
    NODE_PORT,
    OLLAMA_PORT,
    Address,
    ClientKeys,
    EngineChoice,
    GossipProfile,
    Listen,
    LogFormat,
    LogLevel,
    Network,
    Placement,
    Secret,
    address_with,
    listed,
    listen_on,
    one_of,
    parse_bool,
    parse_cached_route,
    parse_context_rule,
    parse_ip,
    parse_labels,
    parse_network,
    parse_node_name,
    parse_ollama_address,
    parse_path,
    parse_registry_host,
    parse_secret,
    parse_text,
    whole_number,
)


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Who this node is and where clients find it."""

    name: str = field(
        metadata=about(
            "What people call this node. Where two nodes share a name the younger is shown with a suffix.",
            parse_node_name,
            default_text="the machine's host name",
        ),
    )
    state_dir: Path = field(
        metadata=about(
            "Folder for the node's identity, its keys, and what it last knew. One folder per node.",
            parse_path,
            default_text="the user's state folder for ollama-dist",
        ),
    )
    listen: Listen = field(
        default=Listen("127.0.0.1", OLLAMA_PORT, search=True),
        metadata=about(
            "Where clients connect. Loopback serves this machine only; anything else opens the node to the "
            "network. Without a port: 11434, or the next free one.",
            listen_on("127.0.0.1", OLLAMA_PORT),
            default_text=f"127.0.0.1:{OLLAMA_PORT}, or the next free port",
        ),
    )
    labels: tuple[Label, ...] = field(
        default=(),
        metadata=about(
            "What this node is, for requests to choose by (X-Ollama-Node: label:gpu=yes): NAME=VALUE, "
            "separated by commas. At most 16.",
            parse_labels,
            default_text="none",
        ),
    )
    client_keys: ClientKeys = field(
        default=ClientKeys.AUTO,
        metadata=about(
            "Which clients have to show a key (`ollama-dist key add`): auto, those on other machines; "
            "always, all; never, none, so that whoever can connect can use every model.",
            one_of(ClientKeys),
        ),
    )


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How this node finds the others, and what proves that it belongs to them."""

    node_listen: Listen = field(
        default=Listen("0.0.0.0", NODE_PORT, search=True),
        metadata=about(
            "Where other nodes connect, with mutual TLS from the first byte. Relayed requests use the next "
            "free port after it. Without a port: 11436, or the next free one.",
            listen_on("0.0.0.0", NODE_PORT),
            default_text=f"every interface, {NODE_PORT} or the next free port",
        ),
    )
    advertise: tuple[Address, ...] = field(
        default=(),
        metadata=about(
            "Addresses by which other nodes reach this one, where that is not the listening address: behind "
            "NAT, in a container, on a VPN. At most 4, separated by commas.",
            listed(address_with(NODE_PORT), at_most=4),
            default_text="the listening address, else those of the private interfaces",
        ),
    )
    join: tuple[Address, ...] = field(
        default=(),
        metadata=about(
            "Node listeners of members to find the cluster by, separated by commas; needed where multicast "
            "does not reach. One that answers is enough.",
            listed(address_with(NODE_PORT), at_most=64),
            default_text="none; discovery and the peers of last time are tried anyway",
        ),
    )
    cluster_key: Secret | None = field(
        default=None,
        metadata=about(
            "The cluster's key itself, for machines set up by machines. People use `invite` and `join`.",
            parse_secret,
            has_flag=False,
            in_file=False,
            secret=True,
            default_text="the key in the state folder; made on the first start",
        ),
    )
    cluster_key_file: Path | None = field(
        default=None,
        metadata=about(
            "File with the cluster's key, readable by its owner only.",
            parse_path,
            default_text="cluster.key in the state folder",
        ),
    )
    mdns: bool = field(
        default=True,
        metadata=about(
            "Announce this node on the local network and look for others. What is seen is not yet joined.",
            parse_bool,
        ),
    )
    mdns_interfaces: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Addresses of the interfaces to announce on, separated by commas.",
            listed(parse_ip, at_most=16),
            default_text="all",
        ),
    )
    gossip_profile: GossipProfile = field(
        default=GossipProfile.LAN,
        metadata=about(
            "Timing of the membership protocol: lan; wan for slow links (times x 5); test (times / 10).",
            one_of(GossipProfile),
        ),
    )


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What runs models on this machine."""

    engine: EngineChoice = field(
        default=EngineChoice.AUTO,
        metadata=about(
            "What runs models here: ollama; llama.cpp, the embedded engine; none, to only pass requests on; "
            "auto, Ollama where it is found, else the embedded engine where it is installed.",
            one_of(EngineChoice),
        ),
    )
    ollama: Address | None = field(
        default=None,
        metadata=about(
            "Address of the local Ollama, as OLLAMA_HOST is written.",
            parse_ollama_address,
            env="OLLAMA_LOCAL_ADDR",
            default_text="found: one that already listens, else one this node starts",
        ),
    )
    ollama_bin: str = field(
        default="ollama",
        metadata=about(
            "The ollama program, started on a private port when no Ollama is listening.",
            parse_text,
        ),
    )
    slots: int = field(
        default=0,
        metadata=about(
            "Requests the local Ollama answers at once per model (its OLLAMA_NUM_PARALLEL). 0: find out.",
            whole_number(0, 256),
            unit="requests",
        ),
    )
    engine_models: Path | None = field(
        default=None,
        metadata=about(
            "Folder of GGUF files that the embedded engine serves.",
            parse_path,
            default_text="models in the state folder",
        ),
    )


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """What becomes of requests beside being answered."""

    max_queue: int = field(
        default=512,
        metadata=about(
            "Requests that may wait for a slot of one model. More: longer waits. Fewer: sooner told that all "
            "is busy.",
            whole_number(0, 100_000),
            unit="requests",
            env="OLLAMA_MAX_QUEUE",
            restart_only=False,
        ),
    )
    context_lengths: tuple[ContextRule, ...] = field(
        default=(),
        metadata=about(
            "Context lengths that models keep, whatever clients of Ollama's own routes ask for, so that two "
            "clients do not make an engine reload a model in turns: NAME=TOKENS, separated by commas; * in a "
            "name stands for anything, and the first that matches counts.",
            listed(parse_context_rule, at_most=256),
            default_text="none; each request says, or its engine",
        ),
    )
    cached_routes: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Routes whose answers are kept and given again when nobody can answer, though the request does "
            "not say X-Ollama-Cache: allow. Only answers settled by temperature 0, a seed or their kind.",
            listed(parse_cached_route, at_most=len(DIALECTS)),
            default_text="none; requests ask for it",
        ),
    )
    cache_bytes: int = field(
        default=64 * 2**20,
        metadata=about(
            "Memory for kept answers. 0: none are kept.",
            whole_number(0, 2**34),
            unit="bytes",
        ),
    )
    cache_age_s: int = field(
        default=3600,
        metadata=about(
            "An answer that was kept for longer is not given any more.",
            whole_number(1, 30 * 86400),
            unit="s",
        ),
    )
    splice: bool = field(
        default=True,
        metadata=about(
            "Let streams run straight from the engine's connection into the client's, and ordinary requests "
            "go a short way. Off: piece by piece and the long way, at more cost and with the same result.",
            parse_bool,
        ),
    )
    client_per_minute: int = field(
        default=0,
        metadata=about(
            "Requests that a client's key may begin in a minute, where the key itself says nothing else, or "
            "an address without a key; programs on this machine have no limit. 0: none for anybody.",
            whole_number(0, 1_000_000),
            unit="requests",
        ),
    )
    client_at_once: int = field(
        default=0,
        metadata=about(
            "The same for requests under way at one time.",
            whole_number(0, 1_000_000),
            unit="requests",
        ),
    )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How models come onto this machine."""

    pull_registries: tuple[str, ...] = field(
        default=("registry.ollama.ai", "hf.co"),
        metadata=about(
            "Registries that nodes ask themselves when a client pulls, so that a model comes from the "
            "Internet once and from other nodes after that: hosts, with ports where they have one, "
            "separated by commas. Of all others the local Ollama pulls alone.",
            listed(parse_registry_host, at_most=64),
        ),
    )
    disk_reserve_bytes: int = field(
        default=2 * 2**30,
        metadata=about(
            "What stays free on the disk of the models: none is brought in that would take it.",
            whole_number(0, 2**50),
            unit="bytes",
        ),
    )
    placement: Placement = field(
        default=Placement.POLICIES,
        metadata=about(
            "What this node copies or deletes by itself: off, nothing; policies, what an operator's policies "
            "ask for (`ollama-dist policy`), so without any nothing; demand, also a copy of what is waited "
            "for, where that saves more than it costs.",
            one_of(Placement),
        ),
    )
    registry_listen: Listen | None = field(
        default=None,
        metadata=about(
            "Where the local Ollama gets the models that this node brings it. Needed where that Ollama is "
            "in a container: an address of this machine that it reaches.",
            listen_on("127.0.0.1", 0),
            default_text="any free port of loopback; on Windows port 80 of 127.77.0.1",
        ),
    )
    registry_hosts: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "What the local Ollama calls that address: a host name or IPv4 address, and behind a comma "
            "another one for the same, which it needs for models with a file per tensor.",
            listed(parse_registry_host, at_most=2),
            default_text="127.0.0.1,localhost; on Windows 127.77.0.1,localhost",
        ),
    )
    mirror_listen: Listen | None = field(
        default=None,
        metadata=about(
            "Serve this machine's models to Ollamas that are no members: `ollama pull --insecure "
            "HOST:PORT/library/NAME`. They show no key, so models and clients have to be named.",
            listen_on("0.0.0.0", MIRROR_PORT),
            default_text="off",
        ),
    )
    mirror_models: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Models that the mirror serves: names, * in one stands for anything, separated by commas.",
            listed(parse_text, at_most=256),
            default_text="none",
        ),
    )
    mirror_clients: tuple[Network, ...] = field(
        default=(),
        metadata=about(
            "Networks whose machines may read from the mirror, such as 192.168.1.0/24, separated by commas.",
            listed(parse_network, at_most=64),
            default_text="none",
        ),
    )


@dataclass(frozen=True, slots=True)
class ModeSettings:
    """How much of the cluster this node uses when it starts."""

    distributed: bool = field(
        default=True,
        metadata=about(
            "Use the cluster. Off: everything is passed to the local Ollama, and nothing is added.",
            parse_bool,
            env="OLLAMA_DISTRIBUTED",
        ),
    )
    standalone: bool = field(
        default=False,
        metadata=about(
            "Use no peers, though the cluster's routes go on answering.",
            parse_bool,
            env="OLLAMA_STANDALONE",
            restart_only=False,
        ),
    )
    fallback: bool = field(
        default=True,
        metadata=about(
            "Try a request elsewhere when its first choice cannot serve it.",
            parse_bool,
            env="OLLAMA_FALLBACK",
            restart_only=False,
        ),
    )


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """What operators prove themselves with."""

    admin_token: Secret | None = field(
        default=None,
        metadata=about(
            "Bearer token of the admin routes.",
            parse_secret,
            env="OLLAMA_ADMIN_TOKEN",
            has_flag=False,
            secret=True,
            default_text="the token in admin_token_file",
        ),
    )
    admin_token_file: Path | None = field(
        default=None,
        metadata=about(
            "File with the bearer token of the admin routes, readable by its owner only.",
            parse_path,
            default_text="admin.token in the state folder; made on the first start",
        ),
    )


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How models travel between nodes."""

    transfer_rate: int = field(
        default=0,
        metadata=about(
            "The most that this node gives to others, and the most that it takes. 0: as much as there is.",
            whole_number(0, 2**40),
            unit="bytes/s",
        ),
    )
    transfer_rate_serving: int = field(
        default=50_000_000,
        metadata=about(
            "The same while it answers requests. More: copies sooner; less: answers faster. 0: as ever.",
            whole_number(0, 2**40),
            unit="bytes/s",
        ),
    )
    engine_store: Path | None = field(
        default=None,
        metadata=about(
            "Where this machine sees the models of its Ollama (its OLLAMA_MODELS), when that runs in a "
            "container or is not found: the folder that the volume is mounted from.",
            parse_path,
            default_text="looked for",
        ),
    )
    scrub_days: int = field(
        default=7,
        metadata=about(
            "Every file of a model is read again once in so many days, to find what the disk has lost. "
            "0: only when asked to.",
            whole_number(0, 3650),
            unit="days",
        ),
    )
    scrub_rate: int = field(
        default=50_000_000,
        metadata=about(
            "How fast they are read for that.",
            whole_number(1, 2**40),
            unit="bytes/s",
        ),
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is written to standard error."""

    log_level: LogLevel = field(
        default=LogLevel.INFO,
        metadata=about(
            "The least important events that are logged.",
            one_of(LogLevel),
            restart_only=False,
        ),
    )
    log_format: LogFormat = field(
        default=LogFormat.TEXT,
        metadata=about(
            "How log lines are written: text for people; json for programs, one object per line.",
            one_of(LogFormat),
        ),
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one node, with the origin of every value by its key."""

    node: NodeSettings
    cluster: ClusterSettings = ClusterSettings()
    engine: EngineSettings = EngineSettings()
    requests: RequestSettings = RequestSettings()
    models: ModelSettings = ModelSettings()
    transfers: TransferSettings = TransferSettings()
    mode: ModeSettings = ModeSettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
    config: Path | None = field(
        default=None,
        metadata=about(
            "YAML file with settings, by the same names.",
            parse_path,
            in_file=False,
            default_text="config.yaml in the user's configuration folder for ollama-dist, if it is there",
        ),
    )
    origins: Mapping[str, Origin] = field(default_factory=dict, hash=False)

    def value(self, setting: Setting) -> Any:
        """The value in use of one setting."""
        holder = getattr(self, setting.slice) if setting.slice else self
        return getattr(holder, setting.key)

    def origin(self, key: str) -> Origin:
        return self.origins.get(key, Origin(Source.DEFAULT))


SLICES: Final[Mapping[str, type]] = {
    item.name: item.type
    for item in fields(Settings)
    if isinstance(item.type, type) and is_dataclass(item.type)
}
"""The slices of `Settings` by their field's name."""


@cache
def all_settings() -> tuple[Setting, ...]:
    """Every setting, in the order in which a person is told of them."""
    found = [described(item, "") for item in fields(Settings) if "setting" in item.metadata]
    for name, slice_type in SLICES.items():
        found += [described(item, name) for item in fields(slice_type)]
    return tuple(found)
