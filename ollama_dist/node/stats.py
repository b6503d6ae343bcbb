"""What this process counted since it started."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from operator import attrgetter
from typing import Any, Final

from ollama_dist.core.outcomes import Outcome, Result

EDGES_PER_DOUBLING: Final = 4
_GROWTH: Final = 2 ** (1 / EDGES_PER_DOUBLING)
_EDGES: Final = tuple(0.001 * _GROWTH**step for step in range(100))
"""Upper edges of the latency bins, seconds: from a millisecond to about nine hours, a fifth apart."""

_bin: Final = partial(bisect_left, _EDGES)
_AT_ONCE: Final = 256
"""So many are counted together, for a fraction of what it costs one by one."""

MAX_NAMES: Final = 1000
"""Models and nodes counted by name; callers can invent names, so the rest is counted together."""

MAX_ENDS: Final = 20_000
"""Ends told apart: so many models at so many nodes come to a bound even where both are many."""

OTHERS: Final = "(others)"


class Latencies:
    """A histogram of seconds that answers for quantiles, exact to a fifth."""

    def __init__(self) -> None:
        self._bins = [0] * (len(_EDGES) + 1)
        self.seconds = 0.0
        """All of them together."""

    def add(self, seconds: Sequence[float]) -> None:
        for index, count in Counter(map(_bin, seconds)).items():
            self._bins[index] += count
        self.seconds += sum(seconds)

    def cumulative(self) -> list[tuple[float, int]]:
        """Edges in seconds, each twice the one before and the last infinite, and how many took no longer."""
        counts = list(accumulate(self._bins))
        coarse = [(_EDGES[index], counts[index]) for index in range(0, len(_EDGES), EDGES_PER_DOUBLING)]
        return [*coarse, (math.inf, counts[-1])]

    def quantile(self, part: float) -> float | None:
        """The time within which ``part`` of all (0 to 1) were done; None before the first."""
        count = sum(self._bins)
        if not count:
            return None
        index = bisect_left(list(accumulate(self._bins)), part * count)
        return _EDGES[min(index, len(_EDGES) - 1)]

    def render(self) -> dict[str, Any]:
        quantiles = {f"p{part}": self.quantile(part / 100) for part in (50, 90, 99)}
        in_ms = {name: None if each is None else round(each * 1000, 1) for name, each in quantiles.items()}
        return {"count": sum(self._bins), **{f"{name}_ms": each for name, each in in_ms.items()}}


class Stats:
    """Counters of requests that were scheduled here."""

    def __init__(self) -> None:
        self.fallbacks = 0
        self.relayed_in = 0
        """Requests taken from other nodes."""
        self.refused_in = 0
        """Requests of other nodes that were turned away, for want of room or of an engine."""
        self.retries = 0
        self._fresh: list[Outcome] = []
        """What is not counted yet."""
        self._ends: dict[_End, int] = {}
        """How many ended so; everything else is summed up from it by who asks."""
        self._models: set[str] = set()
        self._first_byte = Latencies()
        self._total = Latencies()

    def count(self, outcome: Outcome, *, is_fallback: bool) -> None:
        """Note the end of a request."""
        self._fresh.append(outcome)
        if len(self._fresh) >= _AT_ONCE:
            self._settle()
        if is_fallback:
            self.fallbacks += 1
        if len(outcome.attempts) > 1:
            self.retries += len(outcome.attempts) - 1

    def _settle(self) -> None:
        fresh, self._fresh = self._fresh, []
        for end, count in Counter(map(_END_OF, fresh)).items():
            known = end if end in self._ends else self._new(end)
            self._ends[known] += count
        self._total.add([*map(_TOTAL_S, fresh)])
        self._first_byte.add([each for each in map(_FIRST_BYTE_S, fresh) if each is not None])

    def _new(self, end: "_End") -> "_End":
        route, model, node, result = end
        if model not in self._models and len(self._models) >= MAX_NAMES:
            model = OTHERS
        if len(self._ends) >= MAX_ENDS:
            model, node = OTHERS, node and OTHERS
        self._models.add(model)
        end = route, model, node, result
        self._ends.setdefault(end, 0)
        return end

    def _by(self, field: int) -> Counter[str]:
        """How many there were of each route (0), model (1), node (2) or result (3)."""
        self._settle()
        found: Counter[str] = Counter()
        for end, count in self._ends.items():
            found[end[field]] += count
        return found

    @property
    def served(self) -> int:
        """Requests answered as the engine meant to, its refusals included."""
        results = self._by(3)
        return results[Result.OK] + results[Result.REJECTED]

    @property
    def failed(self) -> int:
        results = self._by(3)
        return results.total() - results[Result.OK] - results[Result.REJECTED] - results[Result.CANCELLED]

    @property
    def latencies(self) -> Mapping[str, Latencies]:
        """How long requests took, by what was waited for."""
        self._settle()
        return {"first_byte": self._first_byte, "total": self._total}

    def render(self) -> dict[str, Any]:
        return {
            "served": self.served,
            "failed": self.failed,
            "fallbacks": self.fallbacks,
            "retries": self.retries,
            "relayed_in": self.relayed_in,
            "refused_in": self.refused_in,
            "routes": dict(self._by(0)),
            "models": dict(self._by(1)),
            "nodes": {name: count for name, count in self._by(2).items() if name},
            "outcomes": dict(self._by(3)),
            "latency": {name: each.render() for name, each in self.latencies.items()},
        }


_End = tuple[str, str, str, Result]
"""Route, model, name of the node, and how it ended."""


_END_OF: Final[Callable[[Outcome], _End]] = attrgetter("route", "model", "node", "result")
_TOTAL_S: Final[Callable[[Outcome], float]] = attrgetter("total_s")
_FIRST_BYTE_S: Final[Callable[[Outcome], float | None]] = attrgetter("first_byte_s")
