"""What is believed of the others: which claim changes it, and when a suspicion becomes a death.

SWIM section 4.2 gives the order of claims. Beyond it, so that no member can make another one disappear:
an accusation never carries a number its subject has not signed (it changes nothing), a death reported by
others is only a reason to look oneself (rule 4), a death learned in a synchronisation only a suspicion
(rule 5), and news older than ours is answered with ours (rule 6).
"""

from collections.abc import Callable
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.context import Context
from ollama_dist.gossip.protocol.effects import EventKind
from ollama_dist.gossip.protocol.members import Row
from ollama_dist.gossip.protocol.messages import GENERATION_LIMIT, Claim, Rank, Standing
from ollama_dist.gossip.protocol.own import Own
from ollama_dist.gossip.protocol.suspicion import Suspicion

RECENT_PERIODS: Final = 3
"""Somebody who spoke to us ourselves within so many periods is not dead, whoever says so."""


class Beliefs:
    """Applies claims. ``look`` probes a member at once; ``lacking`` notes that a peer knows more than we."""

    def __init__(
        self, context: Context, own: Own, look: Callable[[Row], None], lacking: Callable[[NodeId], None]
    ) -> None:
        self._context = context
        self._own = own
        self._look = look
        self._lacking = lacking

    def hear(self, claim: Claim, *, teller: NodeId, by_sync: bool = False) -> None:
        """Somebody (``teller``) says something about somebody."""
        if claim.standing.generation >= GENERATION_LIMIT:
            self._context.count("absurd_generation")
        elif claim.subject == self._context.me:
            self._own.hear(claim, verified=self._is_genuine)
        elif claim.rank in (Rank.ALIVE, Rank.LEFT):
            self._hear_signed(claim)
        else:
            self._hear_accusation(claim, teller, by_sync=by_sync)

    # What members say of themselves

    def _hear_signed(self, claim: Claim) -> None:
        row = self._context.members.get(claim.subject)
        if row is not None and row.is_barred:
            self._context.count("barred")
            return
        if row is not None and not _is_news(claim, row):
            if claim.standing.life < row.standing.life or not row.is_living or _is_other_start(claim, row):
                self._context.answers.extend(row.claims())
            return
        if row is None and claim.rank is Rank.ALIVE and self._is_full():
            self._context.count("cluster_full")
            return
        if not self._is_genuine(claim):
            self._context.count("bad_signature")
            return
        if row is None:
            self._meet(claim)
        elif claim.rank is Rank.LEFT:
            self._goes(row, claim, "left", EventKind.LEFT)
        else:
            self._lives(row, claim)
        self._context.rumours.add(claim)
        self._own.peers_changed()

    def _meet(self, claim: Claim) -> None:
        row = Row(claim.subject, claim.standing, claim, since=self._context.now, reason="joined")
        self._context.members.add(row)
        if claim.rank is Rank.ALIVE:
            self._context.event(EventKind.JOINED, row.id)
        else:
            row.reason = "left"

    def _lives(self, row: Row, claim: Claim) -> None:
        was = row.standing
        row.begin(claim.standing)
        row.signed, row.is_forgotten = claim, False
        self._acquit(row)
        if was.rank is Rank.ALIVE:
            self._context.members.touch(row)
            self._context.updated(row.id)
            return
        row.since, row.reason = self._context.now, "came back" if was.rank.is_gone else "refuted a suspicion"
        row.reach = True
        self._context.members.touch(row)
        self._context.event(EventKind.JOINED if was.rank.is_gone else EventKind.ALIVE_AGAIN, row.id)

    def _is_genuine(self, claim: Claim) -> bool:
        contact = claim.contact
        if not self._context.config.rules.signatures:
            return contact is not None
        return contact is not None and self._context.verify(
            claim.subject, contact.public_key, claim.signed_part(), claim.signature
        )

    def _is_full(self) -> bool:
        return self._context.size >= self._context.config.members_max

    # What others say of them

    def _hear_accusation(self, claim: Claim, teller: NodeId, *, by_sync: bool) -> None:
        row = self._context.members.get(claim.subject)
        if row is None or claim.standing.life > row.signed.standing.life:
            self._context.count("accused_unknown")
            self._lacking(teller)
        elif claim.standing.life < row.standing.life:
            self._context.answers.extend(row.claims())
        elif claim.accuser == self._context.me:
            self._context.count("own_echo")  # only a failure of our own is one, not somebody's telling of it
        elif row.is_living and claim.accuser is not None:
            if claim.rank is Rank.SUSPECT or by_sync:
                self.suspect(row, claim.accuser, f"suspected by {claim.accuser}")
            else:
                self._hear_death(row, claim.accuser)

    def _hear_death(self, row: Row, accuser: NodeId) -> None:
        if self._context.now - row.heard_at < RECENT_PERIODS * self._context.period:
            self._context.count("hearsay_contradicted")
            return
        self.suspect(row, accuser, f"said to be dead by {accuser}")
        row.is_condemned = True
        if self._context.config.rules.hearsay:
            self._look(row)
        else:
            self._declare(row, row.reason)

    def suspect(self, row: Row, accuser: NodeId, reason: str) -> None:
        """``accuser`` has not reached the member. Our own failure hastens the end of who is called dead."""
        if row.suspicion is None:
            row.suspicion = self._begin_suspicion(row, accuser, reason)
        if row.suspicion.confirm(accuser):
            claim = Claim(row.id, row.standing, accuser=accuser)
            row.accusation = claim
            if len(row.suspicion.accusers) <= self._context.config.confirmations + 1:
                self._context.rumours.add(claim)
        if accuser == self._context.me and row.is_condemned:
            row.suspicion.hasten(self._context.now)
        self._set_alarms(row, row.suspicion)

    def _begin_suspicion(self, row: Row, accuser: NodeId, reason: str) -> Suspicion:
        context = self._context
        others = context.size - 2
        suspicion = Suspicion(
            context.now,
            context.config.suspicion_min(context.size),
            context.config.suspicion_max_mult,
            min(context.config.confirmations, others),
            context.rng,
            context.health,
        )
        row.standing = Standing(row.standing.generation, row.standing.incarnation, Rank.SUSPECT)
        row.since, row.reason = context.now, reason
        context.event(EventKind.SUSPECT, row.id, f"{reason} ({accuser})" if accuser == context.me else reason)
        return suspicion

    # How a suspicion goes on

    def asked_in_vain(self, row: Row, asked_at: float) -> None:
        """The accused was asked once more, directly, in vain (rule 3): that counts as our own failure, and is
        its death if the time is up."""
        if not row.is_living:
            return  # it left meanwhile
        self.suspect(row, self._context.me, row.reason)
        suspicion, now = row.suspicion, self._context.now
        if (
            suspicion is not None
            and suspicion.is_over(now)
            and now >= self._context.declare_from
            and suspicion.proves(asked_at, self._context.missed_heard_at)
        ):
            self._declare(row, row.reason)

    def time_is_up(self, row: Row) -> None:
        """Where nobody is asked, this is enough."""
        if row.suspicion is not None and row.suspicion.is_over(self._context.now):
            self._declare(row, row.reason)

    def stood_still(self, gap: float) -> None:
        """We did not run for ``gap`` seconds: nobody shall die of it (rule 8)."""
        for row in self._context.members.living():
            if row.suspicion is not None:
                row.suspicion.extend(gap)
                self._set_alarms(row, row.suspicion)

    def _set_alarms(self, row: Row, suspicion: Suspicion) -> None:
        context = self._context
        if context.config.rules.ask_once:
            at = suspicion.next_question(context.now, context.patience, context.declare_from)
            context.alarms.set(("ask", row.id), at)
        else:
            context.alarms.set(("verdict", row.id), max(suspicion.deadline, context.declare_from))

    def expel(self, row: Row, reason: str) -> None:
        """It has no business here any more, alive or not; the others are told by who decided it."""
        row.is_barred = True
        self._goes(row, self._death_of(row), reason, EventKind.DEAD)
        self._own.persist()

    def _declare(self, row: Row, reason: str) -> None:
        claim = self._death_of(row)
        self._goes(row, claim, reason, EventKind.DEAD)
        self._context.rumours.add(claim)
        self._own.peers_changed()

    def _death_of(self, row: Row) -> Claim:
        life = row.standing
        standing = Standing(life.generation, life.incarnation, Rank.DEAD)
        return Claim(row.id, standing, accuser=self._context.me)

    def _goes(self, row: Row, claim: Claim, reason: str, event: EventKind) -> None:
        was = row.state
        self._acquit(row)
        row.begin(claim.standing)  # who left may have lived once more, unseen
        if claim.contact is not None:
            row.signed = claim
        else:
            row.accusation = claim
        row.since, row.reason = self._context.now, reason
        self._context.members.touch(row)
        if row.state is not was:  # who was dead may be heard to have left
            self._context.event(event, row.id, reason)

    def _acquit(self, row: Row) -> None:
        """Nothing is held against it any more."""
        row.suspicion = row.accusation = None
        row.is_condemned = False
        self._context.alarms.cancel(("ask", row.id))
        self._context.alarms.cancel(("verdict", row.id))


def _is_other_start(claim: Claim, row: Row) -> bool:
    """Whether two starts of a member used one generation: it must hear of that, and go beyond."""
    known = row.signed
    if claim.contact is None or known.contact is None:
        return False
    return (
        claim.standing.generation == known.standing.generation and claim.contact.nonce != known.contact.nonce
    )


def _is_news(claim: Claim, row: Row) -> bool:
    """Whether something a member signed raises what it signed before. To live again it must live anew."""
    said, known = claim.standing, row.signed.standing
    if known.rank is Rank.LEFT:
        return said.generation > known.generation
    return said > known if claim.rank is Rank.LEFT else said.life > known.life
