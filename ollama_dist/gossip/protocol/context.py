"""What the parts of the state machine share: the table, the clockwork, open calls, and what is to be done."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.alarms import Alarms
from ollama_dist.gossip.protocol.config import GossipConfig
from ollama_dist.gossip.protocol.effects import Call, Count, Effect, Event, EventKind, Updated
from ollama_dist.gossip.protocol.health import LocalHealth
from ollama_dist.gossip.protocol.members import Members, Row
from ollama_dist.gossip.protocol.messages import Claim, Envelope, Kind
from ollama_dist.gossip.protocol.rumours import Rumours

Verify = Callable[[NodeId, bytes, bytes, bytes], bool]
"""Whether a member with this id and public key signed these bytes so. Same arguments, same answer."""


class Purpose(Enum):
    """Why a call was made: what its reply or failure is for."""

    PROBE = auto()
    ASK = auto()
    """The accused is asked once more before its time is up (rule 3)."""
    HELP = auto()
    """We ping for somebody else."""
    DEAD_CONTACT = auto()
    SYNC = auto()
    JOIN = auto()
    CLONE_CHECK = auto()
    GOSSIP = auto()
    LEAVE = auto()


@dataclass(frozen=True, slots=True)
class Pending:
    """An open call."""

    kind: Kind
    peer: NodeId | None
    purpose: Purpose
    sent_at: float
    probe: int = 0
    """Of a probe's calls: which."""
    address: str = ""
    """Of a call to an address nobody is known behind yet."""


@dataclass
class Context:
    """Shared by the parts. ``now`` and ``effects`` belong to the input that is being handled."""

    config: GossipConfig
    me: NodeId
    rng: Random
    verify: Verify
    now: float = 0.0
    effects: list[Effect] = field(default_factory=list)
    joined: list[NodeId] = field(default_factory=list)
    """Who is told of as new among them."""
    answers: list[Claim] = field(default_factory=list)
    """Newer news for whoever sent the message at hand: goes into the reply (rule 6)."""
    members: Members = field(default_factory=Members)
    alarms: Alarms = field(default_factory=Alarms)
    pending: dict[int, Pending] = field(default_factory=dict)
    declare_from: float = float("-inf")
    """Before this time nobody is declared dead: we stood still ourselves and look around first (rule 8)."""
    stood_until: float = float("-inf")
    """When we last ran again after a stop: how long answers took before says nothing."""
    missed_heard_at: float = float("-inf")
    """When somebody who was suspect or gone last spoke to us itself: what kept it from us (a partition?) may
    be over for others as well. Questions put before prove nothing any more (rule 9)."""

    def __post_init__(self) -> None:
        self.rumours = Rumours(self.me)
        config = self.config
        self.health = LocalHealth(
            config.local_health_max,
            config.probe_timeout_least,
            config.sync_timeout * config.local_health_max if config.rules.pace else 0.0,
            paces=config.rules.pace,
        )
        self._token = 0
        self._open: set[tuple[NodeId, Kind]] = set()
        self._open_for: Counter[Purpose] = Counter()

    # Figures that depend on how many we are

    @property
    def size(self) -> int:
        """Members that live, ourselves included."""
        return self.members.living_count

    @property
    def period(self) -> float:
        return self.config.period(self.size)

    @property
    def probe_timeout(self) -> float:
        return self.config.probe_timeout(self.size)

    @property
    def patience(self) -> float:
        """For how long an answer is waited for: the longer, the worse we are and the later answers come."""
        return max(self.probe_timeout * self.health.factor, self.health.answers_within)

    def others(self) -> list[Row]:
        """Living members but ourselves."""
        return [row for row in self.members.living() if row.id != self.me]

    def some(self, rows: list[Row], count: int) -> list[Row]:
        """So many of ``rows`` by chance, of those that answer. Where these are few, a stranger is among them,
        not more: who has just come does not connect to all at once."""
        near = [row for row in rows if row.answers]
        chosen: list[Row] = []
        if count and len(near) < min(len(rows), self.config.near_least):
            chosen.append(self.rng.choice([row for row in rows if not row.answers]))
        return chosen + self.rng.sample(near, min(count - len(chosen), len(near)))

    # Effects

    def count(self, what: str) -> None:
        self.effects.append(Count(what))

    def event(self, kind: EventKind, member: NodeId, detail: str = "") -> None:
        self.effects.append(Event(kind, member, detail))
        if kind is EventKind.JOINED:
            self.joined.append(member)

    def updated(self, member: NodeId) -> None:
        """Its addresses, state or load changed."""
        effects = self.effects
        last = effects[-1] if effects else None
        if isinstance(last, Updated):
            last.members.append(member)
        else:
            effects.append(Updated([member]))

    def is_open(self, peer: NodeId, kind: Kind) -> bool:
        return (peer, kind) in self._open

    def open_count(self, purpose: Purpose) -> int:
        """Calls to members for that purpose that have not ended."""
        return self._open_for[purpose]

    def call(self, row: Row, envelope: Envelope, deadline: float, purpose: Purpose, probe: int = 0) -> bool:
        """Call a member; False when a call of that kind to it is open already: nothing is queued."""
        key = (row.id, envelope.kind)
        if key in self._open:
            self.count("call_busy")
            return False
        self._open.add(key)
        self._open_for[purpose] += 1
        pending = Pending(envelope.kind, row.id, purpose, self.now, probe)
        self.effects.append(
            Call(self._next(pending), envelope.kind, row.id, row.addresses, envelope, deadline)
        )
        return True

    def call_address(self, address: str, envelope: Envelope, deadline: float, purpose: Purpose) -> None:
        """Call whoever is at ``address``."""
        pending = Pending(envelope.kind, None, purpose, self.now, address=address)
        self.effects.append(Call(self._next(pending), envelope.kind, None, (address,), envelope, deadline))

    def close(self, token: int) -> Pending | None:
        """The call is over; None when it is not known (any more): each token ends once."""
        pending = self.pending.pop(token, None)
        if pending is not None and pending.peer is not None:
            self._open.discard((pending.peer, pending.kind))
            self._open_for[pending.purpose] -= 1
        return pending

    def _next(self, pending: Pending) -> int:
        self._token += 1
        self.pending[self._token] = pending
        return self._token
