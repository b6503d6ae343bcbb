"""Another start of this member: a past that is outlived, or a twin, and one of the two yields."""

import pytest

from ollama_dist.gossip.protocol.config import LAN
from ollama_dist.gossip.protocol.effects import Call, EventKind, Failure
from ollama_dist.gossip.protocol.messages import Claim, Contact, Envelope, Kind, Rank, Standing, Start
from ollama_dist.gossip.protocol.twins import OUTLIVED_MAX
from ollama_dist.sim.network import sign_as
from tests.support.bench import ME, Bench

NONCE = 7
"""Of the member on the bench."""


def said_elsewhere(generation: int, nonce: int = 9, rank: Rank = Rank.ALIVE) -> Claim:
    """What another start of ours says, that runs, or ran, on another machine."""
    contact = Contact(("elsewhere:1", "elsewhere:2"), ME.encode(), nonce)
    bare = Claim(ME, Standing(generation, 0, rank), contact)
    return Claim(ME, bare.standing, contact, sign_as(ME)(bare.signed_part()))


def asked(bench: Bench) -> list[Call]:
    """The open calls to where the other start says it is."""
    return [call for call in bench.open.values() if call.addresses[0].startswith("elsewhere")]


def answer(bench: Bench, call: Call, nonce: int, age: float, claim: Claim | None) -> None:
    del bench.open[call.token]
    envelope = Envelope(call.kind, claim, start=Start(nonce, age))
    bench.do(bench.core.reply(bench.now, call.token, ME, envelope))


def has_yielded(bench: Bench) -> bool:
    return bench.told(EventKind.CLONE, ME)


def test_a_past_that_nobody_answers_for_is_outlived() -> None:
    bench = Bench()
    bench.say(bench.others[0], said_elsewhere(5))
    assert bench.core.generation == 1
    first, second = asked(bench)
    bench.fail(first, Failure.REFUSED)
    assert bench.core.generation == 1
    bench.fail(second)
    assert bench.core.generation > 5
    assert not has_yielded(bench)


def test_while_one_is_asked_after_it_is_not_asked_after_again() -> None:
    bench = Bench()
    for other in bench.others:
        bench.say(other, said_elsewhere(5))
    assert len(asked(bench)) == 2


def test_a_start_that_said_goodbye_is_outlived_without_asking() -> None:
    bench = Bench()
    bench.say(bench.others[0], said_elsewhere(5, rank=Rank.LEFT))
    assert not asked(bench)
    assert bench.core.generation > 5


def test_an_older_twin_that_answers_is_yielded_to() -> None:
    bench = Bench()
    bench.say(bench.others[0], claim := said_elsewhere(5))
    answer(bench, asked(bench)[0], nonce=9, age=3600.0, claim=claim)
    assert has_yielded(bench)
    bench.fail(asked(bench)[0])
    assert bench.core.generation == 1


def test_a_younger_twin_that_answers_is_outlived() -> None:
    bench = Bench()
    bench.now += 3600
    bench.say(bench.others[0], claim := said_elsewhere(5))
    for call in asked(bench):
        assert call.envelope.start is not None
        assert call.envelope.start.age > 3600  # by which the twin knows
        answer(bench, call, nonce=9, age=10.0, claim=claim)
    assert not has_yielded(bench)
    assert bench.core.generation > 5


def test_that_we_ourselves_answer_at_another_address_means_nothing() -> None:
    bench = Bench()
    bench.say(bench.others[0], said_elsewhere(5))
    for call in asked(bench):
        answer(bench, call, nonce=NONCE, age=0.0, claim=said_elsewhere(1))
    assert not has_yielded(bench)
    assert bench.core.generation > 5


@pytest.mark.parametrize(
    ("age", "nonce", "is_announced", "yields"),
    [
        (3600.0, 1, True, True),
        (0.0, 9, True, False),
        (100.0, 9, True, True),  # of the same age, as far as can be told: the lower nonce yields
        (100.0, 1, True, False),
        (3600.0, 9, False, False),  # it has not announced itself, whatever its age
    ],
)
def test_a_twin_that_calls_is_yielded_to_if_it_was_there_first(
    age: float, nonce: int, *, is_announced: bool, yields: bool
) -> None:
    bench = Bench()
    bench.now += 100
    claim = said_elsewhere(5, nonce) if is_announced else None
    envelope = Envelope(Kind.PING, claim, start=Start(nonce, age))
    bench.do(bench.core.message(bench.now, 99, ME, envelope))
    assert has_yielded(bench) is yields
    reply = bench.responses[99]
    assert reply.start is not None
    assert (reply.start.nonce, round(reply.start.age)) == (NONCE, 100)


@pytest.mark.parametrize("apart", [0.0, 1.0, LAN.sync_timeout - 0.1, LAN.sync_timeout + 0.1, 60.0])
@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_of_two_twins_that_talk_exactly_one_yields(apart: float, delay: float) -> None:
    elder, younger = Bench(), Bench()
    elder.now += 100 + apart
    younger.now += 100
    nonces = {id(elder): 9, id(younger): 3}
    yielded = 0
    for judge, other in ((elder, younger), (younger, elder)):
        age = other.now - 100 - delay  # as it was when the message was sent
        start = Start(nonces[id(other)], age)
        judge.core._own._contact = Contact((f"{ME}:1",), ME.encode(), nonces[id(judge)])
        judge.do(judge.core.message(judge.now, 99, ME, Envelope(Kind.PING, said_elsewhere(1), start=start)))
        yielded += has_yielded(judge)
    assert yielded == 1
    assert has_yielded(younger)


@pytest.mark.parametrize(("nonce", "yields"), [(9, True), (3, False)])
def test_one_that_signs_anew_again_and_again_lives_though_nobody_answers(nonce: int, *, yields: bool) -> None:
    bench = Bench()
    for _ in range(OUTLIVED_MAX + 3):
        bench.say(bench.others[0], said_elsewhere(bench.core.generation + 1, nonce))
        for call in asked(bench):
            bench.fail(call)
    assert has_yielded(bench) is yields
    assert bench.counts["outlived_own_past"] == (OUTLIVED_MAX if yields else OUTLIVED_MAX + 3)
