"""Which pieces are asked of which source: a state machine without clock, socket or chance. Pure.

Pieces are asked for in the order in which they became wanted, each of the source that is expected to have
given it first. What a source that failed has given of a piece is kept; the next one gives the rest.

Members that take the same blob stand in line, and ask the nearest one ahead of them that is not much slower
than others: so a piece goes from hand to hand, and who holds the blob gives it once or twice, however many
take it. The rarest pieces are those nobody in line has; of these alone a holder is asked.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from ollama_dist.core.ids import Digest, NodeId

IN_FLIGHT: Final = 16
"""Pieces under way at once, from one source and in all."""

RUN: Final = 4
"""Consecutive pieces asked for with one request."""

LONG_RUN: Final = 8
"""The same of one or two holders that are `FAST`: fewer requests cost both sides less."""

FAST: Final = 64 * 2**20
"""Bytes a second: then nobody waits long for what others asked for."""

BAD_PIECES: Final = 3
"""So many wrong pieces, and a source is asked for nothing more."""

STALL_S: Final = 1.5
"""A piece of which nothing came for so long is had from another source."""

LONE_STALL_S: Final = 8.0
"""The same where there is no other: it is asked for again, of the same."""

SLOW_S: Final = 2.0
"""A piece under way for so long may go to a source that would be much sooner."""

MUCH_SOONER: Final = 4.0
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 8.0
"""How long a source that failed is not asked; doubled each time."""

GIVE_UP_S: Final = 30.0
"""Without a byte from anybody: it is lost."""

ASK_AGAIN_S: Final = 1.0
"""How long a taker is not asked again for a piece that it does not have."""

REFUSALS: Final = 2
"""So many takers lack a piece, and only holders are asked for it."""

LAGS: Final = 8
"""So many pieces that a taker lacks, one after the other, and it is not asked for any for `ASK_AGAIN_S`."""

FORGET_S: Final = 5.0
"""A taker that was slow gets another chance after so long: it may have been waiting itself."""

_SAMPLE_S: Final = 0.25
_WEIGHT: Final = 0.4


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    digest: Digest
    index: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Have ``piece`` from ``source``, from its byte ``start`` on."""

    source: NodeId
    piece: Piece
    start: int


class Failure(Enum):
    """Why a source did not give what it was asked for."""

    GONE = auto()
    """It refused, broke off or answered nonsense; it may come back."""
    LACKS = auto()
    """It does not have that blob, or knows that its bytes are wrong. A taker does not have them yet."""
    STALLED = auto()
    """It lives, but sends nothing."""
    SLOW = auto()
    """Another would be much sooner."""


@dataclass(slots=True)
class _Flight:
    """One request, for one piece or for several that follow each other."""

    source: NodeId
    began: float
    heard: float
    pieces: int = 1
    got: int = 0


@dataclass(slots=True)
class _Wanted:
    size: int
    have: int = 0
    givers: set[NodeId] = field(default_factory=set)
    flight: _Flight | None = None
    wrong: set[NodeId] = field(default_factory=set)
    """Who has given it wrong: asked again for it only where there is nobody else."""
    alone: bool = False
    """Wrong when it came from several: it must come from one now, so that we know whose fault it is."""
    refused: dict[NodeId, float] = field(default_factory=dict)
    """Takers that lack it, and until when they are not asked again."""


@dataclass(slots=True)
class _Source:
    in_flight: int = 0
    bytes_per_s: float = 0.0
    is_measured: bool = False
    """That rate is one of a while, and not of what came in one go."""
    bad: int = 0
    failures: int = 0
    refusals: int = 0
    """Of a taker, since it last gave something."""
    rests_until: float = float("-inf")
    lacks: set[Digest] = field(default_factory=set)
    quarantined: str = ""
    sample_from: float = 0.0
    sample_bytes: int = 0
    gave_at: float = float("-inf")


class Transfer:
    """Tell it what is wanted and what happens; ask it what to do."""

    def __init__(self, now: float) -> None:
        self._sources: dict[NodeId, _Source] = {}
        self._present: frozenset[NodeId] = frozenset()
        self._line: dict[Digest, tuple[NodeId, ...]] = {}
        self._wanted: dict[Piece, _Wanted] = {}
        self._heard_at = now
        self._in_flight = 0

    # What is told

    def set_sources(self, sources: Iterable[NodeId]) -> None:
        """Who may be asked from now on; what was learnt of those who come back is remembered."""
        self._present = frozenset(sources)
        for source in self._present:
            self._sources.setdefault(source, _Source())

    def set_line(self, digest: Digest, ahead: Sequence[NodeId]) -> None:
        """Who takes the same blob and is ahead of us, the nearest first: they may have what we want."""
        self._line[digest] = tuple(source for source in ahead if source not in self._present)
        for source in ahead:
            self._sources.setdefault(source, _Source())

    def want(self, piece: Piece, size: int, now: float) -> None:
        if not self._wanted:
            self._heard_at = now
        self._wanted.setdefault(piece, _Wanted(size))

    def unwant(self, piece: Piece) -> None:
        """Nobody waits for it any more, or it has arrived and was taken."""
        wanted = self._wanted.pop(piece, None)
        if wanted is not None:
            self._land(wanted)

    def received(self, piece: Piece, source: NodeId, count: int, now: float) -> None:
        """``count`` more bytes of a piece under way came from ``source``."""
        self._heard_at = now
        known = self._sources[source]
        known.gave_at = now
        known.failures = known.refusals = 0
        known.sample_bytes += count
        if now - known.sample_from >= _SAMPLE_S:
            self._sample(known, now)
            known.is_measured = True
        wanted = self._flying(piece, source)
        if wanted is not None and wanted.flight is not None:
            wanted.have += count
            wanted.givers.add(source)
            wanted.flight.heard = now
            wanted.flight.got += count

    def good(self, piece: Piece) -> None:
        """The piece is whole and right."""
        wanted = self._wanted.get(piece)
        if wanted is not None and wanted.flight is not None:
            known = self._sources[wanted.flight.source]
            if not known.bytes_per_s and wanted.flight.heard > known.sample_from:
                self._sample(known, wanted.flight.heard)  # it may be through before a sample is due
        self.unwant(piece)

    def bad(self, piece: Piece) -> frozenset[NodeId]:
        """The piece is whole and wrong: all of it is wanted again. Who is to blame for it, where one is."""
        wanted = self._wanted.get(piece)
        if wanted is None:
            return frozenset()
        self._land(wanted)
        givers, wanted.givers, wanted.have = frozenset(wanted.givers), set(), 0
        wanted.wrong |= givers
        wanted.alone = len(givers) > 1
        if wanted.alone:
            return frozenset()
        for source in givers:
            self._sources[source].bad += 1
            if self._sources[source].bad >= BAD_PIECES:
                self.quarantine(source, f"{BAD_PIECES} wrong pieces")
        return givers

    def failed(self, piece: Piece, source: NodeId, failure: Failure, now: float) -> None:
        """What was asked of ``source`` will not come."""
        wanted = self._flying(piece, source)
        if wanted is not None:
            self._land(wanted)
            if wanted.alone:
                wanted.have, wanted.givers = 0, set()
            if failure is Failure.LACKS:
                wanted.refused[source] = now + ASK_AGAIN_S
        known = self._sources[source]
        if failure is Failure.LACKS:
            if source in self._present:
                known.lacks.add(piece.digest)
            else:
                known.refusals += 1
                if known.refusals % LAGS == 0:
                    known.rests_until = now + ASK_AGAIN_S
        elif (
            failure is not Failure.SLOW and now >= known.rests_until
        ):  # the many pieces that fail with one connection count as one
            known.rests_until = now + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**known.failures)
            known.failures += 1

    def quarantine(self, source: NodeId, reason: str) -> None:
        """Ask ``source`` for nothing more."""
        self._sources[source].quarantined = reason

    def held_back(self, now: float) -> None:
        """What is wanted is not asked for now: that nothing comes says nothing of the sources."""
        self._heard_at = now

    # What is asked

    @property
    def in_flight(self) -> int:
        """Pieces asked for that have not landed."""
        return self._in_flight

    def run(self) -> int:
        """How many consecutive pieces are asked for with one request, where as many are wanted."""
        rates = [self._sources[source].bytes_per_s for source in self._present]
        is_fast = len(rates) <= IN_FLIGHT // LONG_RUN and min(rates, default=0.0) >= FAST
        return LONG_RUN if is_fast and not any(self._line.values()) else RUN

    def next_ask(self, now: float, among: Iterable[Piece] | None = None) -> Ask | None:
        """What to begin now, if anything; it counts as begun. A piece that is whole is only to be judged.

        ``among``: of these alone, where there is room for no others.
        """
        if self._in_flight >= IN_FLIGHT:
            return None
        for piece in self._wanted if among is None else among:
            wanted = self._wanted.get(piece)
            if wanted is not None and wanted.flight is None:
                source = self._choose(piece, wanted, now)
                if source is not None:
                    self._launch(wanted, _Flight(source, now, now))
                    return Ask(source, piece, wanted.have)
        return None

    def next_run(self, now: float) -> list[Ask]:
        """`next_ask`, and of the pieces behind it those that go along: one request for all of them.

        None as long as there is no room for a whole run: else each piece that lands would begin one of one.
        """
        most = self.run()
        ask = self.next_ask(now) if self._in_flight <= IN_FLIGHT - most else None
        if ask is None:
            return []
        run = [ask]
        flight = self._wanted[ask.piece].flight
        assert flight is not None
        while len(run) < most:
            piece = Piece(ask.piece.digest, run[-1].piece.index + 1)
            wanted = self._wanted.get(piece)
            if wanted is None or not self._goes_along(piece, wanted, flight, now):
                break
            flight.pieces += 1
            self._launch(wanted, flight)
            run.append(Ask(ask.source, piece, 0))
        return run

    def overdue(self, now: float) -> list[Ask]:
        """What to break off: it stalls, its source has gone, or another would be much sooner.

        It counts as failed, and what came of it as had.
        """
        for known in [self._sources[source] for line in self._line.values() for source in line]:
            if not known.in_flight and now - known.gave_at > FORGET_S:
                known.bytes_per_s = 0.0
        broken = []
        for piece, wanted in self._wanted.items():
            flight = wanted.flight
            if flight is None or wanted.have >= wanted.size:
                continue
            others = [source for source in self._usable(piece, now) if source != flight.source]
            if now - flight.heard > (STALL_S if others else LONE_STALL_S) or not self._may_give(
                flight.source, piece.digest
            ):
                broken.append((piece, flight.source, Failure.STALLED))
            elif self._is_slow(flight, others, now):
                broken.append((piece, flight.source, Failure.SLOW))
        for piece, source, failure in broken:
            self.failed(piece, source, failure, now)
        return [Ask(source, piece, self._wanted[piece].have) for piece, source, _ in broken]

    def lost(self, piece: Piece, now: float) -> str:
        """Why nobody will give the piece; empty as long as somebody may."""
        if now - self._heard_at > GIVE_UP_S:
            return f"no source has given a byte for {GIVE_UP_S:.0f} s"
        reasons = [self._sources[source].quarantined or "lacks it" for source in sorted(self._present)]
        if reasons and not any(self._may_give(source, piece.digest) for source in self._asked(piece.digest)):
            return f"no source is left: {'; '.join(reasons)}"
        return ""

    def rate(self, now: float) -> float:
        """Bytes a second lately, of all sources together."""
        return sum(self._sources[source].bytes_per_s for source in self.givers(now))

    def givers(self, now: float) -> tuple[NodeId, ...]:
        """Who gave something in the last two seconds."""
        return tuple(sorted(source for source, known in self._sources.items() if now - known.gave_at < 2.0))

    def silent_s(self, now: float) -> float:
        """How long something is wanted and nothing has come."""
        return now - self._heard_at if self._wanted else 0.0

    def candidates(self, digest: Digest, now: float) -> list[NodeId]:
        """Which holders may be asked about a blob now, the fastest first."""
        usable = self._holders(self._usable(Piece(digest, -1), now))
        return sorted(usable, key=lambda source: (-self._sources[source].bytes_per_s, source))

    @property
    def quarantined(self) -> dict[NodeId, str]:
        """Who is asked for nothing more, and why."""
        return {source: known.quarantined for source, known in self._sources.items() if known.quarantined}

    # Within

    def _flying(self, piece: Piece, source: NodeId) -> _Wanted | None:
        wanted = self._wanted.get(piece)
        is_ours = wanted is not None and wanted.flight is not None and wanted.flight.source == source
        return wanted if is_ours else None

    def _launch(self, wanted: _Wanted, flight: _Flight) -> None:
        known = self._sources[flight.source]
        if not known.in_flight:
            known.sample_from, known.sample_bytes = flight.began, 0
        known.in_flight += 1
        self._in_flight += 1
        wanted.flight = flight

    def _goes_along(self, piece: Piece, wanted: _Wanted, flight: _Flight, now: float) -> bool:
        """Whether it is had with those before it: none of it came yet, and nobody would give them sooner."""
        known = self._sources[flight.source]
        if wanted.flight is not None or wanted.have or wanted.wrong or known.in_flight >= IN_FLIGHT:
            return False
        usable = self._usable(piece, now)
        if (taker := self._ahead(piece, usable)) is not None or flight.source not in self._present:
            return taker == flight.source
        usable = self._holders(usable)
        size, run = wanted.size, (flight.pieces + 1) * wanted.size
        here_s = self._ready_in(flight.source, size, size, usable)
        return all(here_s <= self._ready_in(s, size, run, usable) for s in usable if s != flight.source)

    def _land(self, wanted: _Wanted) -> None:
        if wanted.flight is not None:
            self._sources[wanted.flight.source].in_flight -= 1
            self._in_flight -= 1
            wanted.flight = None

    def _sample(self, known: _Source, now: float) -> None:
        """Note how fast a source gave since the last time."""
        rate = known.sample_bytes / (now - known.sample_from)
        known.bytes_per_s += (rate - known.bytes_per_s) * (_WEIGHT if known.bytes_per_s else 1.0)
        known.sample_from, known.sample_bytes = now, 0

    def _may_give(self, source: NodeId, digest: Digest) -> bool:
        known = self._sources[source]
        return source in self._asked(digest) and not known.quarantined and digest not in known.lacks

    def _asked(self, digest: Digest) -> tuple[NodeId, ...]:
        """Who has all of a blob, and those ahead of us who may have a part of it."""
        return (*sorted(self._present), *self._line.get(digest, ()))

    def _holders(self, usable: list[NodeId]) -> list[NodeId]:
        return [source for source in usable if source in self._present]

    def _usable(self, piece: Piece, now: float) -> list[NodeId]:
        wanted = self._wanted.get(piece)
        refused = wanted.refused if wanted is not None else {}
        return [
            source
            for source in self._asked(piece.digest)
            if self._may_give(source, piece.digest)
            and self._sources[source].rests_until <= now
            and refused.get(source, now) <= now
        ]

    def _ahead(self, piece: Piece, usable: list[NodeId]) -> NodeId | None:
        """The nearest taker ahead that is not much slower than another source; None where there is none."""
        wanted = self._wanted[piece]
        if len(wanted.refused) >= REFUSALS:
            return None
        measured = [known for source in usable if (known := self._sources[source]).is_measured]
        fastest = max((known.bytes_per_s for known in measured), default=0.0)
        for source in self._line.get(piece.digest, ()):
            known = self._sources[source]
            is_slow = known.bytes_per_s and known.bytes_per_s * MUCH_SOONER < fastest
            if source in usable and not is_slow and source not in wanted.wrong:
                return source
        return None

    def _choose(self, piece: Piece, wanted: _Wanted, now: float) -> NodeId | None:
        """The source that would have given it first; one that was never tried counts as the fastest."""
        usable = [s for s in self._usable(piece, now) if self._sources[s].in_flight < IN_FLIGHT]
        usable = [source for source in usable if source not in wanted.wrong] or usable
        if not usable:
            return None
        if (taker := self._ahead(piece, usable)) is not None:
            return taker
        usable = self._holders(usable) or usable
        rest = wanted.size - wanted.have
        return min(usable, key=lambda source: (self._ready_in(source, wanted.size, rest, usable), source))

    def _ready_in(self, source: NodeId, each: int, rest: int, usable: list[NodeId]) -> float:
        """Seconds until ``source`` would have given ``rest`` bytes more than what it is asked for already.

        ``each``: bytes of a piece; ``usable``: whom it is compared to.
        """
        known = self._sources[source]
        fastest = max((self._sources[other].bytes_per_s for other in usable), default=0.0) or 1.0
        return (known.in_flight * each + rest) / (known.bytes_per_s or fastest)

    def _is_slow(self, flight: _Flight, others: list[NodeId], now: float) -> bool:
        elapsed = now - flight.began
        if elapsed < SLOW_S:
            return False
        rates = [self._sources[s].bytes_per_s for s in others if self._sources[s].in_flight < IN_FLIGHT]
        return any(rate > max(flight.got, 1) / elapsed * MUCH_SOONER for rate in rates)
