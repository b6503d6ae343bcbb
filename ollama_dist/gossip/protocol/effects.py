"""What the state machine wants done. The driver interprets these and decides nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import MemberState
from ollama_dist.gossip.protocol.messages import Claim, Envelope, Kind


class Failure(StrEnum):
    """Why a call had no reply."""

    REFUSED = "refused"
    """Nobody listens there: told at once, by a network that works."""
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    REJECTED = "rejected"
    """It is not the member that was meant, or it does not take us for one."""


@dataclass(frozen=True, slots=True)
class Call:
    """Send a request and hand back its reply, or the failure, with ``token``, by ``deadline`` (monotonic).

    ``peer`` is None where only an address is known: whoever answers there tells by its certificate who it is.
    """

    token: int
    kind: Kind
    peer: NodeId | None
    addresses: tuple[str, ...]
    envelope: Envelope
    deadline: float


@dataclass(frozen=True, slots=True)
class Respond:
    """The reply to the request that is being handled, or to an earlier one kept under ``request``."""

    request: int
    envelope: Envelope


class WakeAt(NamedTuple):
    """Call `tick` with ``number`` at ``time`` (monotonic); an earlier wish is void then."""

    time: float
    number: int


class EventKind(StrEnum):
    JOINED = "joined"
    SUSPECT = "suspect"
    ALIVE_AGAIN = "alive_again"
    DEAD = "dead"
    LEFT = "left"
    REACH = "reach"
    """It lives, but whether this member can talk to it changed."""
    CLONE = "clone"
    """Somebody else runs under this member's identity: this one must take a new one."""
    DEPARTED = "departed"
    """This member has said good-bye to enough others."""


class Event(NamedTuple):
    """Something the rest of the node may want to know."""

    kind: EventKind
    member: NodeId
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Updated:
    """Addresses, state or load of these members changed, in this order. Nothing is told as often."""

    members: list[NodeId]


@dataclass(frozen=True, slots=True)
class Gone:
    """A member that died or left: what is needed to go on knowing that after a restart."""

    signed: Claim
    """The newest it signed itself."""
    has_left: bool
    since: float
    """Monotonic."""
    reason: str
    is_forgotten: bool = False
    state: Mapping[str, bytes] = field(default_factory=dict, hash=False)
    """What it said of itself at last."""


@dataclass(frozen=True, slots=True)
class Persist:
    """Keep this on disk: the generation used, where living members were last, who is gone (newest first)."""

    generation: int
    peers: tuple[str, ...]
    gone: tuple[Gone, ...] = ()


@dataclass(frozen=True, slots=True)
class Count:
    """Something happened that only statistics care about."""

    what: str


Effect = Call | Respond | WakeAt | Event | Updated | Persist | Count


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member as this one knows it; immutable, for everybody above."""

    id: NodeId
    state: MemberState
    is_self: bool
    reachable: bool
    since: float
    """Monotonic time of the last change of state."""
    reason: str
    addresses: tuple[str, ...]
    generation: int
    incarnation: int
    rtt: float | None
    hot: bytes
    hot_version: int
    hot_at: float
    """Monotonic time at which its owner published `hot`, as far as can be told."""
    heard_at: float
    """Monotonic time at which it last spoke to us itself, and so would have told a newer load."""
    cold: Mapping[str, bytes] = field(default_factory=dict, hash=False)
    cold_version: int = 0
    reach: bool = True
    """Whether this member reaches it by itself."""
    reaches_us: bool = True
    """False when it says that it does not reach this member."""
    accuser: str = ""
    """Who accuses it; empty where nobody does."""
    protocol: tuple[int, int] = (0, 0)
    """Versions of the protocol it speaks."""
