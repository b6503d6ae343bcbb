"""Who asks the upstream registry for a model that nobody has: one node at a time.

Whoever wants it asks the same node for a turn, which everybody finds by hashing what is wanted with the ids
of all (rendezvous hashing, Thaler and Ravishankar 1998). The turn lasts as long as the connection on which it
was given. The next in line usually finds that it can have the model from the one before.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from ollama_dist.core.errors import Busy
from ollama_dist.core.ids import Digest, NodeId

SUBJECTS_LIMIT: Final = 256
"""Contents that turns are wanted for at once."""

WAITING_LIMIT: Final = 1024


def arbiter(subject: Digest, nodes: Iterable[NodeId]) -> NodeId:
    """The node that gives turns for ``subject``: the same one for everybody who sees the same nodes."""
    return max(nodes, key=lambda node: hashlib.sha256(f"{subject} {node}".encode()).digest())


@dataclass(slots=True)
class _Line:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    people: int = 0


class Turns:
    """What an arbiter keeps: a line of those who wait, per subject."""

    def __init__(self) -> None:
        self._lines: dict[Digest, _Line] = {}

    def __len__(self) -> int:
        return sum(line.people for line in self._lines.values())

    @asynccontextmanager
    async def turn(self, subject: Digest) -> AsyncIterator[bool]:
        """Wait for a turn and have it while inside; gives whether there was somebody before.

        Raises `Busy` where too many wait.
        """
        if len(self) >= WAITING_LIMIT or (subject not in self._lines and len(self._lines) >= SUBJECTS_LIMIT):
            raise Busy("too many models are waited for here")
        line = self._lines.setdefault(subject, _Line())
        line.people += 1
        try:
            had_to_wait = line.lock.locked()
            async with line.lock:
                yield had_to_wait
        finally:
            line.people -= 1
            if not line.people:
                del self._lines[subject]
