"""What a node says of itself beyond what the view shows: facts only it knows, problems worth seeing."""

from dataclasses import dataclass

from ollama_dist.core.modes import Mode


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
    node_listen: str
    engine_address: str
    engine_error: str
    served: int
    failed: int
    fallbacks: int
