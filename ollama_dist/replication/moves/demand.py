"""How much each model is asked for: requests and their waiting, the older the less they count. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp
from typing import Final

import msgpack

from ollama_dist.core.names import ModelKey

FADE_S: Final = 600.0
"""After so long a request counts for 1/e."""

FRESH_S: Final = 1.0
"""What has faded in so long does not count: it is a sixth of a percent."""

MODELS_MAX: Final = 256
TOLD_MAX: Final = 32
"""Models a member tells of: those that are asked for most."""

RATE_MAX: Final = 1e4
WAIT_MAX: Final = 3600.0
"""What others tell is clamped to these."""


@dataclass(frozen=True, slots=True)
class Demand:
    per_s: float
    """Requests a second."""
    wait_s: float
    """How long each waits for others, on average."""


class DemandMeter:
    """What came in at this node. ``now`` is any steady clock."""

    def __init__(self) -> None:
        self._seen: dict[ModelKey, list[float]] = {}
        """Faded number of requests, faded sum of their waiting, and when."""

    def note(self, model: ModelKey, wait_s: float, now: float) -> None:
        seen = self._seen.get(model)
        if seen is not None and now - seen[2] < FRESH_S:
            seen[0] += 1.0
            if wait_s:
                seen[1] += wait_s
            return
        count, waited, since = self._seen.pop(model, (0.0, 0.0, 0.0))
        fade = _fade(now - since) if count else 0.0
        while len(self._seen) >= MODELS_MAX:
            del self._seen[next(iter(self._seen))]  # not asked for the longest
        self._seen[model] = [count * fade + 1.0, waited * fade + wait_s, now]

    def now(self, now: float) -> dict[ModelKey, Demand]:
        """Of each model, those asked for most first, as far as they still count for anything."""
        found = {}
        for model, (count, waited, since) in self._seen.items():
            left = count * _fade(now - since)
            if left > 0.05:
                found[model] = Demand(left / FADE_S, waited / count)
        return dict(sorted(found.items(), key=lambda entry: -entry[1].per_s))


def total(told: Iterable[Mapping[ModelKey, Demand]]) -> dict[ModelKey, Demand]:
    """Of all members together."""
    rates: dict[ModelKey, float] = {}
    waits: dict[ModelKey, float] = {}
    for each in told:
        for model, demand in each.items():
            rates[model] = rates.get(model, 0.0) + demand.per_s
            waits[model] = waits.get(model, 0.0) + demand.per_s * demand.wait_s
    return {model: Demand(rate, waits[model] / rate) for model, rate in rates.items() if rate > 0}


def pack(demand: Mapping[ModelKey, Demand]) -> bytes:
    """As a member tells it, coarse enough that small changes change nothing; empty where there is none."""
    rows = [[model, _coarse(each.per_s), _coarse(each.wait_s)] for model, each in demand.items()]
    return msgpack.packb(rows[:TOLD_MAX]) if rows else b""


def unpack(data: bytes) -> dict[ModelKey, Demand]:
    """What can be read of what a member told."""
    try:
        rows = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException):
        return {}
    found = {}
    for row in rows[:TOLD_MAX] if isinstance(rows, list) else ():
        if isinstance(row, list) and len(row) == 3 and isinstance(row[0], str):
            rate, wait = (each if isinstance(each, int | float) else 0.0 for each in row[1:])
            found[ModelKey(row[0])] = Demand(_clamp(rate, RATE_MAX), _clamp(wait, WAIT_MAX))
    return found


def _fade(seconds: float) -> float:
    return exp(-max(0.0, seconds) / FADE_S)


def _coarse(number: float) -> float:
    return float(f"{number:.1g}")


def _clamp(number: float, most: float) -> float:
    return min(max(0.0, number), most) if number == number else 0.0
