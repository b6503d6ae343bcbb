"""The parts of the state machine that stand alone."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.alarms import Alarms
from ollama_dist.gossip.protocol.cold import ColdState
from ollama_dist.gossip.protocol.config import LAN, TEST, WAN
from ollama_dist.gossip.protocol.health import LocalHealth
from ollama_dist.gossip.protocol.messages import Claim, ColdDelta, ColdEntry, Rank, Standing
from ollama_dist.gossip.protocol.rumours import Rumours
from ollama_dist.gossip.protocol.suspicion import ASK_FROM, ASK_UNTIL, Suspicion
from ollama_dist.sim.network import virtual_id
from tests.support.bench import accused, signed

A, B, C, D = (virtual_id(name) for name in "abcd")

standings = st.builds(Standing, st.integers(0, 3), st.integers(0, 3), st.sampled_from(Rank))


# Standing


@given(standings, standings)
def test_of_two_different_standings_one_is_greater(one: Standing, other: Standing) -> None:
    assert (one < other) + (other < one) + (one == other) == 1


@given(st.lists(standings, min_size=1), st.randoms())
def test_merging_is_a_maximum_whatever_the_order_and_repetition(found: list[Standing], rng: Random) -> None:
    shuffled = found + found
    rng.shuffle(shuffled)
    assert max(shuffled) == max(found)


def test_a_new_generation_beats_any_incarnation_and_that_any_rank() -> None:
    assert Standing(2, 0, Rank.ALIVE) > Standing(1, 9, Rank.LEFT)
    assert Standing(1, 1, Rank.ALIVE) > Standing(1, 0, Rank.DEAD)
    assert Standing(1, 0, Rank.LEFT) > Standing(1, 0, Rank.DEAD) > Standing(1, 0, Rank.SUSPECT)


@given(st.integers(0, 9), st.integers(0, 9), st.sampled_from([Rank.ALIVE, Rank.LEFT]))
def test_what_is_signed_says_which_claim_it_is(generation: int, incarnation: int, rank: Rank) -> None:
    claim = signed(A, rank, incarnation, generation)
    other = signed(A, Rank.ALIVE if rank is Rank.LEFT else Rank.LEFT, incarnation, generation)
    assert claim.signed_part() != other.signed_part()
    assert claim.signed_part() != signed(A, rank, incarnation + 1, generation).signed_part()
    assert claim.signed_part() != signed(B, rank, incarnation, generation).signed_part()


# Suspicion


def judge(*answers: float) -> LocalHealth:
    """One whose answers took so long, in seconds."""
    health = LocalHealth(8, patience=0.25, longest=18.0)
    for took in answers:
        health.answered(took)
    return health


def suspicion(
    confirmations: int, accusers: int, *, mult: int = 6, health: LocalHealth | None = None
) -> Suspicion:
    found = Suspicion(100.0, 2.0, mult, confirmations, Random(1), health or judge())
    for number in range(accusers):
        assert found.confirm(NodeId(f"{number:016x}"))
    return found


def test_a_suspicion_runs_longest_with_one_accuser_and_shortest_with_all_that_are_wanted() -> None:
    deadlines = [suspicion(2, accusers).deadline for accusers in (1, 2, 3, 4)]
    assert deadlines[0] == 112.0
    assert deadlines[1] == pytest.approx(112 - 10 * math.log(2) / math.log(3))
    assert deadlines[2] == deadlines[3] == 102.0


def test_where_nobody_else_could_confirm_it_is_short_from_the_start() -> None:
    assert suspicion(0, 1).deadline == 102.0


def test_the_same_accuser_counts_once() -> None:
    found = suspicion(2, 1)
    assert not found.confirm(NodeId(f"{0:016x}"))
    assert found.deadline == 112.0


@given(st.integers(0, 1000))
def test_the_accused_is_asked_in_the_second_half_of_the_shortest_time(seed: int) -> None:
    ask_at = Suspicion(100.0, 2.0, 6, 2, Random(seed), judge()).next_question(100.0, 0.1, 0.0)
    assert 100 + 2 * ASK_FROM <= ask_at <= 100 + 2 * ASK_UNTIL


def questions(found: Suspicion, *, until: float, not_before: float = 0.0) -> list[tuple[float, float]]:
    """When the accused, who is silent, is asked, and how long it has to answer."""
    asked, now = [], 100.0
    while now < until:
        now = found.next_question(now, 0.25, not_before)
        found.asks(now)
        asked.append((round(now, 9), found.patience))
        now += found.patience
    return asked


def test_the_last_questions_are_due_when_the_time_is_up() -> None:
    *_, long, short = questions(suspicion(2, 3), until=102.0)
    assert long == pytest.approx((102 - 0.1 - 0.25, 0.25))
    assert short == pytest.approx((102 - 0.1, 0.1))


def test_after_a_stop_of_the_judge_the_last_questions_come_later() -> None:
    *_, short = questions(suspicion(2, 3), until=103.0, not_before=103.0)
    assert short == pytest.approx((103 - 0.1, 0.1))


def test_who_refuses_the_last_question_is_asked_once_more_when_the_time_is_up() -> None:
    found = suspicion(2, 3)
    for refused_at in (101.65, 101.9):
        found.asks(refused_at)
    assert found.next_question(101.9, 0.25, 0.0) == 102.0


def test_whose_end_is_hastened_is_asked_at_once_and_shortly() -> None:
    found = suspicion(2, 1)
    found.hasten(101.0)
    assert found.is_over(101.0)
    assert (found.next_question(101.0, 0.25, 0.0), found.patience) == pytest.approx((101.0, 0.1))


def test_a_question_from_before_others_came_back_proves_nothing_twice() -> None:
    found = suspicion(2, 3)
    assert [found.proves(101.0, 101.1) for _ in range(3)] == [False, False, True]
    assert suspicion(2, 3).proves(101.2, 101.1)


def test_the_accused_has_longer_where_answers_take_long_and_only_as_long_as_they_do() -> None:
    health = judge(*[1.5] * 50)
    assert health.answers_within == pytest.approx(1.5, rel=0.01)
    found = suspicion(2, 3, health=health)
    assert found.deadline == pytest.approx(106, abs=0.1), "six quarters of a second, three of them usual"
    for _ in range(50):
        health.answered(0.01)
    assert found.deadline == 102.0


def test_answers_that_take_a_little_longer_delay_no_verdict() -> None:
    assert suspicion(2, 3, health=judge(*[0.9] * 50)).deadline == 102.0


def test_the_last_question_has_the_time_that_answers_take() -> None:
    found = suspicion(2, 3, health=judge(*[0.45] * 50))
    *_, (_, long), (_, short) = questions(found, until=102.0)
    assert long == 0.25
    assert short == pytest.approx(0.45, rel=0.01)


def test_time_in_which_the_judge_did_not_run_does_not_count() -> None:
    found = suspicion(2, 3)
    asked = found.next_question(100.0, 0.1, 0.0)
    found.extend(5.0)
    assert (found.deadline, found.next_question(100.0, 0.1, 0.0)) == (107.0, asked + 5.0)


# Rumours


def test_each_piece_of_news_is_told_so_often_and_the_least_told_first() -> None:
    rumours = Rumours(D)
    rumours.add(accused(A, Rank.SUSPECT, D))
    assert len(rumours.take(1400, 3)) == 1
    rumours.add(accused(B, Rank.SUSPECT, D))
    assert [claim.subject for claim in rumours.take(40, 3)] == [B]
    assert [claim.subject for claim in rumours.take(1400, 3)] == [A, B]
    assert {claim.subject for claim in rumours.take(1400, 3)} == {A, B}
    assert rumours.take(1400, 3) == ()
    assert len(rumours) == 0


@given(
    st.lists(st.tuples(st.sampled_from([A, B, C]), st.sampled_from(Rank), st.integers(0, 3)), max_size=30),
    st.integers(0, 600),
)
def test_a_message_is_never_overfilled(news: list[tuple[NodeId, Rank, int]], budget: int) -> None:
    rumours = Rumours(D)
    for subject, rank, incarnation in news:
        own_word = rank in (Rank.ALIVE, Rank.LEFT)
        rumours.add(
            signed(subject, rank, incarnation) if own_word else accused(subject, rank, D, incarnation)
        )
    assert sum(claim.size for claim in rumours.take(budget, 3)) <= budget


def test_news_of_a_later_life_replaces_what_was_said_of_an_earlier_one() -> None:
    rumours = Rumours(D)
    rumours.add(accused(A, Rank.SUSPECT, B))
    rumours.add(accused(A, Rank.SUSPECT, C))
    rumours.add(signed(A, incarnation=1))
    assert [claim.rank for claim in rumours.take(1400, 3)] == [Rank.ALIVE]


def test_accusations_by_different_members_are_told_side_by_side_until_a_death() -> None:
    rumours = Rumours(D)
    rumours.add(accused(A, Rank.SUSPECT, B))
    rumours.add(accused(A, Rank.SUSPECT, C))
    assert len(rumours) == 2
    rumours.add(accused(A, Rank.DEAD, D))
    assert [claim.rank for claim in rumours.take(1400, 3)] == [Rank.DEAD]


def test_the_own_word_goes_first() -> None:
    rumours = Rumours(D)
    rumours.add(accused(A, Rank.SUSPECT, B))
    own = signed(D, incarnation=1)
    rumours.add(own)
    assert rumours.take(own.size, 3) == (own,)


# Slow state

writes = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), st.binary(max_size=5))), max_size=40
)


def write(state: ColdState, changes: list[tuple[str, bytes | None]]) -> None:
    for key, value in changes:
        if value is None:
            state.delete(key, 3)
        else:
            state.set(key, value)


@given(writes, writes, st.integers(40, 400))
def test_a_reader_that_asks_again_and_again_has_everything_in_the_end(
    before: list[tuple[str, bytes | None]], after: list[tuple[str, bytes | None]], budget: int
) -> None:
    owner, reader = ColdState(), ColdState()
    write(owner, before)
    for _ in range(100):
        delta = owner.delta_for(reader.version, reader.gc, budget)
        if delta is None:
            break
        assert reader.apply(delta)
        if len(after):
            write(owner, after[:1])
            after = after[1:]
    write(owner, after)
    while (delta := owner.delta_for(reader.version, reader.gc, budget)) is not None:
        assert reader.apply(delta)
    assert dict(reader.view()) == dict(owner.view())
    assert (reader.version, reader.gc) == (owner.version, owner.gc)


@given(writes, writes, writes)
def test_deltas_that_come_late_twice_or_out_of_order_do_no_harm(
    first: list[tuple[str, bytes | None]],
    second: list[tuple[str, bytes | None]],
    third: list[tuple[str, bytes | None]],
) -> None:
    owner, reader = ColdState(), ColdState()
    deltas: list[ColdDelta] = []
    for changes in (first, second, third):
        at = owner.version, owner.gc
        write(owner, changes)
        if (delta := owner.delta_for(*at, 10_000)) is not None:
            deltas.append(delta)
    for delta in [*reversed(deltas), *deltas, *deltas]:
        before = reader.gc, reader.version
        reader.apply(delta)
        assert (reader.gc, reader.version) >= before
    while (missing := owner.delta_for(reader.version, reader.gc, 10_000)) is not None:
        assert reader.apply(missing)
    assert dict(reader.view()) == dict(owner.view())


def test_a_gap_is_not_taken() -> None:
    reader = ColdState()
    assert not reader.apply(ColdDelta(3, 5, 0, (ColdEntry("a", 5, b"x"),)))
    assert reader.version == 0


def test_writing_the_same_again_is_no_news() -> None:
    state = ColdState()
    assert state.set("a", b"x")
    view = state.view()
    assert not state.set("a", b"x")
    assert not state.delete("b", 3)
    assert (state.version, state.view() is view) == (1, True)


# Health


def test_health_stays_between_well_and_its_bound() -> None:
    health = LocalHealth(3, patience=0.25, longest=8.0)
    health.better()
    assert health.factor == 1
    health.worse(9)
    assert health.factor == 4
    health.better()
    assert health.factor == 3


def test_alarms_that_are_late_now_and_then_are_no_illness_but_those_that_always_are() -> None:
    health = LocalHealth(8, patience=0.25, longest=18.0)
    for _ in range(50):
        health.rang(0.02)
    assert health.factor == health.slowness == 1
    health.rang(30.0)
    assert health.slowness <= 5, "one stop is for the stall guard"
    for _ in range(9):
        health.rang(0.001)
    assert health.slowness == 1
    for _ in range(50):
        health.rang(0.11)
    assert health.slowness == 3
    assert health.factor == 3
    for _ in range(50):
        health.rang(30.0)
    assert health.slowness == 9


def test_answers_may_take_as_long_as_they_did_lately_and_four_deviations() -> None:
    health = LocalHealth(8, patience=0.25, longest=18.0)
    for _ in range(200):
        health.answered(0.004)
    assert health.answers_within == pytest.approx(0.004)
    assert health.slowness == 1
    for _ in range(200):
        health.answered(0.6)
    assert health.answers_within == pytest.approx(0.6, rel=0.01)
    assert health.slowness == 3
    health.worse(4)
    assert (health.slowness, health.factor) == (3, 5), "the greater one"
    for _ in range(9):
        health.answered(60.0)
    assert health.slowness == 9


def test_one_answer_that_a_cut_held_up_is_no_illness_for_long() -> None:
    health = LocalHealth(8, patience=0.25, longest=18.0)
    for _ in range(20):
        health.answered(0.004)
    health.answered(30.0)
    assert health.slowness == 3
    for _ in range(8):
        health.answered(0.004)
    assert health.slowness == 1


def test_with_the_rule_switched_off_lateness_is_nothing() -> None:
    health = LocalHealth(8, patience=0.25, longest=18.0, paces=False)
    for _ in range(50):
        health.rang(1.0)
        health.answered(1.0)
    assert health.factor == health.slowness == 1


# Alarms


def test_an_alarm_rings_once_at_the_last_time_it_was_set_to() -> None:
    alarms = Alarms()
    alarms.set("a", 5.0)
    alarms.set("b", 3.0)
    alarms.set("a", 2.0)
    assert alarms.next() == 2.0
    assert alarms.pop_due(1.9) is None
    assert [alarms.pop_due(9.0) for _ in range(3)] == ["a", "b", None]
    alarms.set("c", 1.0)
    alarms.cancel("c")
    assert alarms.next() is None


# Figures


def test_the_period_grows_with_the_cluster_up_to_a_second() -> None:
    assert [LAN.period(members) for members in (1, 64, 100, 160, 1000)] == [0.4, 0.4, 0.625, 1.0, 1.0]
    assert LAN.retransmits(1) == 4
    assert LAN.retransmits(9) == 4
    assert LAN.retransmits(10) == 8


def test_the_profiles_differ_in_their_times_only() -> None:
    assert WAN.period(3) > LAN.period(3)
    assert TEST.period(3) == pytest.approx(LAN.period(3) / 10)
    assert WAN.helpers == LAN.helpers == TEST.helpers
    assert WAN.members_max == LAN.members_max


def test_a_claim_takes_less_space_than_it_says() -> None:
    claim: Claim = signed(A)
    assert claim.size >= len(claim.signed_part()) // 2
    assert accused(A, Rank.DEAD, B).size < claim.size
