"""Several members that take one blob at once from one that holds it, under virtual time.

Each member's line out is the limit, shared alike by what is asked of it; what comes in is not. A taker gives
pieces that it has, keeps those waiting who ask for what it is about to have, and refuses the rest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

import pytest

from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.replication.transfer.machine import IN_FLIGHT, Ask, Failure, Piece, Transfer

BLOB: Final = Digest("d" * 64)
SIZE: Final = 1_000_000
PIECES: Final = 240
UPLINK: Final = 100e6
STEP_S: Final = 0.01
LOOK_S: Final = 0.2
LINE_S: Final = 1.0
SOON: Final = 16
HELD: Final = 32
HOLDER: Final = NodeId("holder")


def in_order(_: Random) -> list[list[int]]:
    """One range, as a file is copied."""
    return [list(range(PIECES))]


def as_an_ollama(rng: Random) -> list[list[int]]:
    """Ranges of forty pieces, many at once: in nearly the same order everywhere."""
    ranges = [list(range(start, min(start + 40, PIECES))) for start in range(0, PIECES, 40)]
    for place in range(len(ranges) - 1):
        if rng.random() < 0.3:
            ranges[place : place + 2] = reversed(ranges[place : place + 2])
    return ranges


Order = Callable[[Random], list[list[int]]]


@dataclass
class Taker:
    """Reads its ranges, sixteen at once and each in order."""

    id: NodeId
    since: float
    ranges: Iterator[list[int]]
    machine: Transfer
    uplink: float = UPLINK
    ahead: dict[int, list[int]] = field(default_factory=dict)
    """Of each range that is read, what nobody has asked for yet."""
    held: dict[int, int] = field(default_factory=dict)
    """Pieces that are wanted or have landed out of turn, and their ranges."""
    have: set[int] = field(default_factory=set)
    flying: dict[int, Ask] = field(default_factory=dict)
    got: dict[int, int] = field(default_factory=dict)
    received: int = 0
    given: float = 0.0
    done_at: float = 0.0
    is_dead: bool = False
    lies: bool = False

    def read(self, now: float) -> None:
        """Want as much as may be: what has landed in turn is handed over and leaves room."""
        for index in [i for i, of in self.held.items() if i in self.have and self._is_next(i, of)]:
            del self.held[index]
        while len(self.ahead) < 16 and (more := next(self.ranges, None)) is not None:
            self.ahead[more[0]] = more
        self.ahead = {key: rest for key, rest in self.ahead.items() if rest or key in self.held.values()}
        window = max(1, min(16, HELD // max(1, len(self.ahead))))
        for key, rest in self.ahead.items():
            while rest and sum(of == key for of in self.held.values()) < window:
                index = rest.pop(0)
                self.held[index] = key
                self.machine.want(Piece(BLOB, index), SIZE, now)

    def _is_next(self, index: int, of: int) -> bool:
        return all(i in self.have for i, other in self.held.items() if other == of and i < index)

    def may_give(self, index: int) -> bool | None:
        """Whether it has it; None where it will soon."""
        if index in self.have:
            return True
        return None if any(0 <= index - held <= SOON for held in self.held) else False

    @property
    def is_done(self) -> bool:
        return len(self.have) == PIECES


class World:
    def __init__(self, count: int, order: Order, seed: int) -> None:
        rng = Random(seed)
        self.now = 0.0
        self.given = 0.0
        self._later: list[tuple[float, Callable[[], None]]] = []
        self.takers = []
        for number in range(count):
            since = rng.random() * 0.1
            ranges = iter(order(rng))
            self.takers.append(Taker(NodeId(f"t{number}"), since, ranges, Transfer(0.0)))
        self.by_id = {taker.id: taker for taker in self.takers}

    def at(self, when: float, do: Callable[[], None]) -> None:
        self._later.append((when, do))

    def run(self, limit_s: float = 60.0) -> float:
        """Until all that live are done; the time of the last."""
        looked = lined = -1.0
        while not all(taker.is_done or taker.is_dead for taker in self.takers):
            for due in [due for due in self._later if due[0] <= self.now]:
                self._later.remove(due)
                due[1]()
            if self.now - lined >= LINE_S:
                lined = self.now
            if self.now - looked >= LOOK_S:
                looked = self.now
            for taker in self.takers:
                if taker.since <= self.now and not taker.is_dead and not taker.is_done:
                    self._turn(taker, is_look=looked == self.now, is_line=lined == self.now)
            self._give()
            self.now += STEP_S
            assert self.now < limit_s, "it does not end"
        return max(taker.done_at for taker in self.takers)

    def _turn(self, taker: Taker, *, is_look: bool, is_line: bool) -> None:
        if is_line or not taker.held:
            line = [t for t in self.takers if t.since < taker.since and not t.is_dead and not t.is_done]
            nearest_first = sorted(line, key=lambda t: -t.since)
            taker.machine.set_line(BLOB, [t.id for t in nearest_first])
        taker.machine.set_sources([HOLDER])
        if is_look:
            for ask in taker.machine.overdue(self.now):
                taker.flying.pop(ask.piece.index)
        taker.read(self.now)
        while run := taker.machine.next_run(self.now):
            for ask in run:
                assert ask.start == taker.got.get(ask.piece.index, 0)
                taker.flying[ask.piece.index] = ask

    def _give(self) -> None:
        """What flows in one step."""
        asked: dict[NodeId, list[tuple[Taker, Ask]]] = {}
        for taker in self.takers:
            for ask in list(taker.flying.values()):
                giver = self.by_id.get(ask.source)
                can = True if giver is None else giver.may_give(ask.piece.index)
                if giver is not None and giver.is_dead:
                    self._fail(taker, ask, Failure.GONE)
                elif can is False:
                    self._fail(taker, ask, Failure.LACKS)
                elif can:
                    asked.setdefault(ask.source, []).append((taker, ask))
        for source, flights in asked.items():
            giver = self.by_id.get(source)
            room = (giver.uplink if giver else UPLINK) * STEP_S
            for taker, ask in flights:
                self._flow(taker, ask, min(room / len(flights), SIZE - taker.got.get(ask.piece.index, 0)))

    def _fail(self, taker: Taker, ask: Ask, failure: Failure) -> None:
        del taker.flying[ask.piece.index]
        taker.machine.failed(ask.piece, ask.source, failure, self.now)

    def _flow(self, taker: Taker, ask: Ask, count: float) -> None:
        index, giver = ask.piece.index, self.by_id.get(ask.source)
        size = round(count)
        taker.received += size
        if giver is None:
            self.given += size
        else:
            giver.given += size
        taker.got[index] = taker.got.get(index, 0) + size
        taker.machine.received(ask.piece, ask.source, size, self.now)
        if taker.got[index] < SIZE:
            return
        del taker.flying[index]
        if giver is not None and giver.lies:
            taker.got[index] = 0
            taker.machine.bad(ask.piece)
            return
        taker.machine.good(ask.piece)
        taker.have.add(index)
        if taker.is_done:
            taker.done_at = self.now

    @property
    def copies(self) -> float:
        """Given by the holder."""
        return self.given / (PIECES * SIZE)


@pytest.mark.parametrize("order", [in_order, as_an_ollama])
@pytest.mark.parametrize("seed", range(2))
def test_seven_at_once_cost_the_holder_little_more_than_one_copy(order: Order, seed: int) -> None:
    alone, seven = World(1, order, seed), World(7, order, seed)
    one_s, all_s = alone.run(), seven.run()
    assert alone.copies == pytest.approx(1.0)
    assert seven.copies < 1.5
    assert all_s < 2 * one_s
    assert all(taker.received == PIECES * SIZE for taker in seven.takers)


def test_who_begins_later_has_it_from_those_who_began_before() -> None:
    world = World(4, in_order, seed=1)
    for number, taker in enumerate(world.takers):
        taker.since = 0.5 * number
    world.run()
    assert world.copies < 1.5


def test_a_taker_that_dies_midway_costs_the_others_no_byte_twice() -> None:
    world = World(5, in_order, seed=2)
    second = sorted(world.takers, key=lambda taker: taker.since)[1]
    world.at(1.0, lambda: setattr(second, "is_dead", True))
    world.run()
    assert 0 < len(second.have) < PIECES
    assert all(taker.received == PIECES * SIZE for taker in world.takers if not taker.is_dead)
    assert world.copies < 2.0


def test_a_taker_that_lies_is_asked_for_nothing_more_and_all_arrives() -> None:
    world = World(5, in_order, seed=3)
    first = min(world.takers, key=lambda taker: taker.since)
    first.lies = True
    world.run()
    assert any(first.id in taker.machine.quarantined for taker in world.takers)
    assert all(taker.received <= (PIECES + IN_FLIGHT) * SIZE for taker in world.takers)


def test_a_slow_taker_holds_nobody_up_who_stands_behind_it() -> None:
    usual, world = World(5, in_order, seed=4), World(5, in_order, seed=4)
    second = sorted(world.takers, key=lambda taker: taker.since)[1]
    second.uplink = UPLINK / 20
    assert world.run() < 2 * usual.run()
    assert world.copies < 2.5
