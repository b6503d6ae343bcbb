"""The rules by which this detector differs from the papers, and the order of what is said of a member."""

import pytest

from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import MemberState
from ollama_dist.gossip.protocol.config import LAN
from ollama_dist.gossip.protocol.effects import EventKind, Failure, Respond
from ollama_dist.gossip.protocol.messages import (
    GENERATION_LIMIT,
    Claim,
    Contact,
    Envelope,
    Hot,
    Kind,
    MemberDelta,
    Rank,
    Standing,
)
from ollama_dist.sim.network import VirtualNetwork, sign_as, virtual_id
from tests.support.bench import ME, Bench, accused, signed

ALIVE, SUSPECT, DEAD, LEFT = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT
STRANGER = virtual_id("stranger")


def suspected(bench: Bench, *accusers: int) -> NodeId:
    """The first of the others, suspected by some of the rest."""
    victim = bench.others[0]
    for accuser in accusers or (1,):
        by = bench.others[accuser]
        bench.say(by, accused(victim, Rank.SUSPECT, by))
    assert bench.state(victim) is SUSPECT
    return victim


# Who says what of whom


def test_only_what_a_member_signed_makes_it_known() -> None:
    bench = Bench()
    bench.say(bench.others[0], accused(STRANGER, Rank.SUSPECT, bench.others[0]))
    assert bench.core.member(STRANGER) is None
    forged = signed(STRANGER)
    bench.say(bench.others[0], Claim(STRANGER, forged.standing, forged.contact, b"forged"))
    assert bench.core.member(STRANGER) is None
    assert bench.counts["bad_signature"] == 1
    bench.say(bench.others[0], forged)
    assert bench.state(STRANGER) is ALIVE


def test_nobody_speaks_for_another() -> None:
    bench = Bench()
    bench.say(bench.others[0], claim=signed(bench.others[1], incarnation=9))
    assert bench.counts["claim_of_another"] == 1
    view = bench.core.member(bench.others[1])
    assert view is not None
    assert view.incarnation == 0


def test_an_accusation_with_a_number_its_subject_never_signed_changes_nothing_but_is_looked_into() -> None:
    bench = Bench()
    victim, accuser = bench.others[:2]
    bench.say(accuser, accused(victim, Rank.DEAD, accuser, incarnation=5))
    assert bench.state(victim) is ALIVE
    assert bench.counts["accused_unknown"] == 1
    bench.advance(LAN.sync_interval + 0.01)
    assert bench.calls(Kind.SYNC, accuser)


def test_an_absurd_generation_is_dropped() -> None:
    bench = Bench()
    bench.say(bench.others[0], signed(STRANGER, generation=GENERATION_LIMIT))
    assert bench.core.member(STRANGER) is None
    assert bench.counts["absurd_generation"] == 1


def test_who_left_comes_back_only_in_a_new_generation() -> None:
    bench = Bench()
    leaver = bench.others[0]
    bench.say(leaver, claim=signed(leaver, Rank.LEFT), kind=Kind.LEAVE)
    assert bench.state(leaver) is LEFT
    bench.say(bench.others[1], signed(leaver, incarnation=3))
    bench.say(bench.others[1], accused(leaver, Rank.SUSPECT, bench.others[1]))
    assert bench.state(leaver) is LEFT
    bench.say(leaver, claim=signed(leaver, generation=2))
    assert bench.state(leaver) is ALIVE


def test_an_accused_member_refutes_with_a_higher_incarnation_at_once() -> None:
    bench = Bench()
    answer = bench.say(bench.others[0], accused(ME, Rank.SUSPECT, bench.others[0]))
    assert answer.claim is not None
    assert (answer.claim.rank, answer.claim.standing.incarnation) == (Rank.ALIVE, 1)
    assert bench.state(ME) is ALIVE


def test_a_member_that_lost_its_disk_outlives_its_own_past() -> None:
    bench = Bench()
    from_before = signed(ME, generation=41)
    answer = bench.say(bench.others[0], from_before)
    assert answer.claim is not None
    assert answer.claim.standing.generation > 41


def test_a_member_with_an_older_disk_outlives_a_past_of_the_same_generation() -> None:
    bench = Bench()
    from_before = signed(ME, generation=1)  # under another nonce than this life's
    answer = bench.say(bench.others[0], from_before)
    assert answer.claim is not None
    assert answer.claim.standing.generation > 1


def test_who_claims_a_life_that_another_start_had_is_shown_that_one() -> None:
    bench = Bench()
    other = bench.others[0]
    contact = Contact((f"{other}:1",), other.encode(), nonce=2)
    bare = Claim(other, Standing(1, 0, Rank.ALIVE), contact)
    again = Claim(other, bare.standing, contact, sign_as(other)(bare.signed_part()))
    answer = bench.say(other, claim=again)
    assert signed(other) in answer.rumours


def test_who_has_not_announced_itself_tells_nobody_of_itself() -> None:
    """It may be a copy: the one that runs must not hear of a later life of its own."""
    network = VirtualNetwork()
    newcomer = network.prepare("newcomer", seeds=["nowhere"])
    network.begin(newcomer, generation=5)
    accusation = accused(newcomer.id, Rank.DEAD, STRANGER, generation=4)
    question = Envelope(Kind.SYNC, signed(STRANGER), rumours=(accusation,))
    effects = newcomer.core.message(0.0, 1, STRANGER, question)
    [answer] = [effect.envelope for effect in effects if isinstance(effect, Respond)]
    assert answer.claim is None
    assert all(delta.subject != newcomer.id for delta in answer.deltas)
    assert all(claim.subject != newcomer.id for claim in answer.rumours)


def test_what_others_say_in_our_own_name_is_no_failure_of_ours() -> None:
    bench = Bench(others=6)
    bench.quiet()
    victim, liar = bench.others[:2]
    bench.say(liar, accused(victim, Rank.DEAD, liar), accused(victim, Rank.SUSPECT, ME))
    bench.say(liar, accused(victim, Rank.DEAD, ME))
    assert bench.state(victim) is not DEAD


def test_a_load_that_comes_late_from_an_earlier_life_is_not_the_load_of_this_one() -> None:
    bench = Bench()
    other = bench.others[0]
    bench.say(other, claim=signed(other, generation=2))
    bench.say(other, claim=signed(other, generation=1), hot=Hot(57, b"old"))
    bench.say(other, claim=signed(other, generation=2), hot=Hot(1, b"new"))
    view = bench.core.member(other)
    assert view is not None
    assert view.hot == b"new"


def test_where_others_are_is_kept_at_once_and_then_once_a_period() -> None:
    bench = Bench()
    bench.quiet()
    kept = len(bench.persisted)
    for number in range(5):
        bench.say(bench.others[0], signed(virtual_id(f"newcomer {number}")))
    assert len(bench.persisted) == kept + 1
    bench.advance(3 * LAN.period_low, answering=True)
    assert f"{virtual_id('newcomer 4')}:1" in bench.persisted[-1].peers
    assert len(bench.persisted) <= kept + 3


# 1. Every answer carries the word of who answers


def test_the_own_word_of_who_answers_ends_a_suspicion() -> None:
    bench = Bench()
    victim = suspected(bench)
    bench.do(bench.core.hint(bench.now, victim))
    [ping] = bench.calls(Kind.PING, victim)
    bench.answer(ping, signed(victim, incarnation=1))
    assert bench.state(victim) is ALIVE
    assert bench.told(EventKind.ALIVE_AGAIN, victim)


@pytest.mark.parametrize("kind", [Kind.PING, Kind.GOSSIP, Kind.SYNC])
def test_every_answer_of_ours_carries_our_own_word(kind: Kind) -> None:
    bench = Bench()
    answer = bench.say(bench.others[0], kind=kind)
    assert answer.claim is not None
    assert answer.claim.subject == ME


def test_who_knows_what_we_know_is_not_told_our_proof_again() -> None:
    bench = Bench()
    other = bench.others[0]
    whole = bench.say(other).claim
    assert whole is not None
    assert whole.contact is not None
    bench.say(other, fingerprint=bench.core.inside.members.fingerprint)
    short = bench.say(other).claim
    assert short is not None
    assert short == Claim(ME, whole.standing)


def test_a_word_without_proof_is_taken_of_whom_we_know_by_just_that() -> None:
    bench = Bench()
    bench.quiet()
    other = bench.others[0]
    bench.say(other, claim=Claim(other, Standing(1, 7, Rank.ALIVE)))
    assert bench.counts["claim_without_proof"] == 1
    assert bench.core.inside.members.get(other).standing.incarnation == 0  # type: ignore[union-attr]
    assert bench.core.inside.alarms.is_set("sync")


# 2. Who is suspected is told


def test_a_ping_to_a_suspect_tells_it_what_it_is_accused_of() -> None:
    bench = Bench()
    victim = suspected(bench)
    bench.do(bench.core.hint(bench.now, victim))
    [ping] = bench.calls(Kind.PING, victim)
    assert any(claim.subject == victim and claim.rank is Rank.SUSPECT for claim in ping.envelope.rumours)


# 3. Nobody is declared dead before we asked ourselves


def test_the_accused_is_asked_once_more_before_its_time_is_up() -> None:
    bench = Bench()
    bench.quiet()
    victim = suspected(bench, 1, 2, 3)
    shortest = LAN.suspicion_min(5)
    bench.advance(0.45 * shortest, answering=False)
    for call in bench.calls(Kind.PING, victim):
        bench.answer(call)
    assert not bench.told(EventKind.DEAD, victim)
    bench.advance(0.55 * shortest)
    assert bench.counts.get("call_busy", 0) or bench.calls(Kind.PING, victim) or bench.state(victim) is DEAD


def test_who_left_while_it_was_asked_has_left_whatever_becomes_of_the_question() -> None:
    bench = Bench()
    bench.quiet()
    victim = suspected(bench)
    while not (asked := bench.calls(Kind.PING, victim)):
        bench.advance(0.01)
    bench.say(bench.others[1], signed(victim, Rank.LEFT))
    for call in asked:
        bench.fail(call)
    assert bench.state(victim) is LEFT
    assert not bench.told(EventKind.DEAD, victim)


def test_accusations_of_others_alone_kill_nobody_as_long_as_it_answers_us() -> None:
    bench = Bench(others=6)
    bench.quiet()
    victim = suspected(bench, 1, 2, 3, 4, 5)
    for _ in range(40):
        bench.advance(0.5, answering=True)
    assert not bench.told(EventKind.DEAD, victim)


# 4. A death told by others is a reason to look


def test_a_death_by_hearsay_starts_a_probe_and_is_not_believed() -> None:
    bench = Bench()
    bench.quiet()
    victim, accuser = bench.others[:2]
    bench.say(accuser, accused(victim, Rank.DEAD, accuser))
    assert bench.state(victim) is SUSPECT
    assert bench.calls(Kind.PING, victim)


def test_a_death_by_hearsay_is_believed_once_our_own_probe_fails_too_and_one_question_more() -> None:
    bench = Bench()
    bench.quiet()
    victim, accuser = bench.others[:2]
    bench.say(accuser, accused(victim, Rank.DEAD, accuser))
    [ping] = bench.calls(Kind.PING, victim)
    bench.fail(ping, Failure.REFUSED)
    for helper in bench.others[1:]:
        for call in bench.calls(Kind.PING_REQ, helper):
            bench.nack(call)
    assert bench.state(victim) is SUSPECT
    bench.advance(0.01)
    [question] = bench.calls(Kind.PING, victim)
    bench.fail(question, Failure.REFUSED)
    assert bench.state(victim) is DEAD


def test_a_death_by_hearsay_of_somebody_who_has_just_spoken_to_us_is_nonsense() -> None:
    bench = Bench()
    victim, accuser = bench.others[:2]
    bench.say(victim)
    bench.say(accuser, accused(victim, Rank.DEAD, accuser))
    assert bench.state(victim) is ALIVE
    assert bench.counts["hearsay_contradicted"] == 1


def test_hearsay_costs_a_bounded_number_of_probes() -> None:
    bench = Bench(others=20)
    bench.quiet(20)
    bench.open.clear()
    teller = bench.others[0]
    bench.say(teller, *(accused(other, Rank.DEAD, teller) for other in bench.others[1:]))
    probes = sum(bool(bench.calls(Kind.PING, other)) for other in bench.others)
    assert 1 <= probes <= LAN.hearsay_probes_per_s
    assert bench.counts["hearsay_probe_dropped"] >= 19 - LAN.hearsay_probes_per_s


# 5. A synchronisation kills nobody


def test_a_death_learned_in_a_synchronisation_is_a_suspicion_and_no_condemnation() -> None:
    bench = Bench()
    bench.quiet()
    victim, teller = bench.others[:2]
    claims = (accused(victim, Rank.DEAD, teller),)
    bench.say(teller, deltas=(MemberDelta(victim, 1, claims),))
    assert bench.state(victim) is SUSPECT
    bench.do(bench.core.hint(bench.now, victim))
    [ping] = bench.calls(Kind.PING, victim)
    bench.fail(ping, Failure.REFUSED)
    assert bench.state(victim) is SUSPECT


# 6. Old news is answered with newer


def test_who_tells_old_news_gets_newer_in_the_answer() -> None:
    bench = Bench()
    victim, teller = bench.others[:2]
    bench.say(victim, claim=signed(victim, incarnation=2))
    answer = bench.say(teller, accused(victim, Rank.SUSPECT, teller, incarnation=1))
    assert Standing(1, 2, Rank.ALIVE) in [claim.standing for claim in answer.rumours]
    assert bench.state(victim) is ALIVE


# 7. What the transport saw


def test_a_lost_connection_is_looked_into_at_once() -> None:
    bench = Bench()
    bench.quiet()
    bench.open.clear()
    victim = bench.others[0]
    bench.do(bench.core.hint(bench.now, victim))
    assert bench.calls(Kind.PING, victim)
    bench.do(bench.core.hint(bench.now, victim))
    assert len(bench.calls(Kind.PING, victim)) == 1


def test_after_a_refusal_helpers_are_asked_at_once_and_it_is_no_sign_of_our_own_weakness() -> None:
    bench = Bench()
    bench.quiet()
    victim = bench.others[0]
    bench.do(bench.core.hint(bench.now, victim))
    [ping] = bench.calls(Kind.PING, victim)
    bench.fail(ping, Failure.REFUSED)
    helpers = [call for other in bench.others[1:] for call in bench.calls(Kind.PING_REQ, other)]
    assert len(helpers) == LAN.helpers
    assert all(call.envelope.target == victim for call in helpers)
    for call in helpers:
        bench.fail(call)
    assert bench.state(victim) is SUSPECT
    assert bench.core._context.health.score == 0


def test_helpers_that_stay_silent_make_us_doubt_ourselves() -> None:
    bench = Bench()
    bench.quiet()
    victim = bench.others[0]
    bench.do(bench.core.hint(bench.now, victim))
    bench.advance(LAN.period(5) + 0.01)
    assert bench.state(victim) is SUSPECT
    assert bench.core._context.health.score > 0


def test_a_member_only_helpers_can_reach_lives_and_is_not_used() -> None:
    bench = Bench()
    bench.quiet()
    victim = bench.others[0]
    bench.do(bench.core.hint(bench.now, victim))
    [ping] = bench.calls(Kind.PING, victim)
    bench.fail(ping, Failure.UNREACHABLE)
    helper = next(call for other in bench.others[1:] for call in bench.calls(Kind.PING_REQ, other))
    bench.answer(helper)
    view = bench.core.member(victim)
    assert view is not None
    assert (view.state, view.reachable) == (ALIVE, False)


# 8. Who stood still judges nobody by it


def test_nobody_dies_of_our_own_standing_still() -> None:
    bench = Bench()
    bench.quiet()
    victim = suspected(bench, 1, 2, 3)
    bench.now += 30
    bench.do(bench.core.stall(bench.now, 30.0))
    bench.advance(0.5)
    assert bench.state(victim) is SUSPECT
    assert bench.core._context.health.score > 0
    assert any(call.kind is Kind.SYNC for call in bench.open.values())


# What always holds


def test_a_message_gets_one_answer_and_an_answer_causes_none() -> None:
    bench = Bench()
    bench.quiet()
    bench.do(bench.core.hint(bench.now, bench.others[0]))
    [ping] = bench.calls(Kind.PING, bench.others[0])
    before = len(bench.responses)
    bench.answer(ping, signed(bench.others[0], incarnation=4))
    assert len(bench.responses) == before


def test_a_token_ends_once() -> None:
    bench = Bench()
    bench.quiet()
    victim = bench.others[0]
    bench.do(bench.core.hint(bench.now, victim))
    [ping] = bench.calls(Kind.PING, victim)
    bench.answer(ping)
    assert not any(
        hasattr(effect, "token") for effect in bench.core.call_failed(bench.now, ping.token, Failure.REFUSED)
    )
    assert bench.state(victim) is ALIVE
