"""The failure detector: each period one member is probed, directly and then through helpers (SWIM, 3.1).

Members are taken from a shuffled list, newcomers put in at random, so that everyone is probed once a round
(section 4.3). A probe that fails accuses; it never declares by itself, unless others have said so already.
"""

import math
from dataclasses import dataclass

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.beliefs import Beliefs
from ollama_dist.gossip.protocol.context import Context, Pending, Purpose
from ollama_dist.gossip.protocol.effects import EventKind, Failure
from ollama_dist.gossip.protocol.exchange import Exchange
from ollama_dist.gossip.protocol.members import Row
from ollama_dist.gossip.protocol.messages import Envelope, Kind, Rank
from ollama_dist.gossip.protocol.own import Own

HELPER_SHARE = 0.8
"""A helper gives the target this part of the time it has, to answer us in the rest."""


@dataclass(slots=True)
class Probe:
    """One attempt to reach one member."""

    target: NodeId
    ends: float
    asks_helpers: bool = False
    """Whether the second stage, through helpers, has begun."""
    was_refused: bool = False
    """Its machine answered that nobody listens: proof that our own network works."""
    open_calls: int = 0
    helpers: int = 0
    """Helpers asked."""
    nacks: int = 0
    """Helpers that said they could not reach it either."""


class Detector:
    """Probes, helps others to probe, asks the accused once more, and keeps in touch with the dead."""

    def __init__(self, context: Context, own: Own, exchange: Exchange) -> None:
        self._context = context
        self._own = own
        self._exchange = exchange
        self._beliefs: Beliefs
        self._order: list[NodeId] = []
        self._probes: dict[int, Probe] = {}
        self._number = 0
        self._waiting: dict[NodeId, list[int]] = {}
        """Requests of others that want to know whether we reach a member."""
        self._hearsay_tokens = 0.0
        self._hearsay_at = float("-inf")

    def connect(self, beliefs: Beliefs) -> None:
        """Whom to tell of failures: the two know each other."""
        self._beliefs = beliefs

    # Whose turn it is

    def begin_round(self) -> None:
        """Probe the next member of the list, and maybe say hello to one of the dead."""
        context = self._context
        context.alarms.set("round", context.now + context.period * context.health.factor)
        while self._order:
            row = context.members.get(self._order.pop())
            if row is not None and row.is_living and row.id != context.me:
                self.probe(row)
                break
        if not self._order:
            self._order = [row.id for row in context.others()]
            context.rng.shuffle(self._order)
        self._greet_the_dead()

    def add(self, member: NodeId) -> None:
        """A newcomer: somewhere in what is left of the round."""
        self._order.insert(self._context.rng.randrange(len(self._order) + 1), member)

    def look(self, row: Row) -> None:
        """Probe at once because of what somebody says; so often per second at most, whoever says how much."""
        context = self._context
        limit = context.config.hearsay_probes_per_s
        elapsed = min(context.now - self._hearsay_at, 1.0)
        self._hearsay_tokens = min(limit, self._hearsay_tokens + elapsed * limit)
        self._hearsay_at = context.now
        if self._hearsay_tokens < 1:
            context.count("hearsay_probe_dropped")
            return
        self._hearsay_tokens -= 1
        self.probe(row)

    # One probe

    def probe(self, row: Row) -> None:
        """Begin a probe; nothing if one of this member is under way."""
        context = self._context
        if any(probe.target == row.id for probe in self._probes.values()):
            return
        context.count("probes")
        self._number += 1
        period, within = context.period * context.health.factor, context.health.answers_within
        timeout = min(context.patience, max(period * HELPER_SHARE, within))
        probe = Probe(row.id, context.now + max(period, 2 * within))
        self._probes[self._number] = probe
        probe.open_calls += self._ping(row, context.now + timeout, Purpose.PROBE, self._number)
        context.alarms.set(("helpers", self._number), context.now + timeout)
        context.alarms.set(("probe_ends", self._number), probe.ends)

    def answered(self, pending: Pending, row: Row) -> None:
        """The member itself answered a direct ping of ours."""
        row.rtt = _smoothed(row.rtt, self._context.now - pending.sent_at)
        self._reached(row)
        self._tell_waiting(row, acked=True)
        for number in [number for number, probe in self._probes.items() if probe.target == row.id]:
            if not self._probes[number].asks_helpers:
                self._context.health.better()
            self._close(number)

    def helper_answered(self, pending: Pending, envelope: Envelope) -> None:
        """A helper told us whether it reached the target; the target's claim was heard before."""
        probe = self._probes.get(pending.probe)
        if probe is None:
            return
        probe.open_calls -= 1
        if not envelope.acked:
            probe.nacks += 1
            self._conclude_if_over(pending.probe, probe)
            return
        target = self._context.members.get(probe.target)
        if target is not None:
            self._missed_but_alive(target)
        self._close(pending.probe)

    def failed(self, pending: Pending, failure: Failure) -> None:
        """A call of a probe, or a ping for somebody else, or of the accused, had no reply."""
        row = self._context.members.get(pending.peer) if pending.peer is not None else None
        if pending.kind is Kind.PING and row is not None:
            self._tell_waiting(row, acked=False)
            if pending.purpose is Purpose.ASK:
                self._beliefs.asked_in_vain(row, pending.sent_at)
        probe = self._probes.get(pending.probe)
        if probe is None:
            return
        probe.open_calls -= 1
        if pending.kind is Kind.PING:
            probe.was_refused |= failure is Failure.REFUSED
            if failure is not Failure.TIMEOUT:
                self.ask_helpers(pending.probe)  # the network said no at once: no need to wait
        self._conclude_if_over(pending.probe, probe)

    def ask_helpers(self, number: int) -> None:
        """The second stage: others ping for us, and we try once more ourselves."""
        probe, context = self._probes.get(number), self._context
        if probe is None or probe.asks_helpers:
            return
        probe.asks_helpers = True
        target = context.members.get(probe.target)
        if target is None:
            return
        able = [row for row in context.others() if row.id != probe.target and row.standing.rank is Rank.ALIVE]
        count = math.ceil(context.config.helpers / context.health.slowness)
        for helper in context.some(able, count):
            envelope = self._exchange.envelope(Kind.PING_REQ, helper, target=target.id)
            if context.call(helper, envelope, probe.ends, Purpose.PROBE, number):
                probe.open_calls += 1
                probe.helpers += 1
        if not probe.was_refused:
            probe.open_calls += self._ping(target, probe.ends, Purpose.PROBE, number)

    def conclude(self, number: int) -> None:
        """The time of a probe is up."""
        probe = self._probes.get(number)
        if probe is None:
            return
        self._close(number)
        target = self._context.members.get(probe.target)
        if target is None or not target.is_living:
            return
        self._context.count("probes_failed")
        missing = probe.helpers - probe.nacks
        if missing > 0 and not probe.was_refused:
            self._context.health.worse(missing)
        how = "refused the connection" if probe.was_refused else "did not answer a probe"
        helped = f", and {probe.nacks} of {probe.helpers} others failed too" if probe.helpers else ""
        self._beliefs.suspect(target, self._context.me, how + helped)

    def void_probes(self) -> None:
        """We stood still: what was not answered meanwhile proves nothing (rule 8)."""
        for number in list(self._probes):
            self._close(number)

    # Helping, asking, greeting

    def help(self, request: int, target: Row) -> None:
        """Somebody asks us to ping ``target``: answer ``request`` when it did or did not answer.

        A ping that is under way already does for this one too.
        """
        self._waiting.setdefault(target.id, []).append(request)
        context = self._context
        time = min(max(context.probe_timeout, context.health.answers_within), context.config.sync_timeout)
        self._ping(target, context.now + time * HELPER_SHARE, Purpose.HELP)

    def ask(self, row: Row) -> None:
        """Rule 3: the accused is asked directly before its time is up."""
        context = self._context
        if row.suspicion is None:
            return
        factor = context.health.factor
        if context.open_count(Purpose.ASK) >= max(1, context.config.asks_open_max // factor):
            context.alarms.set(("ask", row.id), context.now + context.patience)
        elif self._ping(row, context.now + row.suspicion.patience, Purpose.ASK):
            row.suspicion.asks(context.now)
        else:  # it is being pinged for another reason: as soon as that is over
            context.alarms.set(("ask", row.id), context.now + context.patience / 4)

    def _greet_the_dead(self) -> None:
        """Ping one of the dead, with chance dead/(alive + 1): so the halves of a broken cluster find back."""
        context = self._context
        if not context.members.gone_count or not context.config.rules.dead_contact:
            return
        dead = [row for row in context.members if row.standing.rank is Rank.DEAD and row.addresses]
        if dead and context.rng.random() < len(dead) / (context.size + 1):
            row = context.rng.choice(dead)
            self._ping(row, context.now + context.probe_timeout, Purpose.DEAD_CONTACT)

    def _tell_waiting(self, target: Row, *, acked: bool) -> None:
        for request in self._waiting.pop(target.id, ()):
            self._exchange.respond_help(request, target, acked=acked)

    # Shared

    def _ping(self, row: Row, deadline: float, purpose: Purpose, probe: int = 0) -> bool:
        envelope = self._exchange.envelope(Kind.PING, row)
        return self._context.call(row, envelope, deadline, purpose, probe)

    def _conclude_if_over(self, number: int, probe: Probe) -> None:
        if probe.asks_helpers and probe.open_calls <= 0:
            self.conclude(number)

    def _close(self, number: int) -> None:
        self._probes.pop(number, None)
        self._context.alarms.cancel(("helpers", number))
        self._context.alarms.cancel(("probe_ends", number))

    def _reached(self, row: Row) -> None:
        if not row.reach:
            row.reach = True
            self._context.event(EventKind.REACH, row.id, "can be reached again")
            self._publish_reach()

    def _missed_but_alive(self, row: Row) -> None:
        """Helpers reach it and we do not: it lives, and we must not send it anything."""
        if row.reach:
            row.reach = False
            self._context.event(EventKind.REACH, row.id, "answers others but not this node")
            self._publish_reach()

    def _publish_reach(self) -> None:
        if self._own.publish_reach([row.id for row in self._context.others() if not row.reach]):
            self._exchange.spread()


def _smoothed(before: float | None, sample: float) -> float:
    return sample if before is None else before + 0.2 * (sample - before)
