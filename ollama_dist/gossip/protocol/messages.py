"""What members say to each other, as values. How it is put into bytes is the codec's matter.

Every message is a request that gets exactly one reply; who sent it is what the transport has verified, never
what a message says of itself.
"""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

from ollama_dist.core.ids import NodeId

PROTOCOL_MIN: Final = 1
PROTOCOL_MAX: Final = 1

GENERATION_LIMIT: Final = 2**62
"""No honest generation comes near it; what claims more is dropped."""

GENERATION_STEP: Final = 2**16
"""A start takes one of so many next generations by chance. Two that know the same last one, since a disk was
copied or restored, hardly ever take the same: what is told of one is not taken for the other's."""

VERSION_LIMIT: Final = 2**62
"""No honest version of a load or of slow state does either."""


class Rank(IntEnum):
    """What is claimed of a member; at one generation and incarnation the higher rank wins."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3

    @property
    def is_gone(self) -> bool:
        return self > 1  # asked of every row, all the time: a plain number is quickest


class Standing(NamedTuple):
    """Where a claim stands among all claims about one member: the greatest wins, and merging is maximum."""

    generation: int
    incarnation: int
    rank: Rank

    @property
    def life(self) -> tuple[int, int]:
        """Generation and incarnation: what only the member itself can raise."""
        return self.generation, self.incarnation


@dataclass(frozen=True, slots=True)
class Contact:
    """How a member can be reached and recognised: part of what it signs."""

    addresses: tuple[str, ...]
    """``host:port``, at most four; the first that answers is used."""
    public_key: bytes
    nonce: int
    """Random per start: tells two lives of one identity apart."""
    versions: tuple[int, int] = (PROTOCOL_MIN, PROTOCOL_MAX)


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a member, for whoever might be another start of the same."""

    nonce: int
    age: float
    """Seconds since then: durations are compared, never clocks."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement about one member.

    ALIVE and LEFT are made and signed by the member itself and carry its `contact`; SUSPECT and DEAD are
    accusations by ``accuser`` and carry neither.
    """

    subject: NodeId
    standing: Standing
    contact: Contact | None = None
    signature: bytes = b""
    accuser: NodeId | None = None

    @property
    def rank(self) -> Rank:
        return self.standing.rank

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        if self.contact is None:
            return 40
        return 170 + sum(map(len, self.contact.addresses))

    def signed_part(self) -> bytes:
        """What the signature covers: everything but itself, unambiguously."""
        contact = self.contact
        if contact is None:
            return b""
        standing = self.standing
        fields = [
            self.subject,
            str(standing.generation),
            str(standing.incarnation),
            str(int(standing.rank)),
            str(contact.nonce),
            *map(str, contact.versions),
            *contact.addresses,
        ]
        return b"ollama-dist claim 1\n" + "\n".join(fields).encode() + b"\n" + contact.public_key


class Hot(NamedTuple):
    """A member's load: one blob, the last version wins."""

    version: int
    data: bytes
    age: float = 0.0
    """Seconds since its owner published it, added up along the way; clocks are never compared."""


@dataclass(frozen=True, slots=True)
class ColdEntry:
    """One key of a member's slow state; a value of None is a deletion that is remembered."""

    key: str
    version: int
    value: bytes | None


@dataclass(frozen=True, slots=True)
class ColdDelta:
    """Entries of one member, ascending by version and without a gap after ``start``.

    ``start`` 0 means from the beginning: what the reader had is to be forgotten. ``end`` is the version the
    reader has afterwards. Deletions up to ``gc`` are remembered by nobody any more.
    """

    start: int
    end: int
    gc: int
    entries: tuple[ColdEntry, ...] = ()


class DigestEntry(NamedTuple):
    """What somebody knows of one member, in numbers. A tuple, since a thousand are compared at a time."""

    subject: NodeId
    generation: int
    incarnation: int
    is_gone: bool
    hot: int
    cold: int
    gc: int


class MemberDelta(NamedTuple):
    """News of one member for somebody who lacks it."""

    subject: NodeId
    generation: int
    claims: tuple[Claim, ...] = ()
    hot: Hot | None = None
    cold: ColdDelta | None = None


class Kind(StrEnum):
    """What a request asks for. Each is a call of its own, and its reply an envelope too."""

    PING = "ping"
    """Are you there? Answered at once."""
    PING_REQ = "ping_req"
    """Ping ``target`` for me. Answered when it answered (acked) or did not (not acked)."""
    SYNC = "sync"
    """Here is what I know: give me what I lack."""
    GOSSIP = "gossip"
    """News, nothing else."""
    LEAVE = "leave"
    """I am leaving: the claim is among the news."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request or a reply. Everything in it but ``kind`` may be empty."""

    kind: Kind
    claim: Claim | None
    """The sender's own newest: makes a stranger known, and clears suspicions of it. Without contact and
    signature where the receiver has those. None while it is joining: it looks around before it announces
    itself."""
    fingerprint: int = 0
    """Of all the sender knows, 64 bits: equal ones have nothing to tell each other."""
    rumours: tuple[Claim, ...] = ()
    hot: Hot | None = None
    """The sender's own load."""
    digest: tuple[DigestEntry, ...] = ()
    deltas: tuple[MemberDelta, ...] = ()
    target: NodeId | None = None
    """Of a PING_REQ: whom to ping."""
    acked: bool = True
    """Of a reply to a PING_REQ: whether the target answered."""
    target_claim: Claim | None = None
    """Of a reply to a PING_REQ: the target's own newest claim."""
    start: Start | None = None
    """The sender's, where it may speak to itself: to an address, to a stranger, to its own id."""
    extensions: tuple[bytes, ...] = field(default=())
    """Fields of later versions, kept as they came."""
