"""Who told a load lately: what rides along on messages, the newest first."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Final

from ollama_dist.core.ids import NodeId

KEPT: Final = 64
"""So many are remembered at least. In a large cluster more are fresh, but a few of the newest ride along, and
hardly any of these is out of date already."""


class FreshLoads:
    """Times of publication, in order. A member whose load changed since is in it more than once."""

    def __init__(self) -> None:
        self._told: list[tuple[float, NodeId]] = []

    def add(self, time: float, member: NodeId) -> None:
        told = self._told
        if len(told) >= KEPT and time < told[-KEPT][0]:
            return
        insort(told, (time, member))
        if len(told) > 2 * KEPT:
            del told[:KEPT]

    def newest(self, after: float) -> Iterator[tuple[float, NodeId]]:
        """Who published ``after`` that time, the newest first; what is older is forgotten."""
        del self._told[: bisect_left(self._told, (after,))]
        return reversed(self._told)
