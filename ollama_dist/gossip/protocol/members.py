"""The table of members: one row each, and what may change a row.

Claims about one member are ordered (`Standing`); the greatest is believed. Only the member itself raises its
generation and incarnation: what it signed is the floor below which nobody is believed about it any more.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import compress
from operator import ne

from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import MemberState
from ollama_dist.gossip.protocol.cold import ColdState
from ollama_dist.gossip.protocol.effects import Gone
from ollama_dist.gossip.protocol.messages import Claim, DigestEntry, Hot, Rank, Standing
from ollama_dist.gossip.protocol.suspicion import Suspicion

STATES = (MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT)
"""By rank."""


@dataclass(slots=True)
class Row:
    """What is believed of one member. Times are monotonic seconds."""

    id: NodeId
    standing: Standing
    signed: Claim
    """The newest it signed itself (ALIVE or LEFT): the floor, and what others are shown as proof."""
    since: float
    reason: str
    accusation: Claim | None = None
    """The SUSPECT or DEAD claim that is believed, for the accused to answer."""
    suspicion: Suspicion | None = None
    is_condemned: bool = False
    """Somebody says it is dead: the next failed probe of our own is enough."""
    is_barred: bool = False
    """It was shut out: what others say of it counts for nothing until it comes itself, and is let in."""
    is_forgotten: bool = False
    """Shown to nobody any more; kept so that old news of it is known for what it is."""
    answers: bool = False
    """Whether a call of ours was answered, and none refused since: there is a connection to it already."""
    reach: bool = True
    """Whether we can talk to it ourselves; it may live all the same."""
    rtt: float | None = None
    heard_at: float = float("-inf")
    """When it last spoke to us itself."""
    fingerprint: int | None = None
    """The last one it told us."""
    hot: Hot | None = None
    hot_at: float = float("-inf")
    """When its owner published `hot`, as far as can be told."""
    cold: ColdState = field(default_factory=ColdState)

    @classmethod
    def of_gone(cls, gone: Gone, me: NodeId) -> "Row":
        """As it was before this member was started anew."""
        life = gone.signed.standing
        standing = Standing(life.generation, life.incarnation, Rank.LEFT if gone.has_left else Rank.DEAD)
        row = cls(
            gone.signed.subject,
            standing,
            gone.signed,
            since=gone.since,
            reason=gone.reason,
            is_forgotten=gone.is_forgotten,
        )
        if not gone.has_left:
            row.accusation = Claim(row.id, standing, accuser=me)
        for key, value in gone.state.items():
            row.cold.set(key, value)
        return row

    def as_gone(self) -> Gone:
        return Gone(
            signed=self.signed,
            has_left=self.standing.rank is Rank.LEFT,
            since=self.since,
            reason=self.reason,
            is_forgotten=self.is_forgotten,
            state=self.cold.view(),
        )

    @property
    def is_living(self) -> bool:
        return self.standing[2] < 2  # its rank: asked of every row, all the time

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.signed.contact.addresses if self.signed.contact else ()

    @property
    def state(self) -> MemberState:
        return STATES[self.standing.rank]

    def begin(self, standing: Standing) -> None:
        """It stands so now. What it said of itself in an earlier generation is void."""
        if standing.generation != self.standing.generation:
            self.hot, self.hot_at = None, float("-inf")
            self.cold = ColdState()
            self.fingerprint = None
        self.standing = standing

    def digest(self) -> DigestEntry:
        generation, incarnation, rank = self.standing
        hot, cold = self.hot[0] if self.hot else 0, self.cold
        return _entry(self.id, generation, incarnation, rank >= 2, hot, cold.version, cold.gc)

    def claims(self) -> tuple[Claim, ...]:
        """All that somebody who knows nothing of it needs to believe what we do."""
        return (self.signed,) if self.accusation is None else (self.signed, self.accusation)


class Members:
    """All rows, and one number over those that live: equal numbers, equal knowledge."""

    def __init__(self) -> None:
        self._rows: dict[NodeId, Row] = {}
        self.get = self._rows.get
        """The row of a member, if there is one: asked most of all, so it is the dictionary's own."""
        self.row = self._rows.__getitem__
        """The row of somebody who surely has one."""
        self._living: dict[NodeId, Row] = {}
        self.digests: dict[NodeId, DigestEntry] = {}
        """What is known of each, in numbers; as it is now, for others to look at."""
        self._hashes: dict[NodeId, int] = {}
        self.fingerprint = 0
        """Of the lives and the slow state of all living members; without load, which changes all the time."""

    def __contains__(self, member: NodeId) -> bool:
        return member in self._rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def living(self) -> list[Row]:
        return list(self._living.values())

    def unlike(self, known: Mapping[NodeId, DigestEntry]) -> Iterator[DigestEntry]:
        """What is known here of those of whom ``known`` says anything else, or nothing.

        A thousand are compared at a time, so it is done without a line of Python for each.
        """
        ours = self.digests
        return compress(ours.values(), map(ne, ours.values(), map(known.get, ours)))

    @property
    def living_count(self) -> int:
        return len(self._living)

    @property
    def gone_count(self) -> int:
        return len(self._rows) - len(self._living)

    def add(self, row: Row) -> None:
        self._rows[row.id] = row
        self.touch(row)

    def drop(self, member: NodeId) -> None:
        self._rows.pop(member, None)
        self._living.pop(member, None)
        self.digests.pop(member, None)
        self.fingerprint ^= self._hashes.pop(member, 0)

    def load(self, row: Row, hot: Hot, at: float) -> None:
        """The member told this load, published ``at`` that time."""
        row.hot, row.hot_at = hot, at
        member, generation, incarnation, is_gone, _, cold, gc = self.digests[row.id]
        self.digests[member] = _entry(member, generation, incarnation, is_gone, hot[0], cold, gc)

    def touch(self, row: Row) -> None:
        """Its life or its slow state changed: bring digest and fingerprint up to date."""
        self.digests[row.id] = row.digest()
        self.fingerprint ^= self._hashes.pop(row.id, 0)
        if row.is_living:
            self._living[row.id] = row
            life, cold = row.standing, row.cold
            fresh = _hash(row.id, life.generation, life.incarnation, cold.gc, cold.version)
            self._hashes[row.id] = fresh
            self.fingerprint ^= fresh
        else:
            self._living.pop(row.id, None)


@lru_cache(maxsize=8192)
def _entry(
    member: NodeId, generation: int, incarnation: int, is_gone: bool, hot: int, cold: int, gc: int
) -> DigestEntry:
    """The same numbers are the same object, for all members that one process plays: its caches hold these."""
    return DigestEntry(member, generation, incarnation, is_gone, hot, cold, gc)


@lru_cache(maxsize=4096)
def _hash(member: NodeId, generation: int, incarnation: int, gc: int, version: int) -> int:
    text = f"{member} {generation} {incarnation} {gc} {version}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
