"""The membership state machine: one method per input, each answers with what is to be done.

The driver feeds it and carries out its effects; nothing here waits, sends or reads a clock. The parts are
`own` (what this member says of itself), `beliefs` (what is believed of the others), `detector` (who is
probed), `exchange` (what rides on messages), `joining` (how the cluster is found), `twins` (who else is this
member).
"""

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.beliefs import Beliefs
from ollama_dist.gossip.protocol.config import GossipConfig
from ollama_dist.gossip.protocol.context import Context, Pending, Purpose, Verify
from ollama_dist.gossip.protocol.detector import Detector
from ollama_dist.gossip.protocol.effects import (
    Effect,
    EventKind,
    Failure,
    Gone,
    MemberView,
    Respond,
    WakeAt,
)
from ollama_dist.gossip.protocol.exchange import Exchange
from ollama_dist.gossip.protocol.joining import Joining
from ollama_dist.gossip.protocol.members import Row
from ollama_dist.gossip.protocol.messages import Claim, Contact, Envelope, Kind, Rank
from ollama_dist.gossip.protocol.own import FORGOTTEN_KEY, REACH_KEY, Own, forgotten_of, unreachable_of
from ollama_dist.gossip.protocol.twins import Twins


class Membership:
    """One member's view of the cluster and its part in keeping it.

    Times are monotonic seconds and never run backwards between inputs. ``sign`` and ``verify`` give the same
    answer for the same arguments.
    """

    def __init__(
        self,
        me: NodeId,
        contact: Contact,
        *,
        sign: Callable[[bytes], bytes],
        verify: Verify,
        config: GossipConfig,
        rng: Random,
    ) -> None:
        self._context = Context(config, me, rng, verify)
        self._own = Own(self._context, contact, sign)
        self._exchange = Exchange(self._context, self._own)
        self._detector = Detector(self._context, self._own, self._exchange)
        self._beliefs = Beliefs(self._context, self._own, self._detector.look, self._exchange.want)
        self._detector.connect(self._beliefs)
        self._twins = Twins(self._context, self._own, self._exchange)
        self._own.connect(self._twins.hear)
        self._joining = Joining(self._context, self._own, self._exchange, self._twins)
        self._wake_number = 0
        self._woken_for: float | None = None
        self._leaving_for = 0
        self._load_waiting: bytes | None = None

    # Inputs

    def start(self, now: float, generation: int) -> list[Effect]:
        """Begin a life under ``generation``, higher than any before. Candidates may have come before."""
        self._context.now = now
        self._own.begin(generation)
        self._joining.begin()
        self._detector.begin_round()
        return self._done()

    def tick(self, now: float, number: int) -> list[Effect]:
        """The wish ``number`` to be woken has come true; of an older one nothing comes."""
        self._context.now = now
        if number == self._wake_number:
            self._woken_for = None
            if (due := self._context.alarms.next()) is not None:
                self._context.health.rang(now - due)
            while (alarm := self._context.alarms.pop_due(now)) is not None:
                self._ring(alarm)
        return self._done()

    def message(self, now: float, request: int, sender: NodeId, envelope: Envelope) -> list[Effect]:
        """A request from ``sender``, whom the transport verified. One `Respond` with ``request`` follows."""
        self._context.now = now
        if sender == self._context.me:
            self._twins.meet(envelope)
        else:
            self._let_in(sender)
            self._hear(sender, envelope)
        row = self._context.members.get(sender)
        target = self._context.members.get(envelope.target) if envelope.target else None
        if envelope.kind is Kind.PING_REQ and target is not None and target.is_living:
            self._detector.help(request, target)
        else:
            reply = self._exchange.reply(envelope.kind, row, envelope.digest)
            acked = envelope.kind is not Kind.PING_REQ
            self._context.effects.append(Respond(request, reply if acked else _nack(reply)))
        if row is not None and row.is_living:
            self._exchange.heard_fingerprint(row, envelope.fingerprint)
        return self._done()

    def reply(self, now: float, token: int, sender: NodeId, envelope: Envelope) -> list[Effect]:
        """The reply to the call with ``token``; ``sender`` is who the transport says answered."""
        self._context.now = now
        pending = self._context.close(token)
        if pending is None:
            return self._done()
        if pending.purpose is Purpose.CLONE_CHECK:
            self._twins.answered(sender, envelope)
            self._joining.go_on()
        if sender == self._context.me:
            if pending.purpose is Purpose.JOIN:
                self._twins.meet(envelope)
                self._joining.failed(pending)
            return self._done()
        before = self._context.members.fingerprint
        self._hear(sender, envelope)
        row = self._context.members.get(sender)
        if row is not None:
            row.answers = True
        if pending.kind is not Kind.PING_REQ and pending.sent_at >= self._context.stood_until:
            self._context.health.answered(now - pending.sent_at)
        self._use_reply(pending, row, envelope, brought_news=self._context.members.fingerprint != before)
        self._context.answers.clear()  # a reply is never answered
        if row is not None and row.is_living:
            self._exchange.heard_fingerprint(row, envelope.fingerprint)
        return self._done()

    def call_failed(self, now: float, token: int, failure: Failure) -> list[Effect]:
        """The call with ``token`` had no reply."""
        self._context.now = now
        pending = self._context.close(token)
        if pending is not None:
            row = self._context.members.get(pending.peer) if pending.peer is not None else None
            if row is not None and failure is not Failure.TIMEOUT:
                row.answers = False
            match pending.purpose:
                case Purpose.JOIN:
                    self._joining.failed(pending)
                case Purpose.CLONE_CHECK:
                    self._twins.silent()
                    self._joining.go_on()
                case Purpose.LEAVE:
                    pass
                case _:
                    self._detector.failed(pending, failure)
                    if pending.peer is not None and failure is Failure.REFUSED:
                        self._look(pending.peer)
        return self._done()

    def hint(self, now: float, peer: NodeId) -> list[Effect]:
        """Something (a connection lost or refused) makes a member look gone: probe it now (rule 7)."""
        self._context.now = now
        self._look(peer)
        return self._done()

    def candidate(self, now: float, address: str, *, is_lasting: bool) -> list[Effect]:
        """Somebody may be at ``address`` (``host:port``); ``is_lasting`` when it was written down."""
        self._context.now = now
        self._joining.add(address, is_lasting=is_lasting)
        return self._done()

    def set_load(self, now: float, data: bytes) -> list[Effect]:
        """Our load is now ``data`` (opaque, at most `hot_bytes_max`); told when the pace allows."""
        self._context.now = now
        if len(data) > self._context.config.hot_bytes_max:
            self._context.count("load_too_large")
        elif self._own.row.hot is None or data != self._own.row.hot.data:
            is_first = self._load_waiting is None
            self._load_waiting = data
            if is_first:  # the alarm may be set, but for the far day of telling it unchanged
                pause = self._context.config.hot_pause(self._context.size)
                self._context.alarms.set("load", max(now, self._own.row.hot_at + pause))
        else:
            self._load_waiting = None  # it is what was told last: nothing to tell
        return self._done()

    def set_state(self, now: float, key: str, value: bytes | None) -> list[Effect]:
        """Our slow state has ``value`` under ``key`` from now on; None deletes it."""
        self._context.now = now
        config, cold = self._context.config, self._own.row.cold
        if value is None:
            changed = cold.delete(key, config.tombstones_max)
        elif (
            key in (REACH_KEY, FORGOTTEN_KEY)
            or len(key) > config.cold_key_bytes
            or len(value) > config.cold_value_bytes
            or (cold.get(key) is None and len(cold) >= config.cold_keys_max)
            or cold.size + len(key) + len(value) > config.cold_bytes_max
        ):
            self._context.count("state_too_large")
            changed = False
        else:
            changed = cold.set(key, value)
        if changed:
            self._context.members.touch(self._own.row)
            self._exchange.spread()
        return self._done()

    def stall(self, now: float, gap: float) -> list[Effect]:
        """The process did not run for ``gap`` seconds: judge nobody by what was missed (rule 8)."""
        self._context.now = now
        self._context.health.worse()
        self._context.stood_until = now
        self._context.declare_from = now + self._context.config.sync_timeout
        self._detector.void_probes()
        self._beliefs.stood_still(gap)
        for row in self._context.others()[:1]:
            self._exchange.ask_anew(row)
        return self._done()

    def remember(self, now: float, gone: Gone) -> list[Effect]:
        """Before the start: who was gone already when this member ran last."""
        self._context.now = now
        signed = gone.signed
        public = signed.contact.public_key if signed.contact else b""
        is_said = self._context.verify(signed.subject, public, signed.signed_part(), signed.signature)
        if is_said and signed.subject != self._context.me and signed.subject not in self._context.members:
            self._context.members.add(Row.of_gone(gone, self._context.me))
        return []

    def expel(self, now: float, member: NodeId, reason: str) -> list[Effect]:
        """Shut a member out: it is gone at once, and nobody speaks for it until it is let in itself."""
        self._context.now = now
        row = self._context.members.get(member)
        if row is not None and member != self._context.me:
            self._beliefs.expel(row, reason)
        return self._done()

    def forget(self, now: float, member: NodeId) -> list[Effect]:
        """List one of the dead no more, here and, by and by, anywhere; it may come back alive."""
        self._context.now = now
        row = self._context.members.get(member)
        if row is not None and not row.is_living:
            self._forget(row)
            self._tell_forgotten(row)
            self._exchange.spread()
        return self._done()

    def leave(self, now: float) -> list[Effect]:
        """Say good-bye; `EventKind.DEPARTED` follows when enough have heard it, or soon anyway."""
        self._context.now = now
        self._own.leave()
        self._own.persist_if_changed(at_once=True)
        others = self._context.others()
        count = min(len(others), max(8, 3 * len(others).bit_length()))
        self._leaving_for = min(self._context.config.leave_acks, len(others))
        deadline = now + self._context.config.leave_timeout
        for row in self._context.rng.sample(others, count):
            self._context.call(row, self._exchange.envelope(Kind.LEAVE, row), deadline, Purpose.LEAVE)
        self._context.alarms.set("departed", deadline if self._leaving_for else now)
        return self._done()

    # What is known

    @property
    def generation(self) -> int:
        return self._own.claim.standing.generation

    @property
    def is_member(self) -> bool:
        """Whether we have announced ourselves."""
        return self._own.is_announced

    @property
    def local_health(self) -> int:
        """How ill this member thinks itself: 0 is well."""
        return self._context.health.factor - 1

    @property
    def slowness(self) -> int:
        """How many times longer than usual this process should give everything: 1 where it is in time."""
        return self._context.health.slowness

    @property
    def late(self) -> float:
        """How late alarms rang lately, in seconds."""
        return self._context.health.late

    @property
    def period(self) -> float:
        """Of the probes: it depends on how many live."""
        return self._context.period

    def member(self, member: NodeId) -> MemberView | None:
        """One of `members`."""
        row = self._context.members.get(member)
        return self._view(row) if row is not None and not row.is_forgotten else None

    @property
    def wake_number(self) -> int:
        """Of the last wish to be woken."""
        return self._wake_number

    @property
    def inside(self) -> Context:
        """What the parts share, for checks and measurements to look at; nobody outside changes it."""
        return self._context

    def members(self) -> tuple[MemberView, ...]:
        """All members as they are believed to be, the dead of the last day that nobody forgot among them."""
        return tuple(self._view(row) for row in self._context.members if not row.is_forgotten)

    def _view(self, row: Row) -> MemberView:
        me = self._context.me
        reaches_us = me not in unreachable_of(row)
        return MemberView(
            id=row.id,
            state=row.state,
            is_self=row.id == me,
            reachable=row.reach and reaches_us,
            since=row.since,
            reason=row.reason,
            addresses=row.addresses,
            generation=row.standing.generation,
            incarnation=row.standing.incarnation,
            rtt=row.rtt,
            hot=row.hot.data if row.hot else b"",
            hot_version=row.hot.version if row.hot else 0,
            hot_at=row.hot_at,
            heard_at=row.heard_at,
            cold=row.cold.view(),
            cold_version=row.cold.version,
            reach=row.reach,
            reaches_us=reaches_us,
            accuser=(row.accusation.accuser or "") if row.accusation else "",
            protocol=row.signed.contact.versions if row.signed.contact else (0, 0),
        )

    # Handling

    def _look(self, peer: NodeId) -> None:
        row = self._context.members.get(peer)
        if row is not None and row.is_living and peer != self._context.me:
            self._detector.look(row)

    def _let_in(self, sender: NodeId) -> None:
        """Who comes through the listener was admitted by it, whatever was before."""
        row = self._context.members.get(sender)
        if row is not None:
            row.is_barred = False

    def _hear(self, sender: NodeId, envelope: Envelope) -> None:
        """All that an envelope tells, the sender's own claim first."""
        row = self._context.members.get(sender)
        if row is not None and row.standing.rank in (Rank.SUSPECT, Rank.DEAD):
            self._context.missed_heard_at = self._context.now
        if envelope.claim is not None:
            if envelope.claim.subject == sender:
                self._hear_claim(envelope.claim, row, sender)
            else:
                self._context.count("claim_of_another")
        row = self._context.members.get(sender)
        if row is not None and row.is_living:
            row.heard_at = self._context.now
            if envelope.hot is not None and _is_of_this_life(envelope.claim, row):
                self._exchange.take_word(row, envelope.hot)
        for claim in envelope.rumours:
            self._beliefs.hear(claim, teller=sender)
        if envelope.target_claim is not None:
            self._beliefs.hear(envelope.target_claim, teller=sender)
        for entry in envelope.digest:
            if entry[0] == self._context.me:
                self._exchange.look_for_lies(entry)
                break
        if envelope.deltas:
            hear = partial(self._beliefs.hear, teller=sender, by_sync=True)
            self._exchange.take_deltas(envelope.deltas, hear)

    def _hear_claim(self, claim: Claim, row: Row | None, sender: NodeId) -> None:
        if claim.contact is None and claim.rank is Rank.ALIVE:
            if row is None or row.signed.standing != claim.standing:
                self._context.count("claim_without_proof")  # it takes us for somebody who has it
                self._exchange.want(sender)
                return
            claim = row.signed
        if claim.rank in (Rank.ALIVE, Rank.LEFT):
            self._beliefs.hear(claim, teller=sender)

    def _use_reply(
        self, pending: Pending, row: Row | None, envelope: Envelope, *, brought_news: bool
    ) -> None:
        match pending.purpose:
            case Purpose.JOIN:
                self._joining.succeeded(pending, is_known=row is not None and row.is_living)
            case Purpose.SYNC if row is not None:
                self._exchange.synced(row, brought_news=brought_news)
            case Purpose.LEAVE:
                self._leaving_for -= 1
                if self._leaving_for == 0:
                    self._context.alarms.set("departed", self._context.now)
            case Purpose.PROBE if pending.kind is Kind.PING_REQ:
                self._detector.helper_answered(pending, envelope)
            case Purpose.PROBE | Purpose.ASK | Purpose.HELP if row is not None:
                self._detector.answered(pending, row)

    def _ring(self, alarm: Hashable) -> None:
        match alarm:
            case "round":
                self._detector.begin_round()
                self._bury()
            case "gossip":
                self._exchange.gossip()
            case "sync":
                self._exchange.sync()
            case "candidates":
                self._joining.try_due()
            case "alone":
                self._joining.join()
            case "load":
                self._publish_load()
            case "departed":
                self._context.event(EventKind.DEPARTED, self._context.me)
            case ("helpers", int(number)):
                self._detector.ask_helpers(number)
            case ("probe_ends", int(number)):
                self._detector.conclude(number)
            case ("ask", str(member)) if row := self._context.members.get(NodeId(member)):
                self._detector.ask(row)
            case ("verdict", str(member)) if row := self._context.members.get(NodeId(member)):
                self._beliefs.time_is_up(row)

    def _publish_load(self) -> None:
        data = self._load_waiting
        if data is None and self._own.row.hot is not None:
            data = self._own.row.hot.data  # nothing new, but its age shall say that we are well
        if data is not None:
            self._own.publish_load(data)
            self._load_waiting = None
            self._exchange.spread(1)
            self._context.alarms.set("load", self._context.now + self._context.config.hot_refresh)

    def _forget(self, row: Row) -> None:
        row.is_forgotten = True
        self._context.updated(row.id)
        self._own.persist()

    def _tell_forgotten(self, *rows: Row) -> None:
        """Tell the others, too, whom an operator forgot here; not any more who is gone for good, or back."""
        told = forgotten_of(self._own.row)
        still = (row for row in self._context.members if row.is_forgotten and row.id in told)
        self._own.publish_forgotten([*still, *(row for row in rows if row.id not in told)])

    def _heed_forgotten(self) -> None:
        """Whom another member was told to forget, if we hold it dead too."""
        members = self._context.members
        gone = members.gone_count and [row for row in members if not (row.is_living or row.is_forgotten)]
        if gone:
            told = [forgotten for row in members.living() if (forgotten := forgotten_of(row))]
            for row in gone:
                if any(each.get(row.id, _NO_LIFE) >= row.standing.life for each in told):
                    self._forget(row)
        if forgotten_of(self._own.row):
            self._tell_forgotten()

    def _bury(self) -> None:
        """Forget who died long ago."""
        self._heed_forgotten()
        if not self._context.members.gone_count:
            return
        oldest = self._context.now - self._context.config.dead_kept
        gone = [row for row in self._context.members if not row.is_living]
        gone.sort(key=lambda row: row.since)
        surplus = len(self._context.members) - self._context.config.members_max
        for index, row in enumerate(gone):
            if row.since < oldest or index < surplus:
                self._context.members.drop(row.id)
                self._exchange.forget(row.id)

    def _done(self) -> list[Effect]:
        """The effects of the input just handled, and the wish to be woken if that has changed."""
        context = self._context
        for member in context.joined:
            if member != context.me:
                self._detector.add(member)
        context.joined.clear()
        self._own.persist_if_changed()
        if self._own.is_announced:
            self._exchange.wake()
        wake = context.alarms.next()
        if wake is not None and wake != self._woken_for:
            self._wake_number += 1
            self._woken_for = wake
            context.effects.append(WakeAt(wake, self._wake_number))
        context.answers.clear()
        effects, context.effects = context.effects, []
        return effects


_NO_LIFE: Final = (-1, -1)


def _is_of_this_life(claim: Claim | None, row: Row) -> bool:
    """Whether who says ``claim`` of itself is not a message from before its last start, that came late."""
    return claim is not None and claim.standing.generation == row.standing.generation


def _nack(reply: Envelope) -> Envelope:
    return replace(reply, acked=False)
