"""Who told a load lately: what rides along on messages, the newest first."""

from bisect import bisect_left, insort
from collections.abc import Iterator

from ollama_dist.core.ids import NodeId


class FreshLoads:
    """Times of publication, in order. A member whose load changed since is in it more than once."""

    def __init__(self) -> None:
        self._told: list[tuple[float, NodeId]] = []

    def add(self, time: float, member: NodeId) -> None:
        insort(self._told, (time, member))

    def newest(self, after: float) -> Iterator[tuple[float, NodeId]]:
        """Who published ``after`` that time, the newest first; what is older is forgotten."""
        del self._told[: bisect_left(self._told, (after,))]
        return reversed(self._told)
