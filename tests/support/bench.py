"""One membership state machine on a bench: the test plays everybody else, the network and the clock."""

from random import Random

from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import MemberState
from ollama_dist.gossip.protocol.config import LAN, GossipConfig
from ollama_dist.gossip.protocol.core import Membership
from ollama_dist.gossip.protocol.effects import (
    Call,
    Count,
    Effect,
    Event,
    EventKind,
    Failure,
    Persist,
    Respond,
    WakeAt,
)
from ollama_dist.gossip.protocol.messages import (
    Claim,
    Contact,
    Envelope,
    Hot,
    Kind,
    MemberDelta,
    Rank,
    Standing,
    Start,
)
from ollama_dist.sim.network import sign_as, verify, virtual_id

ME = virtual_id("me")


def signed(member: NodeId, rank: Rank = Rank.ALIVE, incarnation: int = 0, generation: int = 1) -> Claim:
    """What a member says of itself."""
    contact = Contact((f"{member}:1",), member.encode(), nonce=1)
    bare = Claim(member, Standing(generation, incarnation, rank), contact)
    return Claim(member, bare.standing, contact, sign_as(member)(bare.signed_part()))


def accused(subject: NodeId, rank: Rank, by: NodeId, incarnation: int = 0, generation: int = 1) -> Claim:
    return Claim(subject, Standing(generation, incarnation, rank), accuser=by)


class Bench:
    """``others`` are members the core knows and that have just spoken to it; calls to them stay open until
    the test answers or fails them."""

    def __init__(self, others: int = 4, *, config: GossipConfig = LAN, seed: int = 1) -> None:
        self.now = 100.0
        self.config = config
        self.events: list[Event] = []
        self.persisted: list[Persist] = []
        self.counts: dict[str, int] = {}
        self.open: dict[int, Call] = {}
        self.responses: dict[int, Envelope] = {}
        self._wake: WakeAt | None = None
        self._request = 0
        contact = Contact((f"{ME}:1",), ME.encode(), nonce=7)
        rng = Random(seed)
        self.core = Membership(ME, contact, sign=sign_as(ME), verify=verify, config=config, rng=rng)
        self.do(self.core.start(self.now, 1))
        self.advance(0.01)
        self.others = [virtual_id(f"other {number}") for number in range(others)]
        for other in self.others:
            self.say(other)

    # The clock and the network

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Call():
                    self.open[effect.token] = effect
                case Respond(request, envelope):
                    assert request not in self.responses, "a message is answered once"
                    self.responses[request] = envelope
                case WakeAt():
                    self._wake = effect
                case Persist():
                    self.persisted.append(effect)
                case Event():
                    self.events.append(effect)
                case Count(what):
                    self.counts[what] = self.counts.get(what, 0) + 1

    def advance(self, seconds: float, *, answering: bool = False) -> None:
        """Let time pass. Calls fail at their deadline, or are answered at once if ``answering``."""
        end = self.now + seconds
        while True:
            due = min((call.deadline for call in self.open.values()), default=end)
            wake = self._wake.time if self._wake is not None else end
            if answering and self.open:
                self.answer(next(iter(self.open.values())))
                continue
            if min(due, wake) >= end:
                break
            if wake <= due:
                assert self._wake is not None
                number, self._wake = self._wake.number, None
                self.now = max(self.now, wake)
                self.do(self.core.tick(self.now, number))
            else:
                self.now = max(self.now, due)
                self.fail(next(call for call in self.open.values() if call.deadline == due))
        self.now = end

    def say(
        self,
        sender: NodeId,
        *rumours: Claim,
        kind: Kind = Kind.GOSSIP,
        claim: Claim | None = None,
        deltas: tuple[MemberDelta, ...] = (),
        hot: Hot | None = None,
        start: Start | None = None,
        fingerprint: int = 0,
    ) -> Envelope:
        """``sender`` sends a message; the answer it gets."""
        self._request += 1
        own = claim if claim is not None else self._known_claim(sender)
        envelope = Envelope(kind, own, fingerprint, rumours=rumours, deltas=deltas, hot=hot, start=start)
        self.do(self.core.message(self.now, self._request, sender, envelope))
        return self.responses[self._request]

    def calls(self, kind: Kind, peer: NodeId) -> list[Call]:
        """The open calls of that kind to a member."""
        return [call for call in self.open.values() if (call.kind, call.peer) == (kind, peer)]

    def answer(self, call: Call, claim: Claim | None = None) -> None:
        """The member answers, and says of itself what it said before, or ``claim``."""
        del self.open[call.token]
        assert call.peer is not None
        own = claim if claim is not None else self._known_claim(call.peer)
        self.do(self.core.reply(self.now, call.token, call.peer, Envelope(call.kind, own)))

    def fail(self, call: Call, failure: Failure = Failure.TIMEOUT) -> None:
        del self.open[call.token]
        self.do(self.core.call_failed(self.now, call.token, failure))

    def nack(self, call: Call) -> None:
        """A helper could not reach the target either."""
        del self.open[call.token]
        assert call.peer is not None
        reply = Envelope(Kind.PING_REQ, self._known_claim(call.peer), acked=False)
        self.do(self.core.reply(self.now, call.token, call.peer, reply))

    def quiet(self, seconds: float = 5.0) -> None:
        """Let everybody answer for a while: nobody has spoken just now afterwards, and nobody is suspect."""
        self.advance(seconds, answering=True)
        self.now += 3 * self.config.period(len(self.others) + 1) + 0.01
        self.events.clear()

    # What the core thinks

    def state(self, member: NodeId) -> MemberState:
        view = self.core.member(member)
        assert view is not None
        return view.state

    def told(self, kind: EventKind, member: NodeId) -> bool:
        return any(event.kind is kind and event.member == member for event in self.events)

    def _known_claim(self, member: NodeId) -> Claim:
        row = self.core._context.members.get(member)
        return row.signed if row is not None else signed(member)
