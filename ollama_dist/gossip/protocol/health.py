"""How well this member itself is doing (Lifeguard section IV-A): who misses things should judge slowly.

Lifeguard concludes that from what others do: no answer, no word from helpers, accusations. Where a process is
short of time that is seen sooner by its own alarms, which ring late, and it must then do less, not only judge
less: telling the same news at the usual pace would keep it, and whoever shares its machine, late for good.
"""

from typing import Final

LATE_STEP_S: Final = 0.05
"""So late, on average, its alarms make a member as ill as one missed answer does. A loop that is well rings
within a few milliseconds; a fifth of `GossipConfig.probe_timeout_least`, which is what an answer that waits in
its socket may take."""

LATE_WEIGHT: Final = 0.2
"""Part that the newest alarm has in the average, as with round-trip times (`detector`)."""


class LocalHealth:
    """A score from 0 (well) up to a bound; timeouts and periods are multiplied by one more than it."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._late = 0.0
        self.score = 0

    @property
    def factor(self) -> int:
        """By which this member judges more slowly."""
        return max(1 + self.score, self.slowness)

    @property
    def slowness(self) -> int:
        """By which it should do less: 1 where its alarms ring in time."""
        return 1 + min(self._bound, int(self._late / LATE_STEP_S))

    def worse(self, by: int = 1) -> None:
        self.score = min(self._bound, self.score + by)

    def better(self) -> None:
        self.score = max(0, self.score - 1)

    def rang(self, late: float) -> None:
        """An alarm rang so many seconds late. One stop, however long, is for rule 8: what lasts counts here."""
        late = min(max(late, 0.0), LATE_STEP_S * (self._bound + 1))
        self._late += LATE_WEIGHT * (late - self._late)
