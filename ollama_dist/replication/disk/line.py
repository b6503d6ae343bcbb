"""Who takes which blob from here at the moment: in the order in which they began. Pure."""

from collections import OrderedDict
from typing import Final

from ollama_dist.core.ids import Digest, NodeId

LATELY_S: Final = 5.0
"""Who has not said so again for so long takes it no more."""

BLOBS: Final = 256
TAKERS: Final = 256
"""Of one blob; who comes when so many are there has to do without the others."""


class Line:
    """A member takes a blob since a time by its own clock, which only has to order them alike everywhere."""

    def __init__(self) -> None:
        self._takers: OrderedDict[Digest, dict[NodeId, tuple[int, float]]] = OrderedDict()

    def stand(self, digest: Digest, node: NodeId, since_ms: int, now: float) -> list[tuple[int, NodeId]]:
        """``node`` takes it; who else does and began before, with the time: the nearest first."""
        takers = self._takers.setdefault(digest, {})
        self._takers.move_to_end(digest)
        while len(self._takers) > BLOBS:
            self._takers.popitem(last=False)
        for other in [other for other, (_, heard) in takers.items() if now - heard > LATELY_S]:
            del takers[other]
        if node in takers or len(takers) < TAKERS:
            takers[node] = since_ms, now
        before = [(since, other) for other, (since, _) in takers.items() if (since, other) < (since_ms, node)]
        return sorted(before, reverse=True)
