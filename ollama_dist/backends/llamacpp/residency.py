"""Which loaded model has to go when another needs its place. Pure.

As Ollama decides (``server/sched.go``): an idle one first, then the shortest keep-alive, then the name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Occupant:
    """A loaded model, as far as this decision looks at it."""

    path: Path
    keep_alive_s: float
    in_use: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Impossible:
    """It would not fit into an empty machine."""

    needed: int
    budget: int


def next_to_go(
    loaded: Sequence[Occupant], *, needed: int, budget: int, max_loaded: int
) -> Occupant | Impossible | None:
    """Who has to go next before a model of ``needed`` bytes may be loaded; None when there is room.

    ``budget`` is what all loaded models together may take, in bytes.
    """
    if needed > budget:
        return Impossible(needed, budget)
    if len(loaded) < max_loaded and sum(each.bytes for each in loaded) + needed <= budget:
        return None
    return min(loaded, key=lambda each: (each.in_use > 0, each.keep_alive_s, each.path))
