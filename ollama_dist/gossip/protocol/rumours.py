"""News on its way: claims queued to ride on messages, the least told first (SWIM section 4.1)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.messages import Claim, Rank

_Key = tuple[NodeId, Rank, NodeId | None]

QUEUE_MAX: Final = 4096
"""Entries; when it is full the least urgent goes."""


@dataclass(slots=True)
class _Rumour:
    claim: Claim
    sent: int = 0


class Rumours:
    """One entry per member, kind of claim and accuser; newer replaces older, and drops what it makes void."""

    def __init__(self, own: NodeId) -> None:
        self._own = own
        self._queue: dict[_Key, _Rumour] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, claim: Claim) -> None:
        """Queue ``claim`` to be told, from the start if it is news."""
        for key in [k for k, r in self._queue.items() if k[0] == claim.subject and _voids(claim, r.claim)]:
            del self._queue[key]
        self._queue[claim.subject, claim.rank, claim.accuser] = _Rumour(claim)
        if len(self._queue) > QUEUE_MAX:
            del self._queue[max(self._queue, key=lambda key: self._urgency(self._queue[key]))]

    def forget(self, subject: NodeId) -> None:
        for key in [key for key in self._queue if key[0] == subject]:
            del self._queue[key]

    def take(self, budget: int, limit: int) -> tuple[Claim, ...]:
        """What to put on one message of ``budget`` bytes; told ``limit`` times, an entry is done."""
        chosen = []
        for rumour in self._in_order():
            if rumour.claim.size > budget:
                continue
            budget -= rumour.claim.size
            rumour.sent += 1
            chosen.append(rumour.claim)
        for key in [key for key, rumour in self._queue.items() if rumour.sent >= limit]:
            del self._queue[key]
        return tuple(chosen)

    def _in_order(self) -> Iterator[_Rumour]:
        return iter(sorted(self._queue.values(), key=self._urgency))

    def _urgency(self, rumour: _Rumour) -> tuple[int, bool, int, int]:
        claim = rumour.claim
        return rumour.sent, claim.subject != self._own, claim.rank, claim.size


def _voids(newer: Claim, older: Claim) -> bool:
    """Whether ``older`` need not be told once ``newer`` is: it is of a past life, or by the same accuser."""
    if older.standing < newer.standing:
        return (
            older.standing.life < newer.standing.life or older.accuser == newer.accuser or newer.rank.is_gone
        )
    return False
