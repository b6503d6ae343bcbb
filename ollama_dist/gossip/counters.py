"""What happened how often to a member: for operators, never for decisions."""

from collections import Counter
from typing import Final

from ollama_dist.gossip.protocol.messages import Envelope, Kind

_ALWAYS_TOLD: Final = (
    "probes",
    "probes_failed",
    "event_suspect",
    "event_dead",
    "refuted",
    "rumours_in",
    "rumours_out",
    "sync_bytes_in",
    "sync_bytes_out",
)
"""What operators look for, though it may not have happened yet."""

GAUGES: Final = ("channels", "local_health", "loop_lag_ms")
"""Told beside the counters, and can fall: open channels, how ill the member is, how late its alarms ring."""


class Counters:
    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, what: str, count: int = 1) -> None:
        self._counts[what] += count

    def add_traffic(self, way: str, envelope: Envelope, payload: bytes) -> None:
        """News and synchronised state that came ``in`` or went ``out``."""
        self._counts[f"rumours_{way}"] += len(envelope.rumours)
        if envelope.kind is Kind.SYNC:
            self._counts[f"sync_bytes_{way}"] += len(payload)

    def told(self) -> dict[str, int]:
        return dict.fromkeys(_ALWAYS_TOLD, 0) | self._counts
