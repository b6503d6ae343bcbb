"""What the network does to a message: how long it takes, whether it comes at all, and how often."""

import math
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol


class Latency(Protocol):
    """How long one message is under way, in seconds."""

    def sample(self, rng: Random) -> float: ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """Anything between two bounds, alike."""

    low: float
    high: float

    def sample(self, rng: Random) -> float:
        return self.low + (self.high - self.low) * rng.random()


@dataclass(frozen=True, slots=True)
class LongTailed:
    """Lognormal: half of all below ``median``, a few many times later, none after ``most``."""

    median: float
    sigma: float
    most: float = 2.0

    def sample(self, rng: Random) -> float:
        return min(rng.lognormvariate(math.log(self.median), self.sigma), self.most)


LATENCIES: Final[dict[str, Latency]] = {
    "lan": Uniform(0.0002, 0.002),
    "wifi": LongTailed(0.004, 1.0),
    "wan": LongTailed(0.04, 0.6),
    "far": Uniform(0.06, 0.08),
}
"""One way. ``lan`` is a quiet local network, ``wan`` the internet between two homes, ``far`` a line between
continents: long, but always the same."""

Pair = tuple[str, str]


@dataclass
class Links:
    """The state of the network between nodes, by their names. The faults turn these switches."""

    loss: float = 0.0
    """Part of all messages that never arrive, each way."""
    latency: Latency = field(default_factory=lambda: LATENCIES["lan"])
    duplicates: float = 0.0
    """Part of all requests that arrive twice."""
    cut: set[Pair] = field(default_factory=set)
    """Directed pairs between which nothing passes."""
    sides: dict[str, int] = field(default_factory=dict)
    """In a partition: on which side each node is. Who is named nowhere is on side 0."""
    slow: dict[str, float] = field(default_factory=dict)
    """Seconds that everything from and to a node takes longer, on average, and that its alarms are late."""
    far: dict[str, float] = field(default_factory=dict)
    """Seconds that everything from and to a node takes longer, always as many."""
    late_until: dict[Pair, float] = field(default_factory=dict)
    """Connections that stand still: what is sent over them arrives at that time, not before."""

    def passes(self, sender: str, receiver: str) -> bool:
        """Whether there is a way at all from one to the other."""
        if self.sides and self.sides.get(sender, 0) != self.sides.get(receiver, 0):
            return False
        return not self.cut or (sender, receiver) not in self.cut

    @property
    def passes_all(self) -> bool:
        """Whether there is a way from everybody to everybody."""
        return not (self.sides or self.cut)

    def loses(self, rng: Random) -> bool:
        return self.loss > 0 and rng.random() < self.loss

    def repeats(self, rng: Random) -> bool:
        return self.duplicates > 0 and rng.random() < self.duplicates

    def delay(self, sender: str, receiver: str, now: float, rng: Random) -> float:
        """Seconds from sending to arriving."""
        delay = self.latency.sample(rng)
        if self.slow:
            delay += self._extra(self.slow.get(sender, 0.0) + self.slow.get(receiver, 0.0), rng)
        if self.far:
            delay += self.far.get(sender, 0.0) + self.far.get(receiver, 0.0)
        if self.late_until:
            delay = max(delay, self.late_until.get((sender, receiver), 0.0) - now)
        return delay

    def late(self, node: str, rng: Random) -> float:
        """Seconds by which an alarm of ``node`` rings late."""
        return self._extra(self.slow.get(node, 0.0), rng) if self.slow else 0.0

    def _extra(self, average: float, rng: Random) -> float:
        return rng.expovariate(1 / average) if average else 0.0

    def heal(self) -> None:
        """Every way is open again; loss and latency stay as they are."""
        self.cut.clear()
        self.sides.clear()
        self.late_until.clear()
