"""What to do when a place did not answer: try another, or give up, and at what total cost. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ollama_dist.core.outcomes import Attempt, Result

EXTRA_TRIES: Final = 2
"""Further places tried after failures. To be told "busy" or "not here" costs nobody anything, and where
nobody took the request nothing was done either."""

BUDGET_PART: Final = 0.2
BUDGET_FLOOR: Final = 3
"""Further tries of requests under way: a fifth of the requests under way, but always three.

When everything fails, retrying everything would only add to the load.
"""

MAX_ATTEMPTS: Final = 16
"""Places asked in all, however they answer."""


class RetryBudget:
    """Counts the requests of this process under way, and their further tries."""

    def __init__(self) -> None:
        self._active = 0
        self._retries = 0

    def begin(self) -> None:
        self._active += 1

    def end(self, retries: int) -> None:
        """A request ended for which `take` said yes ``retries`` times."""
        self._active -= 1
        self._retries -= retries

    def take(self) -> bool:
        """Whether one more try is allowed; it is counted until its request ends."""
        if self._retries >= max(BUDGET_FLOOR, BUDGET_PART * self._active):
            return False
        self._retries += 1
        return True


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No other place is tried. ``reason`` completes "not tried elsewhere: "."""

    reason: str


@dataclass(frozen=True, slots=True)
class TryElsewhere:
    """Decide again without the places tried. ``costs`` says whether it is a retry the budget must allow."""

    costs: bool


def next_step(attempts: Sequence[Attempt], *, fallback: bool) -> TryElsewhere | GiveUp:
    """What follows the last of ``attempts``, none of which has relayed a byte.

    Places that are busy, too old or without the model were not the right first choice, and asking the next
    one is still choosing; going elsewhere after a failure is a fallback, and only done where that is allowed.
    """
    last = attempts[-1].result
    if len(attempts) >= MAX_ATTEMPTS:
        return GiveUp(f"{len(attempts)} places were asked")
    if last in (Result.BUSY, Result.MISSING, Result.UNSUPPORTED):
        return TryElsewhere(costs=False)
    if not last.blames_node:
        return GiveUp(f"the request was {last}")
    if not fallback:
        return GiveUp("fallback is switched off")
    if last is Result.REFUSED:  # the breaker of that place is open now: nobody else goes there
        return TryElsewhere(costs=False)
    failures = sum(attempt.result.blames_node for attempt in attempts if attempt.result is not Result.REFUSED)
    if failures > EXTRA_TRIES:
        return GiveUp(f"{failures} places failed")
    return TryElsewhere(costs=True)
