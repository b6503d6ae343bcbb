"""What must hold of membership after every single input, whatever happens.

The numbers are those of docs/membership.md. Rows that an input changed are looked at at once (each change is
told by an event), all rows of a node now and then. Of the twenty, two cannot be seen from outside of the
state machine: that merging is a maximum (18, a property test of `Standing`) and that another cluster changes
nothing (19, it never gets past TLS). That one seed gives one history (17) is seen by playing it twice.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import MemberState
from ollama_dist.gossip import codec
from ollama_dist.gossip.protocol.config import GossipConfig
from ollama_dist.gossip.protocol.effects import Call, Effect, Event, EventKind, Respond, Updated
from ollama_dist.gossip.protocol.members import Row
from ollama_dist.gossip.protocol.messages import Envelope, Kind, Rank, Standing
from ollama_dist.gossip.protocol.rumours import QUEUE_MAX
from ollama_dist.sim.network import Given, Input, VirtualNetwork, VirtualNode, verify

TITLES: Final[Mapping[int, str]] = {
    1: "generation and incarnation of a row never fall",
    2: "who is gone comes back only in a new life",
    3: "who left is not suspected, and who is dead not at the same number",
    4: "nobody sees itself suspect or dead",
    5: "the own incarnation only rises",
    6: "one version has one content everywhere",
    7: "nobody writes another's state",
    8: "slow state has no gaps, and its versions rise",
    9: "queues, rows, tombstones, tokens and alarms are bounded",
    10: "messages keep to the limit",
    11: "a message gets one reply, a reply none",
    12: "one open call for each peer and kind",
    13: "each token ends once",
    14: "nobody is declared dead too early, nor without an own failed call",
    15: "the events of a member make sense one after the other",
    16: "events and rows tell the same",
    17: "the same seed gives the same history",
    18: "merging commutes, associates and repeats harmlessly",
    19: "a foreign cluster changes nothing but counters",
    20: "decoding anything raises at most the one declared error",
    21: "after a calm all see the same, and what is right",
}
CHECKED: Final = frozenset(TITLES) - {17, 18, 19}

PENDING_MAX: Final = 64
ALARMS_PER_ROW: Final = 2
ALARMS_BESIDE: Final = 64
UNANSWERED_MAX: Final = 30.0
"""A request that is not answered after so many seconds of its receiver's running never will be."""

ALIVE, SUSPECT, DEAD, LEFT = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT
GONE: Final = (DEAD, LEFT)

_WORDS: Final[Mapping[EventKind, tuple[tuple[MemberState | None, ...], MemberState | None]]] = {
    EventKind.JOINED: ((None, *GONE), ALIVE),
    EventKind.SUSPECT: ((ALIVE,), SUSPECT),
    EventKind.ALIVE_AGAIN: ((SUSPECT,), ALIVE),
    EventKind.DEAD: ((SUSPECT,), DEAD),
    EventKind.LEFT: ((ALIVE, SUSPECT, DEAD), LEFT),
    EventKind.REACH: ((ALIVE, SUSPECT), None),
}
"""In which states each event may come, and which state it leads to; None: the same."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never be, and was."""

    number: int
    """Of the invariant."""
    at: float
    """Virtual seconds."""
    node: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:.3f} s, {self.node}: invariant {self.number} ({TITLES[self.number]}): {self.what}"


class Broken(AssertionError):
    """An invariant does not hold."""


_Start = tuple[NodeId, int, int]
"""One start of one member: its generation, and its nonce, for an older disk may use a generation twice."""


@dataclass(slots=True)
class _Seen:
    """What an observer, in one of its lives, last believed of a member."""

    standing: Standing
    hot: int
    cold: tuple[int, int]


@dataclass(slots=True)
class _Opinion:
    """An observer's whole memory in one of its lives."""

    life: int
    is_watched: bool
    """Whether its rows are looked at whenever they change."""
    rows: dict[NodeId, _Seen] = field(default_factory=dict)
    words: dict[NodeId, MemberState] = field(default_factory=dict)
    """The states that the events tell of."""
    suspected: dict[NodeId, tuple[float, float]] = field(default_factory=dict)
    """When a member was suspected, and how long that has to last at least."""
    failed_at: dict[NodeId, float] = field(default_factory=dict)
    """When a call of its own to a member last failed."""
    failed: NodeId | None = None
    """Whose call failed with the input at hand."""
    open: dict[int, Call] = field(default_factory=dict)
    calls: set[tuple[NodeId, Kind]] = field(default_factory=set)
    last_token: int = 0
    swept_at: float = float("-inf")


@dataclass
class Invariants:
    """Watches a run. The first violation is raised, or all are kept if not ``raises``."""

    config: GossipConfig
    raises: bool = True
    sweep_every: float = 0.0
    """Virtual seconds between two looks at all rows of a node; 0 is after every input."""
    encode_every: int = 1
    """Every so manyth message is put into bytes, to be measured and mangled."""
    trusts_rumours: bool = True
    """False when somebody lies: then what is said of a death proves nothing (14)."""
    look_every: int = 1
    """Of every so manyth node, rows that an input changed are looked at at once; of the others in sweeps."""
    sees_beginnings: bool = True
    """False when members know each other from before anything was watched."""
    checks: int = 0
    violations: list[Violation] = field(default_factory=list)
    states_seen: set[MemberState] = field(default_factory=set)
    most: dict[str, int] = field(default_factory=dict)
    """The largest sizes seen: rumours, open calls, alarms, bytes of a message."""
    network: VirtualNetwork | None = None
    _opinions: dict[str, _Opinion] = field(default_factory=dict)
    _written: dict[tuple[_Start, str, int], bytes | None] = field(default_factory=dict)
    """What owners wrote: by start, key and version."""
    _last_write: dict[_Start, dict[str, int]] = field(default_factory=dict)
    _loads: dict[tuple[_Start, int], bytes] = field(default_factory=dict)
    _answered: set[tuple[str, int]] = field(default_factory=set)
    _declared: set[tuple[NodeId, int, int]] = field(default_factory=set)
    """Lives that somebody declared dead."""
    _met: int = 0
    _messages: int = 0
    _rng: Random = field(default_factory=lambda: Random(0))
    _history: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    # What the network tells

    def watch(self, network: VirtualNetwork) -> None:
        """Whose clock and names to use."""
        self.network = network

    def handled(self, node: VirtualNode, given: Given, effects: list[Effect]) -> None:
        self.checks += 1
        opinion = self._opinion(node)
        opinion.failed = given.peer if given.kind is Input.FAILED else None
        if given.token:
            self._ended(node, opinion, given)
        told = [effect for effect in effects if isinstance(effect, Event | Updated)]
        self._write_down(node, told)
        for each in told:
            if isinstance(each, Updated):
                self._updated(node, opinion, each.members)
            else:
                self._told(node, opinion, each)
        for effect in effects:
            match effect:
                case Call():
                    self._called(node, opinion, effect)
                case Respond(request):
                    self._responded(node, request)
        self._sizes(node, opinion)
        if self._now - opinion.swept_at >= self.sweep_every:
            opinion.swept_at = self._now
            self._look(node, opinion, [row.id for row in node.core.inside.members])
            self._pruned(node, opinion)
        elif opinion.is_watched:
            self._look(node, opinion, dict.fromkeys((node.id, *_concerned(told))))
        else:
            self._look(node, opinion, (node.id,))  # what it writes others may read at once

    def sent(self, node: VirtualNode, envelope: Envelope) -> None:
        self._messages += 1
        if self._messages % self.encode_every:
            return
        try:
            data = codec.encode(envelope)
        except codec.TooLong as error:
            self._violated(10, node, str(error))
            return
        self._most("message_bytes", len(data))
        self._decodes(node, envelope.kind, data)

    @property
    def history(self) -> str:
        """A fingerprint of all events so far: two runs with one seed have the same."""
        return self._history.hexdigest()[:16]

    # Rows

    def _look(self, node: VirtualNode, opinion: _Opinion, members: Iterable[NodeId]) -> None:
        table = node.core.inside.members
        for member in members:
            row = table.get(member)
            if row is None or (member == node.id and not node.core.is_member):
                continue  # of itself it has told nobody anything yet
            seen = opinion.rows.get(member)
            cold = row.cold.gc, row.cold.version
            hot = row.hot.version if row.hot else 0
            if seen is not None and seen.standing is row.standing and seen.cold == cold:
                if seen.hot == hot:
                    continue
                self._follows(node, row, seen, hot, cold)
                self._loads_agree(node, row)
                seen.hot = hot
            else:
                self._changed(node, row, seen, hot, cold)
                opinion.rows[member] = _Seen(row.standing, hot, cold)
            if opinion.words.get(member, row.state) is not row.state:
                self._violated(16, node, f"{member} is {row.state}, told was {opinion.words[member]}")
        own = table.get(node.id)
        if own is not None and own.state in (SUSPECT, DEAD):
            self._violated(4, node, f"it is {own.state} to itself")

    def _changed(
        self, node: VirtualNode, row: Row, seen: _Seen | None, hot: int, cold: tuple[int, int]
    ) -> None:
        self.states_seen.add(row.state)
        if seen is not None:
            self._follows(node, row, seen, hot, cold)
        if seen is None or seen.standing.generation != row.standing.generation or seen.cold != cold:
            self._reads(node, row)
        if seen is None or seen.hot != hot:
            self._loads_agree(node, row)

    def _loads_agree(self, node: VirtualNode, row: Row) -> None:
        if row.hot is not None:
            told = self._loads.setdefault((_start_of(row), row.hot.version), row.hot.data)
            if told != row.hot.data:
                self._violated(6, node, f"load {row.hot.version} of {row.id} differs")

    def _follows(self, node: VirtualNode, row: Row, seen: _Seen, hot: int, cold: tuple[int, int]) -> None:
        was, now = seen.standing, row.standing
        if now.life < was.life:
            self._violated(5 if row.id == node.id else 1, node, f"{row.id} fell from {was} to {now}")
        if was.rank.is_gone and not now.rank.is_gone and now.life <= was.life:
            self._violated(2, node, f"{row.id} came back from {was} as {now}")
        if was.rank is Rank.LEFT and now.generation == was.generation and now.rank is not Rank.LEFT:
            self._violated(3, node, f"{row.id} left as {was} and is {now}")
        if was.rank is Rank.DEAD and now.rank is Rank.SUSPECT and now.life == was.life:
            self._violated(3, node, f"{row.id} was dead and is suspect, at {now}")
        if was.generation == now.generation and (cold < seen.cold or hot < seen.hot):
            self._violated(8, node, f"state of {row.id} fell from {seen.cold} to {cold}")

    def _reads(self, node: VirtualNode, row: Row) -> None:
        """What it has of a member's slow state is what that member wrote, all of it."""
        own, start = row.id == node.id, _start_of(row)
        for entry in row.cold.entries():
            key = start, entry.key, entry.version
            if own:
                self._written.setdefault(key, entry.value)
                self._last_write.setdefault(start, {})[entry.key] = entry.version
            if key not in self._written:
                self._violated(7, node, f"{row.id} never wrote {entry.key} as version {entry.version}")
            elif self._written[key] != entry.value:
                self._violated(6, node, f"version {entry.version} of {entry.key} of {row.id} differs")
            if entry.version > row.cold.version:
                self._violated(8, node, f"{entry.key} of {row.id} is beyond version {row.cold.version}")
        if not own and (missing := self._missing(row)):
            self._violated(8, node, f"of {row.id} at version {row.cold.version}, {missing} is missing")

    def _missing(self, row: Row) -> str:
        """A key whose last version is covered by what the reader has read, but not there."""
        have = {entry.key for entry in row.cold.entries()}
        start = _start_of(row)
        for key, version in self._last_write.get(start, {}).items():
            is_covered = key not in have and version <= row.cold.version
            if is_covered and self._written[start, key, version] is not None:
                return key
        return ""

    def _pruned(self, node: VirtualNode, opinion: _Opinion) -> None:
        """Rows that were forgotten may come back as they please."""
        table = node.core.inside.members
        for member in [member for member in opinion.rows if member not in table]:
            del opinion.rows[member]
            opinion.words.pop(member, None)

    # Events

    def _write_down(self, node: VirtualNode, told: list[Event | Updated]) -> None:
        self._met = 0
        at = f"{self._now!r} {node.name} "
        for each in told:
            if isinstance(each, Updated):
                line = f"\n{at}updated "
                self._history.update(f"{line}{line.join(each.members)}\n"[1:].encode())
            else:
                self._met += each.kind is EventKind.JOINED
                self._history.update(f"{at}{each.kind} {each.member}\n".encode())

    def _updated(self, node: VirtualNode, opinion: _Opinion, members: list[NodeId]) -> None:
        words, unknown = opinion.words, None if self.sees_beginnings else ALIVE
        for member in members:
            was = words.get(member, unknown)
            if was is not ALIVE and was is not SUSPECT and member != node.id:
                self._violated(15, node, f"update of {member}, which was {was}")

    def _told(self, node: VirtualNode, opinion: _Opinion, event: Event) -> None:
        if event.kind not in _WORDS or event.member == node.id:
            return
        now = self._now
        allowed, becomes = _WORDS[event.kind]
        was = opinion.words.get(event.member)
        if was not in allowed and (was is not None or self.sees_beginnings):
            self._violated(15, node, f"{event.kind} of {event.member}, which was {was}")
        if becomes is not None:
            opinion.words[event.member] = becomes
        if event.kind is EventKind.SUSPECT:
            opinion.suspected[event.member] = now, self._patience(node)
        elif event.kind is EventKind.DEAD:
            self._died(node, opinion, event.member)

    def _died(self, node: VirtualNode, opinion: _Opinion, member: NodeId) -> None:
        row = node.core.inside.members.get(member)
        if row is None:
            return
        life = (member, *row.standing.life)
        suspected, patience = opinion.suspected.get(member, (float("inf"), 0.0))
        too_early = self._now - suspected < patience and life not in self._declared
        if too_early and self.trusts_rumours:
            self._violated(14, node, f"{member} declared dead {self._now - suspected:.2f} s after suspicion")
        # The failed call may be the first of the probe with which the suspicion began.
        probe = self.config.period(node.core.inside.size) * (1 + self.config.local_health_max)
        if opinion.failed_at.get(member, float("-inf")) < suspected - probe:
            self._violated(14, node, f"{member} declared dead without a failed call of its own")
        elif opinion.failed != member:
            self._violated(
                14, node, f"{member} declared dead on what was before, not on a call that failed now"
            )
        self._declared.add(life)

    def _patience(self, node: VirtualNode) -> float:
        """The shortest suspicion at the size the node knew of; who it met by this input may not count yet."""
        return 0.99 * self.config.suspicion_min(node.core.inside.size - self._met)

    # Calls

    def _called(self, node: VirtualNode, opinion: _Opinion, call: Call) -> None:
        if call.token <= opinion.last_token:
            self._violated(13, node, f"token {call.token} was given out before")
        opinion.last_token = max(opinion.last_token, call.token)
        opinion.open[call.token] = call
        if call.peer is not None:
            if (call.peer, call.kind) in opinion.calls:
                self._violated(12, node, f"a second {call.kind} to {call.peer}")
            opinion.calls.add((call.peer, call.kind))

    def _ended(self, node: VirtualNode, opinion: _Opinion, given: Given) -> None:
        call = opinion.open.pop(given.token, None)
        if call is None:
            self._violated(13, node, f"token {given.token} ended twice")
            return
        if call.peer is not None:
            opinion.calls.discard((call.peer, call.kind))
            if given.kind is Input.FAILED:
                opinion.failed_at[call.peer] = self._now

    def _responded(self, node: VirtualNode, request: int) -> None:
        key = node.name, request
        if key in self._answered:
            self._violated(11, node, f"request {request} is answered twice")
        self._answered.add(key)
        if len(self._answered) > 200_000:
            self._answered = set(sorted(self._answered, key=lambda each: each[1])[100_000:])

    # Bounds

    def _sizes(self, node: VirtualNode, opinion: _Opinion) -> None:
        inside = node.core.inside
        self._bounded(node, "rumours", len(inside.rumours), QUEUE_MAX)
        self._bounded(node, "open_calls", len(inside.pending), PENDING_MAX)
        self._bounded(
            node, "alarms", len(inside.alarms), ALARMS_BESIDE + ALARMS_PER_ROW * len(inside.members)
        )
        self._bounded(node, "rows", len(inside.members), self.config.members_max + 1)
        if len(inside.pending) != len(opinion.open):
            self._violated(13, node, f"{len(inside.pending)} calls pending, {len(opinion.open)} open")

    def _bounded(self, node: VirtualNode, what: str, size: int, limit: int) -> None:
        if size > self.most.get(what, 0):
            self.most[what] = size
            if size > limit:
                self._violated(9, node, f"{size} {what}")

    def _most(self, what: str, size: int) -> None:
        self.most[what] = max(self.most.get(what, 0), size)

    def _decodes(self, node: VirtualNode, kind: Kind, data: bytes) -> None:
        mangled = bytearray(data)
        for _ in range(self._rng.randrange(1, 4)):
            if mangled:
                mangled[self._rng.randrange(len(mangled))] = self._rng.randrange(256)
        try:
            codec.decode(kind, data)
            codec.decode(kind, bytes(mangled[: self._rng.randrange(len(mangled) + 1)]))
        except codec.Malformed:
            pass
        except Exception as error:  # that there is none is what is checked
            self._violated(20, node, f"{type(error).__name__}: {error}")

    # After a calm

    def is_calm(self, network: VirtualNetwork) -> bool:
        """Whether nothing is left that `calm` could find."""
        return next(self._unrest(network), None) is None

    def calm(self, network: VirtualNetwork) -> None:
        """All faults are over for a while: everybody sees who runs, knows the same, and is quiet."""
        for node, what in self._unrest(network):
            self._violated(21, node, what)
        genuine: set[tuple[NodeId, int]] = set()
        for node in network.living():
            for row in node.core.inside.members:
                told = row.id, id(row.signed)  # nearly all have the very same object
                if told in genuine:
                    continue
                genuine.add(told)
                if not verify(row.id, _key(row), row.signed.signed_part(), row.signed.signature):
                    self._violated(7, node, f"what it believes of {row.id} is not signed by it")

    def _unrest(self, network: VirtualNetwork) -> Iterator[tuple[VirtualNode, str]]:
        running = {node.id for node in network.living()}
        first = next(iter(network.living())).core.inside.members.fingerprint
        for node in network.living():
            inside = node.core.inside
            if len(inside.rumours):
                yield node, f"{len(inside.rumours)} rumours still under way"
            if inside.members.fingerprint != first:
                yield node, "knows something else than the first node"
        for node in network.living():  # which takes long, and is so where there is unrest of another kind
            alive = {row.id for row in node.core.inside.members if row.state is ALIVE}
            if alive != running:
                lacks, has = len(running - alive), len(alive - running)
                yield node, f"sees {lacks} too few and {has} too many alive"

    # Shared

    @property
    def _now(self) -> float:
        return self.network.now if self.network is not None else 0.0

    def _opinion(self, node: VirtualNode) -> _Opinion:
        opinion = self._opinions.get(node.name)
        if opinion is None or opinion.life != node.life:
            is_watched = len(self._opinions) % self.look_every == 0
            opinion = self._opinions[node.name] = _Opinion(node.life, is_watched)
        return opinion

    def _violated(self, number: int, node: VirtualNode, what: str) -> None:
        violation = Violation(number, self._now, node.name, what)
        if self.raises:
            raise Broken(str(violation))
        if len(self.violations) < 100:
            self.violations.append(violation)


def _concerned(told: list[Event | Updated]) -> Iterator[NodeId]:
    for each in told:
        if isinstance(each, Updated):
            yield from each.members
        else:
            yield each.member


def _start_of(row: Row) -> _Start:
    contact = row.signed.contact
    return row.id, row.standing.generation, contact.nonce if contact is not None else 0


def _key(row: Row) -> bytes:
    return row.signed.contact.public_key if row.signed.contact else b""
