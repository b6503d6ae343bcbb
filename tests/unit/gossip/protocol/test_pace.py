"""Who is slow, by alarms that ring late or answers that take long, does less: or all stay slow for good."""

from dataclasses import replace

import pytest

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.config import LAN, Rules
from ollama_dist.gossip.protocol.effects import Failure
from ollama_dist.gossip.protocol.messages import Kind, Rank
from ollama_dist.sim.network import virtual_id
from tests.support.bench import Bench, accused, signed


def news(bench: Bench, name: str = "newcomer") -> NodeId:
    """Somebody joined: that is to be told."""
    newcomer = virtual_id(name)
    bench.say(bench.others[0], signed(newcomer))
    return newcomer


def gossip_calls(bench: Bench) -> list[NodeId]:
    return [call.peer for call in bench.open.values() if call.kind is Kind.GOSSIP and call.peer is not None]


def take(bench: Bench, seconds: float, times: int = 1) -> None:
    """Pings are answered, each after so many seconds."""
    for _ in range(times):
        while not (pings := [call for call in bench.open.values() if call.kind is Kind.PING]):
            bench.advance(0.01)
        bench.now += seconds
        bench.answer(pings[0])


# News


def test_news_is_not_told_to_more_members_while_many_have_not_answered() -> None:
    bench = Bench(40)
    news(bench)
    bench.advance(1.6)
    assert len(gossip_calls(bench)) == LAN.gossip_open_max
    for call in [call for call in bench.open.values() if call.kind is Kind.GOSSIP]:
        bench.answer(call)
    bench.advance(1.0)
    assert gossip_calls(bench), "what was held back is told now"


def test_news_goes_to_those_that_answer_where_there_are_enough() -> None:
    bench = Bench(40)
    near = bench.others[: LAN.near_least]
    for other in near:
        bench.core.inside.members.get(other).answers = True  # type: ignore[union-attr]
    news(bench)
    bench.advance(1.0)
    assert set(gossip_calls(bench)) <= set(near)


def test_while_they_are_not_one_stranger_is_told_at_a_time() -> None:
    bench = Bench(40)
    near = bench.others[: LAN.near_least - 1]
    for other in near:
        bench.core.inside.members.get(other).answers = True  # type: ignore[union-attr]
    news(bench)
    bench.advance(LAN.gossip_interval / 4 + 0.001)
    told = gossip_calls(bench)
    assert len(told) == LAN.gossip_fanout
    assert len(set(told) - set(near)) == 1


def test_who_answered_may_be_late_once_but_not_refuse() -> None:
    bench = Bench(2)
    one = bench.others[0]
    bench.quiet()
    row = bench.core.inside.members.get(one)
    assert row is not None
    assert row.answers
    bench.do(bench.core.hint(bench.now, one))
    bench.fail(bench.calls(Kind.PING, one)[0])
    assert row.answers, "its connection may well be there"
    while not bench.calls(Kind.PING, one):
        bench.advance(0.01)
    bench.fail(bench.calls(Kind.PING, one)[0], Failure.UNREACHABLE)
    assert not row.answers


def test_who_waits_long_for_answers_tells_news_to_fewer_at_a_time() -> None:
    bench = Bench(40)
    bench.quiet()
    take(bench, 1.0, times=9)
    assert bench.core.slowness > LAN.gossip_open_max / 2
    bench.open.clear()
    news(bench)
    bench.advance(1.0)
    (told,) = [call for call in bench.open.values() if call.kind is Kind.GOSSIP]
    bench.answer(told)
    bench.advance(LAN.gossip_interval)
    assert len(gossip_calls(bench)) == 1, "the next one hears it as soon as this one has answered"


# Judging


def test_who_waits_long_for_answers_waits_longer_before_it_suspects() -> None:
    patient, hasty = Bench(4), Bench(4, config=replace(LAN, rules=Rules(pace=False)))
    for bench in (patient, hasty):
        bench.quiet()
        take(bench, 0.2, times=20)
        while not any(call.kind is Kind.PING for call in bench.open.values()):
            bench.advance(0.01)
    for bench, longer in ((hasty, 1), (patient, 2)):
        (ping,) = [call for call in bench.open.values() if call.kind is Kind.PING]
        assert ping.deadline - bench.now >= longer * LAN.probe_timeout_least - 0.02
    assert hasty.core.slowness == 1


def test_an_answer_that_waited_while_we_stood_still_does_not_count() -> None:
    bench = Bench(4)
    bench.quiet()
    bench.do(bench.core.hint(bench.now, bench.others[0]))
    (ping,) = bench.calls(Kind.PING, bench.others[0])
    bench.now += 20
    bench.do(bench.core.stall(bench.now, 20))
    before = bench.core.inside.health.answers_within
    bench.answer(ping)
    assert bench.core.inside.health.answers_within == before


def test_alarms_that_ring_late_again_and_again_make_a_member_ill() -> None:
    bench = Bench(4)
    assert bench.core.local_health == 0
    for _ in range(20):
        alarm = bench.core.inside.alarms.next()
        assert alarm is not None
        bench.now = alarm + 0.2
        bench.do(bench.core.tick(bench.now, bench.core.wake_number))
        for call in list(bench.open.values()):
            bench.answer(call)
    assert bench.core.local_health >= 3


@pytest.mark.parametrize(("took", "helpers"), [(0.01, LAN.helpers), (1.0, 1)])
def test_who_waits_long_for_answers_asks_fewer_to_help(took: float, helpers: int) -> None:
    bench = Bench(9)
    bench.quiet()
    take(bench, took, times=9)
    bench.open.clear()
    missed = bench.others[0]
    bench.do(bench.core.hint(bench.now, missed))
    bench.fail(bench.calls(Kind.PING, missed)[0], Failure.UNREACHABLE)
    asked = [call for call in bench.open.values() if call.kind is Kind.PING_REQ]
    assert len(asked) == helpers


@pytest.mark.parametrize(("illness", "most"), [(0, LAN.asks_open_max), (3, LAN.asks_open_max // 4)])
def test_of_many_suspects_only_some_are_asked_at_a_time(illness: int, most: int) -> None:
    bench = Bench(40)
    bench.core.inside.health.worse(illness)
    accuser = bench.others[0]
    suspects = bench.others[1:31]
    bench.say(accuser, *(accused(each, Rank.SUSPECT, accuser) for each in suspects))
    for each in suspects:
        bench.core.inside.alarms.set(("ask", each), bench.now)
    bench.do(bench.core.tick(bench.now, bench.core.wake_number))
    assert len([each for each in suspects if bench.calls(Kind.PING, each)]) == most
    for each in suspects:
        for call in bench.calls(Kind.PING, each):
            bench.answer(call)
    before = set(bench.open)
    bench.advance(bench.core.inside.patience + 0.01)
    assert any(token not in before and call.kind is Kind.PING for token, call in bench.open.items())
