"""News on its way: claims queued to ride on messages, the least told first (SWIM section 4.1)."""

from bisect import bisect_left, insort
from typing import Final, NamedTuple

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.messages import Claim, Rank

_Key = tuple[Rank, NodeId | None]
"""Of what is told of one member: the kind of claim, and its accuser."""

QUEUE_MAX: Final = 4096
"""Entries; when it is full the least urgent goes."""

SMALLEST: Final = 40
"""No claim takes fewer bytes: with less left, a message is full."""

MISFITS_MAX: Final = 8
"""A message is full, too, when so many entries in a row of urgency would not fit any more."""


class _Entry(NamedTuple):
    """One piece of news. The order of the fields is the order of urgency."""

    sent: int
    is_of_another: bool
    rank: Rank
    size: int
    number: int
    claim: Claim


class Rumours:
    """One entry per member, kind of claim and accuser; newer replaces older, and drops what it makes void."""

    def __init__(self, own: NodeId) -> None:
        self._own = own
        self._queue: list[_Entry] = []
        """Always in order."""
        self._of: dict[NodeId, dict[_Key, _Entry]] = {}
        self._added = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, claim: Claim) -> None:
        """Queue ``claim`` to be told, from the start if it is news."""
        for entry in list(self._of.get(claim.subject, {}).values()):
            if _key(entry.claim) == _key(claim) or _voids(claim, entry.claim):
                self._remove(entry)
        self._added += 1
        self._insert(_Entry(0, claim.subject != self._own, claim.rank, claim.size, self._added, claim))
        if len(self._queue) > QUEUE_MAX:
            self._remove(self._queue[-1])

    def forget(self, subject: NodeId) -> None:
        for entry in list(self._of.get(subject, {}).values()):
            self._remove(entry)

    def take(self, budget: int, limit: int) -> tuple[Claim, ...]:
        """What to put on one message of ``budget`` bytes; told ``limit`` times, an entry is done."""
        chosen = self._that_fit(budget) if self._queue else []
        for entry in chosen:
            self._remove(entry)
            if entry.sent + 1 < limit:
                self._insert(entry._replace(sent=entry.sent + 1))
        return tuple(entry.claim for entry in chosen)

    def _that_fit(self, budget: int) -> list[_Entry]:
        chosen, misfits = [], 0
        for entry in self._queue:
            if entry.size <= budget:
                chosen.append(entry)
                budget -= entry.size
            else:
                misfits += 1
            if budget < SMALLEST or misfits == MISFITS_MAX:
                break
        return chosen

    def _insert(self, entry: _Entry) -> None:
        insort(self._queue, entry)
        self._of.setdefault(entry.claim.subject, {})[_key(entry.claim)] = entry

    def _remove(self, entry: _Entry) -> None:
        del self._queue[bisect_left(self._queue, entry)]
        of_subject = self._of[entry.claim.subject]
        del of_subject[_key(entry.claim)]
        if not of_subject:
            del self._of[entry.claim.subject]


def _key(claim: Claim) -> _Key:
    return claim.rank, claim.accuser


def _voids(newer: Claim, older: Claim) -> bool:
    """Whether ``older`` need not be told once ``newer`` is: it is of a past life, or by the same accuser."""
    if older.standing < newer.standing:
        return (
            older.standing.life < newer.standing.life or older.accuser == newer.accuser or newer.rank.is_gone
        )
    return False
