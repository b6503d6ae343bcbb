"""How long a suspected member has to prove itself: the less, the more members suspect it (Lifeguard IV-B).

A suspicion starts long and shrinks with every independent confirmation, logarithmically, down to its minimum.
Before it may end in a death this member must itself have asked the accused once, in vain.
"""

import math
from random import Random
from typing import Final

from ollama_dist.core.ids import NodeId

ASK_FROM: Final = 0.5
ASK_UNTIL: Final = 0.9
"""The accused is asked at a random point in this part of the shortest suspicion, then every half of it."""


class Suspicion:
    """The clock of one accusation. Times are monotonic seconds."""

    def __init__(
        self,
        now: float,
        shortest: float,
        max_mult: int,
        confirmations: int,
        rng: Random,
        *,
        must_ask: bool = True,
    ) -> None:
        self.began = now
        self._shortest = shortest
        self._longest = shortest * max_mult if confirmations >= 1 else shortest
        self._wanted = max(confirmations, 1)
        self.accusers: set[NodeId] = set()
        self.ask_at = now + shortest * rng.uniform(ASK_FROM, ASK_UNTIL)
        """When this member next asks the accused directly."""
        self.was_asked = not must_ask
        """Whether it has, and got no answer."""
        self._extension = 0.0

    def confirm(self, accuser: NodeId) -> bool:
        """Somebody suspects it too; False when that is no news."""
        if accuser in self.accusers:
            return False
        self.accusers.add(accuser)
        return True

    def asked_in_vain(self, now: float) -> None:
        """This member asked and got no answer: it asks again, until the time is up."""
        self.was_asked = True
        self.ask_at = max(self.ask_at, now) + self._shortest / 2

    def extend(self, gap: float) -> None:
        """This member did not run for ``gap`` seconds: the accused must not pay for that."""
        self._extension += gap
        self.ask_at += gap

    @property
    def deadline(self) -> float:
        """When it ends: at the longest with one accuser, at the shortest with all wanted confirmations."""
        confirmed = min(max(len(self.accusers) - 1, 0), self._wanted)
        part = math.log(confirmed + 1) / math.log(self._wanted + 1)
        return self.began + self._longest - (self._longest - self._shortest) * part + self._extension

    def may_declare(self, now: float) -> bool:
        """Whether the member may be declared dead now."""
        return self.was_asked and now >= self.deadline
