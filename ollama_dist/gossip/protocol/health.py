"""How well this member itself is doing (Lifeguard section IV-A): who misses things should judge slowly.

Lifeguard concludes that from what others do: no answer, no word from helpers, accusations. Where machines are
short of time it is seen sooner by alarms that ring late and by answers that take long, and then a member must
do less, too, not only judge more slowly: news told at the usual pace would keep everybody late for good.
"""

from typing import Final

LATE_WEIGHT: Final = 0.4
"""Part that the newest alarm has in the average lateness: what lasts counts, one stop is for rule 8."""

LATE_STEPS: Final = 5
"""Alarms that are so late that this many of them would take as long as a probe has time make a member as ill
as one missed answer does. A loop that is well rings within a few milliseconds."""

ROOM_STEPS: Final = 3
"""Of what makes it slow, a suspicion has room for so much: its shortest time is several rounds of news. Less:
one member that is far has all wait longer for a near one's death."""

ANSWER_WEIGHT: Final = 1 / 8
DEVIATION_WEIGHT: Final = 1 / 4
DEVIATIONS: Final = 4
"""How long an answer may take, from how long answers took: as TCP does (RFC 6298, section 2)."""


class LocalHealth:
    """A score from 0 (well) up to a bound; timeouts and periods are multiplied by one more than it.

    ``patience``: how long an answer is waited for by a member that is well, ``longest``: by any, in seconds.
    ``paces``: whether lateness counts.
    """

    def __init__(self, bound: int, patience: float, longest: float, *, paces: bool = True) -> None:
        self._bound = bound
        self._most_slowness = bound if paces else 0
        self._patience = patience
        self._longest = longest
        self._late = 0.0
        self._took: float | None = None
        self._deviation = 0.0
        self.score = 0

    @property
    def late(self) -> float:
        """How late alarms rang lately, in seconds: so long was the loop they ring in busy otherwise."""
        return self._late

    @property
    def factor(self) -> int:
        """By which this member judges more slowly."""
        return max(1 + self.score, self.slowness)

    @property
    def slowness(self) -> int:
        """By which it does less: 1 where alarms ring and answers come in time."""
        return 1 + min(self._most_slowness, int(self._steps))

    @property
    def stretch(self) -> float:
        """By which the accused has longer: what clears it comes as late as answers do."""
        return max(1.0, min(self._most_slowness, self._steps - ROOM_STEPS))

    @property
    def _steps(self) -> float:
        """How many times longer than a member that is well has to wait, alarms and answers take."""
        return max(LATE_STEPS * self._late, self.answers_within) / self._patience

    @property
    def answers_within(self) -> float:
        """By when nearly all answers of late have come, in seconds."""
        return min(self._longest, (self._took or 0.0) + DEVIATIONS * self._deviation)

    def worse(self, by: int = 1) -> None:
        self.score = min(self._bound, self.score + by)

    def better(self) -> None:
        self.score = max(0, self.score - 1)

    def rang(self, late: float) -> None:
        """An alarm rang so many seconds late."""
        most = self._patience * (self._bound + 1) / LATE_STEPS
        self._late += LATE_WEIGHT * (min(max(late, 0.0), most) - self._late)

    def answered(self, took: float) -> None:
        """Somebody's answer took so many seconds.

        One that takes long says little, for it may be a way that was cut; each of several in a row says more.
        """
        took = min(took, max(2 * self._patience, 4 * self.answers_within), self._longest)
        if self._took is None:
            self._took, self._deviation = took, took / 2
            return
        self._deviation += DEVIATION_WEIGHT * (abs(took - self._took) - self._deviation)
        self._took += ANSWER_WEIGHT * (took - self._took)
