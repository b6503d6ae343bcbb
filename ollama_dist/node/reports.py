"""What a node says of itself beyond what the view shows: facts only it knows, problems worth seeing."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ollama_dist.core.modes import Mode
from ollama_dist.node.setting_values import ClientKeys, is_loopback


class Reach(StrEnum):
    """Who can use the public listener."""

    MACHINE = "machine"
    KEYED = "keyed"
    OPEN = "open"


REACH_WORDS: Final = {
    Reach.MACHINE: "this machine only",
    Reach.KEYED: "the network, with a key",
    Reach.OPEN: "THE WHOLE NETWORK, WITHOUT A KEY",
}


def reach_of(host: str, keys: ClientKeys) -> Reach:
    """Who can use a listener on ``host``."""
    if is_loopback(host):
        return Reach.MACHINE
    return Reach.OPEN if keys is ClientKeys.NEVER else Reach.KEYED


@dataclass(frozen=True, slots=True)
class Problem:
    """Something an operator should know: what it means and what to do."""

    severity: str
    """"warning" or "error"."""
    code: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class SelfReport:
    """What only the node itself knows about itself."""

    mode: Mode
    fallback: bool
    uptime_s: float
    listen: str
    reach: Reach
    node_listen: str
    engine_address: str
    engine_error: str
    served: int
    failed: int
    fallbacks: int
