"""What this process counted since it started."""

import bisect
from collections import Counter
from itertools import accumulate
from typing import Any, Final

from ollama_dist.core.outcomes import Outcome, Result

_GROWTH: Final = 2**0.25
_EDGES: Final = tuple(0.001 * _GROWTH**step for step in range(100))
"""Upper edges of the latency bins, seconds: from a millisecond to about nine hours, a fifth apart."""

MAX_NAMES: Final = 1000
"""Models and nodes counted by name; callers can invent names, so the rest is counted together."""

OTHERS: Final = "(others)"


class Latencies:
    """A histogram of seconds that answers for quantiles, exact to a fifth."""

    def __init__(self) -> None:
        self._bins = [0] * (len(_EDGES) + 1)
        self._count = 0

    def add(self, seconds: float) -> None:
        self._bins[bisect.bisect_left(_EDGES, seconds)] += 1
        self._count += 1

    def quantile(self, part: float) -> float | None:
        """The time within which ``part`` of all (0 to 1) were done; None before the first."""
        if not self._count:
            return None
        index = bisect.bisect_left(list(accumulate(self._bins)), part * self._count)
        return _EDGES[min(index, len(_EDGES) - 1)]

    def render(self) -> dict[str, Any]:
        quantiles = {f"p{part}": self.quantile(part / 100) for part in (50, 90, 99)}
        in_ms = {name: None if each is None else round(each * 1000, 1) for name, each in quantiles.items()}
        return {"count": self._count, **{f"{name}_ms": each for name, each in in_ms.items()}}


class Stats:
    """Counters of requests that were scheduled here."""

    def __init__(self) -> None:
        self.served = 0
        """Requests answered as the engine meant to, its refusals included."""
        self.failed = 0
        self.fallbacks = 0
        self.relayed_in = 0
        """Requests taken from other nodes."""
        self.refused_in = 0
        """Requests of other nodes that were turned away, for want of room or of an engine."""
        self.retries = 0
        self._routes: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._nodes: Counter[str] = Counter()
        self._results: Counter[str] = Counter()
        self._first_byte = Latencies()
        self._total = Latencies()

    def count(self, route: str, model: str, node: str, outcome: Outcome, *, is_fallback: bool) -> None:
        """Note the end of a request. ``node`` is the name of the place that answered, "" for none."""
        if outcome.result in (Result.OK, Result.REJECTED):
            self.served += 1
        elif outcome.result is not Result.CANCELLED:
            self.failed += 1
        self.fallbacks += is_fallback
        self.retries += max(0, len(outcome.attempts) - 1)
        self._routes[route] += 1
        _bounded(self._models, model)
        if node:
            _bounded(self._nodes, node)
        self._results[outcome.result] += 1
        self._total.add(outcome.total_s)
        if outcome.first_byte_s is not None:
            self._first_byte.add(outcome.first_byte_s)

    def render(self) -> dict[str, Any]:
        return {
            "served": self.served,
            "failed": self.failed,
            "fallbacks": self.fallbacks,
            "retries": self.retries,
            "relayed_in": self.relayed_in,
            "refused_in": self.refused_in,
            "routes": dict(self._routes),
            "models": dict(self._models),
            "nodes": dict(self._nodes),
            "outcomes": dict(self._results),
            "latency": {"first_byte": self._first_byte.render(), "total": self._total.render()},
        }


def _bounded(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < MAX_NAMES else OTHERS] += 1
