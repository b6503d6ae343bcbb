"""Which pieces are asked of whom, with chosen time."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.replication.transfer.machine import (
    FAST,
    FORGET_S,
    GIVE_UP_S,
    IN_FLIGHT,
    LAGS,
    LONE_STALL_S,
    LONG_RUN,
    RUN,
    STALL_S,
    Ask,
    Failure,
    Piece,
    Transfer,
)

A, B = NodeId("a"), NodeId("b")
BLOB = Digest("d" * 64)
SIZE = 1000


def piece(index: int) -> Piece:
    return Piece(BLOB, index)


def transfer(*sources: NodeId, wanted: int = 1) -> Transfer:
    machine = Transfer(now=0.0)
    machine.set_sources(sources)
    for index in range(wanted):
        machine.want(piece(index), SIZE, now=0.0)
    return machine


def asks(machine: Transfer, now: float) -> list[Ask]:
    found = []
    while (ask := machine.next_ask(now)) is not None:
        found.append(ask)
    return found


def test_pieces_are_asked_for_in_order_and_only_so_many_at_once() -> None:
    begun = asks(transfer(A, B, wanted=40), now=0.0)
    assert [ask.piece.index for ask in begun] == list(range(IN_FLIGHT))
    assert {ask.source for ask in begun} == {A, B}


def test_the_next_source_gives_what_the_failed_one_has_not() -> None:
    machine = transfer(A, B)
    [ask] = asks(machine, now=0.0)
    machine.received(ask.piece, ask.source, 400, now=0.1)

    machine.failed(ask.piece, ask.source, Failure.GONE, now=0.2)

    assert asks(machine, now=0.2) == [Ask(B, piece(0), 400)]


def test_a_source_that_failed_rests_longer_each_time_and_many_pieces_are_one_failure() -> None:
    machine = transfer(A, wanted=2)
    for now, rest_s in ((0.0, 0.5), (1.0, 1.0), (3.0, 2.0)):
        begun = asks(machine, now)
        assert len(begun) == 2
        for ask in begun:
            machine.failed(ask.piece, A, Failure.GONE, now)
        assert asks(machine, now + rest_s - 0.01) == []


def test_a_stalled_source_is_left_for_another_within_two_seconds() -> None:
    machine = transfer(A, B)
    asks(machine, now=0.0)
    machine.received(piece(0), A, 10, now=1.0)
    assert machine.overdue(now=1.0 + STALL_S) == []

    assert machine.overdue(now=1.2 + STALL_S) == [Ask(A, piece(0), 10)]

    assert asks(machine, now=1.2 + STALL_S) == [Ask(B, piece(0), 10)]


def test_the_only_source_is_waited_for_longer_and_asked_again() -> None:
    machine = transfer(A)
    asks(machine, now=0.0)
    assert machine.overdue(now=LONE_STALL_S) == []
    assert machine.overdue(now=LONE_STALL_S + 0.1) == [Ask(A, piece(0), 0)]
    assert asks(machine, now=LONE_STALL_S + 1.0) == [Ask(A, piece(0), 0)]


def test_a_source_that_left_is_not_waited_for() -> None:
    machine = transfer(A, B)
    asks(machine, now=0.0)
    machine.set_sources([B])
    assert machine.overdue(now=0.1) == [Ask(A, piece(0), 0)]
    assert asks(machine, now=0.1) == [Ask(B, piece(0), 0)]


def test_the_faster_source_gives_more() -> None:
    machine, now, given = transfer(A, B), 0.0, {A: 0, B: 0}
    speeds = {A: 10_000.0, B: 1_000.0}
    due: list[tuple[float, Ask]] = []
    for index in range(400):
        machine.want(piece(index), SIZE, now)
        for ask in asks(machine, now):
            busy_until = max([at for at, other in due if other.source == ask.source], default=now)
            due.append((busy_until + SIZE / speeds[ask.source], ask))
        if len(due) >= IN_FLIGHT:
            due.sort(key=lambda entry: entry[0])
            now, ask = due.pop(0)
            machine.received(ask.piece, ask.source, SIZE, now)
            machine.good(ask.piece)
            given[ask.source] += 1
    assert given[A] > 5 * given[B] > 0


def test_a_slow_piece_moves_to_a_source_that_would_be_much_sooner() -> None:
    machine = transfer(A, B, wanted=2)
    slow, fast = asks(machine, now=0.0)
    machine.received(fast.piece, fast.source, SIZE, now=0.3)
    machine.good(fast.piece)
    for step in range(1, 20):
        machine.received(slow.piece, slow.source, 1, now=step / 10)
    assert machine.overdue(now=1.95) == []

    assert machine.overdue(now=2.05) == [Ask(slow.source, slow.piece, 19)]

    assert asks(machine, now=2.05) == [Ask(fast.source, slow.piece, 19)]


def test_three_wrong_pieces_and_a_source_is_asked_for_nothing_more() -> None:
    machine = transfer(A, wanted=3)
    for ask in asks(machine, now=0.0):
        machine.received(ask.piece, A, SIZE, now=0.1)
        assert machine.bad(ask.piece) == {A}
    assert machine.quarantined == {A: "3 wrong pieces"}
    assert asks(machine, now=0.2) == []
    assert machine.lost(piece(0), now=0.2) == "no source is left: 3 wrong pieces"


def test_a_wrong_piece_of_two_givers_is_nobodys_fault_until_one_gave_all_of_it() -> None:
    machine = transfer(A, B)
    asks(machine, now=0.0)
    machine.received(piece(0), A, 400, now=0.1)
    machine.failed(piece(0), A, Failure.GONE, now=0.1)
    asks(machine, now=0.1)
    machine.received(piece(0), B, 600, now=0.2)
    assert machine.bad(piece(0)) == frozenset()

    [again] = asks(machine, now=0.2)
    assert (again.source, again.start) == (B, 0)
    machine.received(piece(0), B, 500, now=0.3)
    machine.failed(piece(0), B, Failure.GONE, now=0.3)

    assert asks(machine, now=5.0) == [Ask(A, piece(0), 0)]
    machine.received(piece(0), A, SIZE, now=5.1)
    assert machine.bad(piece(0)) == {A}


def test_a_wrong_piece_is_asked_of_another_next() -> None:
    machine = transfer(A, B)
    [ask] = asks(machine, now=0.0)
    machine.received(ask.piece, A, SIZE, now=0.1)
    machine.bad(ask.piece)
    assert asks(machine, now=0.1) == [Ask(B, piece(0), 0)]


def test_who_lacks_a_blob_is_asked_for_others() -> None:
    machine, other = transfer(A), Piece(Digest("e" * 64), 0)
    [ask] = asks(machine, now=0.0)
    machine.failed(ask.piece, A, Failure.LACKS, now=0.0)
    machine.want(other, SIZE, now=0.0)
    assert asks(machine, now=0.0) == [Ask(A, other, 0)]
    assert machine.lost(piece(0), now=0.0) == "no source is left: lacks it"
    assert machine.lost(other, now=0.0) == ""


def test_it_is_given_up_only_after_a_while_without_a_byte() -> None:
    machine = transfer(A)
    asks(machine, now=0.0)
    machine.received(piece(0), A, 1, now=10.0)
    machine.set_sources([])
    assert machine.silent_s(now=25.0) == 15.0
    assert machine.lost(piece(0), now=10.0 + GIVE_UP_S) == ""
    assert machine.lost(piece(0), now=10.1 + GIVE_UP_S) == "no source has given a byte for 30 s"
    machine.unwant(piece(0))
    assert machine.silent_s(now=99.0) == 0.0


def test_who_comes_back_is_asked_again() -> None:
    machine = transfer()
    assert asks(machine, now=0.0) == []
    machine.set_sources([A])
    assert asks(machine, now=20.0) == [Ask(A, piece(0), 0)]


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_whatever_happens_every_piece_arrives_and_no_byte_is_asked_for_twice(seed: int, count: int) -> None:
    """Sources hang up and stall at random; as long as one is there, all is had, each byte once."""
    rng, sources = Random(seed), [NodeId(f"n{number}") for number in range(count)]
    machine, now = transfer(*sources, wanted=30), 0.0
    flying: dict[Piece, Ask] = {}
    got = dict.fromkeys(map(piece, range(30)), 0)
    while any(have < SIZE for have in got.values()):
        now += 0.1
        assert now < 600
        for ask in machine.overdue(now):
            assert flying.pop(ask.piece).source == ask.source
        for ask in asks(machine, now):
            assert ask.piece not in flying
            assert ask.start == got[ask.piece]
            flying[ask.piece] = ask
        assert len(flying) <= IN_FLIGHT
        for wanted, ask in list(flying.items()):
            match rng.randrange(12):
                case 0:
                    del flying[wanted]
                    machine.failed(wanted, ask.source, Failure.GONE, now)
                case 1 | 2:
                    pass
                case _:
                    size = min(SIZE - got[wanted], rng.randrange(1, 600))
                    got[wanted] += size
                    machine.received(wanted, ask.source, size, now)
                    if got[wanted] == SIZE:
                        del flying[wanted]
                        machine.good(wanted)
    assert machine.silent_s(now) == 0.0


def indices(run: list[Ask]) -> list[int]:
    return [ask.piece.index for ask in run]


def test_pieces_that_follow_each_other_are_one_run_and_wait_for_room_for_one() -> None:
    machine = transfer(A, wanted=20)
    runs = [machine.next_run(now=0.0) for _ in range(5)]
    assert [indices(run) for run in runs] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [12, 13, 14, 15],
        [],
    ]

    for index in range(3):
        machine.good(piece(index))
    assert machine.next_run(now=0.1) == []
    machine.good(piece(3))
    assert indices(machine.next_run(now=0.1)) == [16, 17, 18, 19]


def test_runs_are_long_of_one_or_two_that_are_fast_and_of_nobody_else() -> None:
    machine = transfer(A, B, wanted=40)
    for ask in (Ask(A, piece(0), 0), Ask(B, piece(1), 0)):
        assert machine.next_ask(now=0.0) == ask
    for ask in (Ask(A, piece(0), 0), Ask(B, piece(1), 0)):
        assert machine.run() == RUN
        machine.received(ask.piece, ask.source, FAST, now=1.0)
        machine.good(ask.piece)
    assert machine.run() == LONG_RUN
    runs = [machine.next_run(now=1.0) for _ in range(3)]
    assert [len(run) for run in runs] == [LONG_RUN, LONG_RUN, 0]

    machine.set_line(BLOB, [NodeId("y")])
    assert machine.run() == RUN  # what a taker has yet to get itself would keep the others waiting
    machine.set_line(BLOB, [])
    machine.set_sources([A, B, NodeId("c")])
    assert machine.run() == RUN


def test_a_run_ends_where_pieces_do_not_follow_or_begin_elsewhere() -> None:
    machine = transfer(A, B)
    for index in (1, 3):
        machine.want(piece(index), SIZE, now=0.0)
    assert indices(machine.next_run(now=0.0)) == [0, 1]
    machine.received(piece(0), A, 10, now=0.1)
    machine.failed(piece(0), A, Failure.GONE, now=0.1)
    machine.failed(piece(1), A, Failure.GONE, now=0.1)
    assert machine.next_run(now=0.1) == [Ask(B, piece(0), 10), Ask(B, piece(1), 0)]


def test_where_room_is_scarce_only_what_is_named_is_asked_for_and_silence_blames_nobody() -> None:
    machine = transfer(A, wanted=3)
    assert machine.next_ask(now=0.0, among=[piece(2), piece(7)]) == Ask(A, piece(2), 0)
    assert machine.next_ask(now=0.0, among=[piece(2)]) is None
    machine.good(piece(2))
    assert machine.in_flight == 0

    machine.held_back(now=GIVE_UP_S)
    assert machine.lost(piece(0), now=GIVE_UP_S + 1.0) == ""
    assert machine.silent_s(now=GIVE_UP_S + 1.0) == 1.0


def test_equal_sources_share_the_runs() -> None:
    machine = transfer(A, B, wanted=16)
    runs = [machine.next_run(now=0.0) for _ in range(4)]
    assert [(run[0].source, len(run)) for run in runs] == [(A, 4), (B, 4), (A, 4), (B, 4)]


def test_a_run_that_stalls_is_broken_off_as_a_whole_and_keeps_what_came() -> None:
    machine = transfer(A, B, wanted=4)
    run = machine.next_run(now=0.0)
    machine.received(piece(0), A, SIZE, now=1.0)
    machine.good(piece(0))
    machine.received(piece(1), A, 10, now=1.4)
    assert machine.overdue(now=1.4 + STALL_S) == []  # those behind wait with it

    broken = machine.overdue(now=1.5 + STALL_S)

    assert broken == [Ask(A, piece(1), 10), *run[2:]]
    assert machine.next_run(now=1.5 + STALL_S) == [
        Ask(B, piece(1), 10),
        Ask(B, piece(2), 0),
        Ask(B, piece(3), 0),
    ]


def in_line(*ahead: NodeId, wanted: int = 1) -> Transfer:
    machine = transfer(B, wanted=wanted)
    machine.set_line(BLOB, ahead)
    return machine


def test_the_nearest_taker_ahead_is_asked_before_who_holds_it() -> None:
    machine = in_line(NodeId("y"), A, wanted=8)
    assert {ask.source for ask in asks(machine, now=0.0)} == {NodeId("y")}


def test_what_a_taker_lacks_is_had_from_the_next_and_then_from_who_holds_it() -> None:
    machine = in_line(NodeId("y"), A)
    for source in (NodeId("y"), A):
        [ask] = asks(machine, now=0.0)
        assert ask.source == source
        machine.failed(ask.piece, source, Failure.LACKS, now=0.0)
    assert asks(machine, now=0.0) == [Ask(B, piece(0), 0)]
    assert machine.candidates(BLOB, now=0.0) == [B]
    assert machine.lost(piece(0), now=0.0) == ""


def test_a_taker_that_lacks_one_after_the_other_is_asked_for_nothing_for_a_while() -> None:
    machine = in_line(A, wanted=LAGS + 1)
    for ask in asks(machine, now=0.0)[:LAGS]:
        machine.failed(ask.piece, A, Failure.LACKS, now=0.0)
    machine.unwant(piece(LAGS))
    for index in range(LAGS + 1, LAGS + 4):
        machine.want(piece(index), SIZE, now=0.1)
    assert {ask.source for ask in asks(machine, now=0.1)} == {B}
    machine.want(piece(LAGS + 5), SIZE, now=1.5)
    assert [ask.source for ask in asks(machine, now=1.5)] == [A]


def test_a_taker_that_was_slow_is_tried_again_later() -> None:
    machine = in_line(A)
    machine.received(asks(machine, now=0.0)[0].piece, A, 10, now=1.0)
    machine.failed(piece(0), A, Failure.GONE, now=1.0)
    assert asks(machine, now=1.0) == [Ask(B, piece(0), 10)]
    machine.received(piece(0), B, SIZE - 10, now=1.3)
    machine.good(piece(0))
    machine.want(piece(1), SIZE, now=3.0)
    machine.overdue(now=3.0)
    assert asks(machine, now=3.0) == [Ask(B, piece(1), 0)]
    machine.good(piece(1))
    machine.want(piece(2), SIZE, now=1.1 + FORGET_S)
    machine.overdue(now=1.1 + FORGET_S)
    assert asks(machine, now=1.1 + FORGET_S) == [Ask(A, piece(2), 0)]


def test_what_came_in_one_go_says_nothing_against_a_taker() -> None:
    machine = transfer(B)
    machine.received(asks(machine, now=0.0)[0].piece, B, SIZE, now=0.001)
    machine.good(piece(0))
    machine.set_line(BLOB, [A])
    machine.want(piece(1), SIZE, now=0.01)
    assert asks(machine, now=0.01) == [Ask(A, piece(1), 0)]
    machine.received(piece(1), A, SIZE, now=0.5)
    machine.good(piece(1))
    machine.want(piece(2), SIZE, now=0.5)
    assert asks(machine, now=0.5) == [Ask(A, piece(2), 0)]


def test_a_taker_of_one_blob_is_not_asked_for_another() -> None:
    machine, other = in_line(A), Piece(Digest("e" * 64), 0)
    machine.want(other, SIZE, now=0.0)
    assert {ask.piece: ask.source for ask in asks(machine, now=0.0)} == {piece(0): A, other: B}


def test_where_no_holder_is_left_takers_give_what_they_have() -> None:
    machine = in_line(A)
    machine.set_sources([])
    assert asks(machine, now=0.0) == [Ask(A, piece(0), 0)]
    assert machine.lost(piece(0), now=1.0) == ""
