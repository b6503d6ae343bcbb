"""What a node says when it has started: at most twelve lines, the last of them what to do next."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ollama_dist.core.view import EngineKind, EngineState
from ollama_dist.node.reports import REACH_WORDS, Reach
from ollama_dist.node.setting_values import OLLAMA_PORT, Address

_NAMED: Final = 5
"""Names listed before "and n more"."""


@dataclass(frozen=True, slots=True)
class SeenCluster:
    """A cluster that announces itself nearby and that this node does not belong to."""

    cluster: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Banner:
    """All that the start message is made of."""

    version: str
    name: str
    client: Address
    """Where a client on this machine connects."""
    is_second_choice: bool
    """Nobody asked for that port: the usual one was taken."""
    reach: Reach
    engine: EngineKind
    engine_state: EngineState = EngineState.UNREACHABLE
    engine_version: str = ""
    engine_address: str = ""
    models: tuple[str, ...] = ()
    """Names of the models this machine has."""
    cluster: str = ""
    """The cluster's id; empty when there is none yet."""
    peers: tuple[str, ...] = ()
    """Names of the other members that are alive."""
    seen: tuple[SeenCluster, ...] = ()
    client_key: str = ""
    """Of a client, when it was made by this very start: it is shown once."""
    admin_token_file: str = ""
    """Named when the token was made by this very start."""
    distributed: bool = True


def banner_text(banner: Banner) -> str:
    """The start message; ends with a newline."""
    lines = [f"ollama-dist {banner.version}, node {banner.name}"]
    lines += [f"  {label:<9}{text}" for label, text in _facts(banner)]
    return "\n".join(lines) + "\n"


def _facts(banner: Banner) -> Iterator[tuple[str, str]]:
    yield "clients", f"http://{banner.client}  (reachable by {REACH_WORDS[banner.reach]})"
    if banner.client.port != OLLAMA_PORT:
        why = f"port {OLLAMA_PORT} was taken; " if banner.is_second_choice else ""
        yield "", f"{why}tell clients: export OLLAMA_HOST={banner.client}"
    if banner.client_key:
        yield "key", f"export OLLAMA_API_KEY={banner.client_key}  (for clients elsewhere; shown once)"
    yield "engine", _engine(banner)
    if not banner.distributed:
        yield "cluster", "not used: everything is passed to the local Ollama (OLLAMA_DISTRIBUTED=false)"
        return
    yield "cluster", _cluster(banner)
    if banner.seen:
        yield "seen", _seen(banner.seen)
    if banner.admin_token_file:
        yield "admin", f"token in {banner.admin_token_file}"
    yield "next", _next_step(banner)


def _engine(banner: Banner) -> str:
    match banner.engine, banner.engine_state:
        case EngineKind.NONE, _:
            return "none: models run on the other nodes"
        case _, EngineState.UNREACHABLE:
            return f"{_engine_name(banner)} does not answer; it is used as soon as it does"
        case _, EngineState.STARTING:
            return f"{_engine_name(banner)} is starting"
    return f"{_engine_name(banner)}, {_count(len(banner.models), 'model')}{_listed(banner.models)}"


def _engine_name(banner: Banner) -> str:
    kind = "Ollama" if banner.engine is EngineKind.OLLAMA else banner.engine.value
    at = f" at {banner.engine_address}" if banner.engine_address else ""
    return f"{kind} {banner.engine_version}".rstrip() + at


def _cluster(banner: Banner) -> str:
    named = f"{banner.cluster}: " if banner.cluster else ""
    return named + (f"with {_some(banner.peers)}" if banner.peers else "alone so far")


def _seen(seen: tuple[SeenCluster, ...]) -> str:
    first = seen[0]
    others = f" and {len(seen) - 1} more" if len(seen) > 1 else ""
    where = f" at {first.addresses[0]}" if first.addresses else ""
    return (
        f"cluster {first.cluster}{where}{others}, not joined: run `ollama-dist invite` there, then join here"
    )


def _next_step(banner: Banner) -> str:
    host = "" if banner.client.port == OLLAMA_PORT else f"OLLAMA_HOST={banner.client} "
    unusable = banner.engine_state is EngineState.UNREACHABLE or banner.engine is EngineKind.NONE
    if unusable and not banner.peers:
        return "start Ollama (`ollama serve`) or join nodes that have it (`ollama-dist join CODE`)"
    if banner.models:
        return f"{host}ollama run {banner.models[0]}" + (
            "" if banner.peers else "; add a machine: ollama-dist invite"
        )
    return "ollama-dist models" if banner.peers else f"{host}ollama pull llama3.2"


def _listed(names: tuple[str, ...]) -> str:
    return f" ({_some(names)})" if names else ""


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
