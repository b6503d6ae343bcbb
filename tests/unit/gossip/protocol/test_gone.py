"""Members that are gone: shut out, forgotten, remembered over a restart, and back again."""

from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import MemberState
from ollama_dist.gossip.protocol.effects import EventKind, Gone, MemberView, Persist
from ollama_dist.gossip.protocol.messages import ColdDelta, ColdEntry, Hot, Kind, MemberDelta, Rank
from ollama_dist.gossip.protocol.own import FORGOTTEN_KEY
from tests.support.bench import ME, Bench, accused, signed

ALIVE, DEAD, LEFT = MemberState.ALIVE, MemberState.DEAD, MemberState.LEFT


def expelled(bench: Bench) -> NodeId:
    member = bench.others[0]
    bench.do(bench.core.expel(bench.now, member, "revoked by desk"))
    return member


def listed(bench: Bench) -> set[NodeId]:
    return {view.id for view in bench.core.members()}


def view_of(bench: Bench, member: NodeId) -> MemberView:
    view = bench.core.member(member)
    assert view is not None
    return view


# Shut out


def test_who_is_shut_out_is_gone_at_once_whoever_speaks_for_it() -> None:
    bench = Bench()
    member = expelled(bench)
    assert bench.state(member) is DEAD
    assert bench.told(EventKind.DEAD, member)
    bench.say(bench.others[1], signed(member, incarnation=5))
    assert bench.state(member) is DEAD
    assert bench.counts["barred"] == 1


def test_who_is_let_in_again_lives_by_a_new_incarnation() -> None:
    bench = Bench()
    member = expelled(bench)
    answer = bench.say(member)
    assert accused(member, Rank.DEAD, ME) in answer.rumours
    bench.say(member, claim=signed(member, incarnation=1))
    assert bench.state(member) is ALIVE


def test_nobody_is_told_to_bury_who_was_shut_out_here() -> None:
    bench = Bench()
    member = expelled(bench)
    bench.advance(1.0)
    assert not [
        claim
        for call in bench.open.values()
        for claim in call.envelope.rumours
        if (claim.subject, claim.standing.rank) == (member, Rank.DEAD)
    ]


# Forgotten


def forgotten(bench: Bench) -> NodeId:
    member = expelled(bench)
    bench.do(bench.core.forget(bench.now, member))
    return member


def test_who_is_forgotten_is_listed_no_more_and_old_news_does_not_bring_it_back() -> None:
    bench = Bench()
    member = forgotten(bench)
    assert member not in listed(bench)
    assert bench.core.member(member) is None
    bench.say(bench.others[1], signed(member))
    bench.say(bench.others[1], deltas=(MemberDelta(member, 1, (signed(member),)),))
    assert member not in listed(bench)


def test_who_lives_is_not_forgotten() -> None:
    bench = Bench()
    member = bench.others[0]
    bench.do(bench.core.forget(bench.now, member))
    assert member in listed(bench)


def test_who_was_forgotten_is_listed_again_once_it_lives_anew() -> None:
    bench = Bench()
    member = forgotten(bench)
    bench.say(member, claim=signed(member, generation=2))
    assert member in listed(bench)
    assert bench.told(EventKind.JOINED, member)
    bench.advance(1.0)
    assert FORGOTTEN_KEY not in _own_state(bench)


def _own_state(bench: Bench) -> dict[str, bytes]:
    view = bench.core.member(ME)
    assert view is not None
    return dict(view.cold)


def _told_by(bench: Bench, teller: NodeId, value: bytes) -> None:
    delta = ColdDelta(0, 1, 0, (ColdEntry(FORGOTTEN_KEY, 1, value),))
    bench.say(teller, deltas=(MemberDelta(teller, 1, cold=delta),))
    bench.advance(1.0)


def test_what_one_member_was_told_to_forget_all_who_hold_it_dead_forget() -> None:
    told = Bench()
    member = forgotten(told)
    value = _own_state(told)[FORGOTTEN_KEY]
    bench = Bench()
    assert expelled(bench) == member
    _told_by(bench, bench.others[1], value)
    assert member not in listed(bench)


def test_nobody_makes_one_forget_who_lives_or_lived_later() -> None:
    value = _own_state_of_forgetting()
    bench = Bench()
    _told_by(bench, bench.others[1], value)
    assert bench.others[0] in listed(bench)
    later = Bench()
    member = later.others[0]
    later.say(member, claim=signed(member, incarnation=1))
    expelled(later)
    _told_by(later, later.others[1], value)
    assert member in listed(later)


def test_nonsense_makes_nobody_forget_anything() -> None:
    bench = Bench()
    member = expelled(bench)
    _told_by(bench, bench.others[1], b"\xff" * 100)
    assert member in listed(bench)


def _own_state_of_forgetting() -> bytes:
    told = Bench()
    forgotten(told)
    return _own_state(told)[FORGOTTEN_KEY]


# Remembered


def kept(bench: Bench) -> tuple[Gone, ...]:
    effects = bench.core.expel(bench.now, bench.others[0], "revoked by desk")
    return next(effect.gone for effect in reversed(effects) if isinstance(effect, Persist))


def test_who_was_gone_is_known_to_be_after_a_restart() -> None:
    bench = Bench()
    (gone,) = kept(bench)
    again = Bench(0)
    again.do(again.core.remember(again.now, gone))
    assert again.state(bench.others[0]) is DEAD
    view = again.core.member(bench.others[0])
    assert view is not None
    assert (view.reason, view.since) == ("revoked by desk", gone.since)
    again.say(bench.others[0], claim=signed(bench.others[0], generation=2))
    assert again.state(bench.others[0]) is ALIVE


def test_what_was_not_signed_is_not_remembered() -> None:
    forged = signed(Bench().others[0])
    bench = Bench(0)
    gone = Gone(accused(forged.subject, Rank.DEAD, ME), False, 0.0, "")
    bench.do(bench.core.remember(bench.now, gone))
    assert bench.core.member(forged.subject) is None


def test_who_had_left_is_remembered_so() -> None:
    bench = Bench(1)
    leaver = bench.others[0]
    gone = Gone(signed(leaver, Rank.LEFT), True, bench.now - 5, "left")
    again = Bench(0)
    again.do(again.core.remember(again.now, gone))
    assert again.state(leaver) is LEFT


def test_who_left_in_a_life_we_never_saw_keeps_nothing_of_the_one_before() -> None:
    bench = Bench()
    leaver = bench.others[0]
    delta = ColdDelta(0, 3, 0, (ColdEntry("model", 3, b"llama3"),))
    bench.say(leaver, deltas=(MemberDelta(leaver, 1, hot=Hot(2, b"busy"), cold=delta),))
    assert view_of(bench, leaver).hot_version == 2
    bench.say(bench.others[1], signed(leaver, Rank.LEFT, generation=2))
    view = view_of(bench, leaver)
    assert (view.state, view.generation) == (LEFT, 2)
    assert (view.cold_version, view.cold, view.hot) == (0, {}, b"")


def test_who_leaves_is_known_by_what_it_said_last() -> None:
    bench = Bench()
    leaver = bench.others[0]
    delta = ColdDelta(0, 3, 0, (ColdEntry("model", 3, b"llama3"),))
    bench.say(leaver, deltas=(MemberDelta(leaver, 1, cold=delta),))
    bench.say(leaver, claim=signed(leaver, Rank.LEFT), kind=Kind.LEAVE)
    assert view_of(bench, leaver).cold == {"model": b"llama3"}
