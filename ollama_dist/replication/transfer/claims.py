"""What the pieces of one blob hash to, as far as its sources say so and agree. Pure."""

from collections import Counter
from collections.abc import Iterable

from ollama_dist.core.ids import NodeId


class Claims:
    """Each source's list of one blob, in parts as they come in."""

    def __init__(self) -> None:
        self._said: dict[int, dict[NodeId, bytes]] = {}

    def add(self, source: NodeId, first: int, hashes: Iterable[bytes]) -> None:
        """``source`` says that the pieces from ``first`` on hash to these, one after the other."""
        for index, value in enumerate(hashes, first):
            self._said.setdefault(index, {})[source] = value

    def drop(self, source: NodeId) -> None:
        """What ``source`` said counts no more."""
        for said in self._said.values():
            said.pop(source, None)

    def witnesses(self, index: int) -> frozenset[NodeId]:
        """Who has said something of a piece."""
        return frozenset(self._said.get(index, ()))

    def expected(self, index: int) -> bytes | None:
        """What most say of a piece; None where nobody has, or where no side is the larger one."""
        said = self._said.get(index, {})
        if len(sides := set(said.values())) == 1:
            return sides.pop()
        ranked = Counter(said.values()).most_common(2)
        if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
            return None
        return ranked[0][0]

    def is_disputed(self, index: int) -> bool:
        """Whether sides of equal size say different things."""
        return bool(self._said.get(index)) and self.expected(index) is None

    def outvoted(self, index: int) -> frozenset[NodeId]:
        """Who says something else of a piece than most do."""
        right = self.expected(index)
        if right is None:
            return frozenset()
        return frozenset(source for source, value in self._said[index].items() if value != right)
