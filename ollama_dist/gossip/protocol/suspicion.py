"""How long a suspected member has to prove itself: the less, the more members suspect it (Lifeguard IV-B).

A suspicion starts long and shrinks with every independent confirmation, logarithmically, down to its minimum.
It ends in a death only as a question of this member's own stays unanswered. The last one is put shortly
before the time is up: what went unanswered before proves nothing of now, should a partition have ended since.
"""

import math
from random import Random
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.health import LocalHealth

ASK_FROM: Final = 0.5
ASK_UNTIL: Final = 0.9
"""The accused is asked at a random point in this part of the shortest suspicion, then every half of it."""

LAST_SHARE: Final = 0.4
"""Of the usual time to answer, the last question gives so much: another one has just had all of it."""

AGAIN_MAX: Final = 2
"""So often the last question is put anew since others that were missed can be heard again. Not more often:
where somebody flaps, the dead shall be known all the same."""

_ROUNDING_S: Final = 1e-6


class Suspicion:
    """The clock of one accusation. Times are monotonic seconds."""

    def __init__(
        self,
        now: float,
        shortest: float,
        max_mult: int,
        confirmations: int,
        rng: Random,
        health: LocalHealth,
    ) -> None:
        self._health = health
        self.began = now
        self._shortest = shortest
        self._longest = shortest * max_mult if confirmations >= 1 else shortest
        self._wanted = max(confirmations, 1)
        self.accusers: set[NodeId] = set()
        self._ask_at = now + shortest * health.stretch * rng.uniform(ASK_FROM, ASK_UNTIL)
        self._asked_at = float("-inf")
        self._over_at = float("inf")
        self._again = 0
        self.patience = 0.0
        """How long the accused has to answer the question that `next_question` planned."""
        self._extension = 0.0

    def confirm(self, accuser: NodeId) -> bool:
        """Somebody suspects it too; False when that is no news."""
        if accuser in self.accusers:
            return False
        self.accusers.add(accuser)
        return True

    def asks(self, now: float) -> None:
        """This member asks the accused now; the next time comes by itself."""
        self._asked_at = now
        if now >= self._ask_at:
            self._ask_at = now + self._shortest * self._health.stretch / 2

    def next_question(self, now: float, patience: float, not_before: float) -> float:
        """When this member next asks the accused: now and then, and twice so that the answers, for which it
        has ``patience`` and a part of that, are due when the time is up, ``not_before`` some time."""
        last = max(patience * LAST_SHARE, self._health.answers_within)
        end = max(self.deadline, not_before)
        if self._asked_at < end - last - patience:
            self.patience = patience
            return max(now, min(self._ask_at, end - last - patience))
        self.patience = last
        return max(now, end - last if self._asked_at < end - last else end)

    def hasten(self, now: float) -> None:
        """Its time is up, but for the last question: others call it dead, and we did not reach it either."""
        if now < self.deadline:
            self._over_at = self._asked_at = now

    def extend(self, gap: float) -> None:
        """This member did not run for ``gap`` seconds: the accused must not pay for that."""
        self._extension += gap
        self._ask_at += gap

    @property
    def deadline(self) -> float:
        """When it ends: at the longest with one accuser, at the shortest with all wanted confirmations."""
        confirmed = min(max(len(self.accusers) - 1, 0), self._wanted)
        part = math.log(confirmed + 1) / math.log(self._wanted + 1)
        stretch = self._health.stretch
        shortest, longest = self._shortest * stretch, self._longest * stretch
        usual = self.began + longest - (longest - shortest) * part
        return min(usual, self._over_at) + self._extension

    def is_over(self, now: float) -> bool:
        """Whether the time is up: the question that stays unanswered now is the last."""
        return now >= self.deadline - _ROUNDING_S

    def proves(self, asked_at: float, heard_at: float) -> bool:
        """Whether a question put ``asked_at`` some time tells of now, when others that were missed were last
        heard again ``heard_at`` some time. If not it may be put anew, but not for ever."""
        if asked_at > heard_at or self._again >= AGAIN_MAX:
            return True
        self._again += 1
        return False
