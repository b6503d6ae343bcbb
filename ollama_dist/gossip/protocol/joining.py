"""Finding the cluster: addresses to try, when to try them again, and what is done with who answers there.

An address is only where somebody may be. Who is there is told by the transport, and that it belongs to the
cluster by its certificate. Until somebody was found, or a while has passed without, this member stays quiet:
it might be a copy of another one that runs (rule of clones).
"""

from dataclasses import dataclass
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.context import Context, Pending, Purpose
from ollama_dist.gossip.protocol.effects import EventKind
from ollama_dist.gossip.protocol.exchange import Exchange
from ollama_dist.gossip.protocol.messages import Claim, Kind, Rank
from ollama_dist.gossip.protocol.own import Own

ADDRESSES_MAX: Final = 256
"""Addresses remembered to be tried; the oldest that nobody insists on goes first."""


@dataclass(slots=True)
class Candidate:
    """An address to try."""

    address: str
    is_lasting: bool
    """Somebody wrote it down (a seed, a peer of last time): it is tried again and again."""
    try_at: float
    pause: float
    is_open: bool = False


class Joining:
    """Tries candidates until somebody answers, and lone addresses now and then after that."""

    def __init__(self, context: Context, own: Own, exchange: Exchange) -> None:
        self._context = context
        self._own = own
        self._exchange = exchange
        self._candidates: dict[str, Candidate] = {}
        self._has_joined = False
        self._clone_checks = 0
        self._is_clone = False

    def begin(self) -> None:
        """Nobody is known: be alone after a while, at once if there is nobody to try."""
        pause = self._context.config.join_alone_after if self._candidates else 0.0
        self._context.alarms.set("alone", self._context.now + pause)

    def add(self, address: str, *, is_lasting: bool) -> None:
        """Somebody may be at ``address``: try it soon, unless a living member is there."""
        context = self._context
        known = self._candidates.get(address)
        if known is not None:
            known.is_lasting |= is_lasting
            return
        if address in self._own.addresses or self._belongs_to_the_living(address):
            if is_lasting:
                self._remember(Candidate(address, is_lasting, context.now + context.config.seed_retry, 0.0))
            return
        self._remember(Candidate(address, is_lasting, context.now, context.config.join_retry_low))
        self._wake()

    def try_due(self) -> None:
        """The alarm rang: call those that are due, a few at a time."""
        context = self._context
        is_open = sum(candidate.is_open for candidate in self._candidates.values())
        due = [c for c in self._candidates.values() if not c.is_open and c.try_at <= context.now]
        due.sort(key=lambda candidate: candidate.try_at)
        for candidate in due:
            if candidate.address in self._own.addresses or self._belongs_to_the_living(candidate.address):
                candidate.try_at = context.now + context.config.seed_retry
            elif is_open < context.config.join_parallel:
                is_open += 1
                candidate.is_open = True
                envelope = self._exchange.envelope(Kind.SYNC, None)
                deadline = context.now + context.config.sync_timeout
                context.call_address(candidate.address, envelope, deadline, Purpose.JOIN)
        self._wake()

    def succeeded(self, pending: Pending) -> None:
        """Somebody of ours answered at that address."""
        candidate = self._candidates.get(pending.address)
        if candidate is not None:
            candidate.is_open = False
            candidate.try_at = self._context.now + self._context.config.seed_retry
            candidate.pause = self._context.config.join_retry_low
            if not candidate.is_lasting:
                del self._candidates[pending.address]
        if not self._has_joined and not self._clone_checks:
            self.join()
        self._wake()

    def failed(self, pending: Pending) -> None:
        """Nobody of ours answered there: again later, with doubling pauses."""
        candidate = self._candidates.get(pending.address)
        if candidate is None:
            return
        config = self._context.config
        candidate.is_open = False
        candidate.try_at = self._context.now + candidate.pause * self._context.rng.uniform(0.75, 1.25)
        candidate.pause = min(max(candidate.pause, config.join_retry_low) * 2, config.join_retry_high)
        if not candidate.is_lasting and candidate.pause >= config.join_retry_high:
            del self._candidates[pending.address]
        self._wake()

    def join(self) -> None:
        """From now on we are a member, be it of a cluster of one; a copy of another never is."""
        if not (self._has_joined or self._is_clone):
            self._has_joined = True
            self._context.alarms.cancel("alone")
            self._own.announce()
            self._context.event(EventKind.JOINED, self._context.me)
            self._exchange.spread()

    # Somebody else who is us

    def check_clone(self, claim: Claim) -> bool:
        """Others know our identity in another life: ask there whether that life goes on. True when we do."""
        contact = claim.contact
        if self._has_joined or contact is None or claim.rank is not Rank.ALIVE:
            return False
        if contact.nonce == self._own.nonce or set(contact.addresses) & set(self._own.addresses):
            return False
        self._clone_checks += 1
        deadline = self._context.now + self._context.config.clone_check
        for address in contact.addresses[:1]:
            envelope = self._exchange.envelope(Kind.PING, None)
            self._context.call_address(address, envelope, deadline, Purpose.CLONE_CHECK)
        return True

    def met_oneself(self, pending: Pending, claim: Claim | None) -> None:
        """Who answered is us: an address of our own by another name, or the one that we are a copy of."""
        contact = claim.contact if claim is not None else None
        if contact is not None and contact.nonce != self._own.nonce and not self._has_joined:
            self._yield()
        self.failed(pending)

    def clone_answered(self, sender: NodeId) -> None:
        """Who answered where we are said to live: if it is we, we are the copy and have to yield."""
        self._clone_checks -= 1
        if sender == self._context.me:
            self._yield()
        elif not self._clone_checks:
            self.join()

    def clone_silent(self) -> None:
        self._clone_checks -= 1
        if not self._clone_checks:
            self.join()

    # Shared

    def _yield(self) -> None:
        if not self._is_clone:
            me = self._context.me
            self._context.event(EventKind.CLONE, me, "another node runs under this identity")
        self._is_clone = True

    def _belongs_to_the_living(self, address: str) -> bool:
        return any(address in row.addresses for row in self._context.others())

    def _remember(self, candidate: Candidate) -> None:
        self._candidates[candidate.address] = candidate
        if len(self._candidates) > ADDRESSES_MAX:
            fleeting = (each.address for each in self._candidates.values() if not each.is_lasting)
            del self._candidates[next(fleeting, next(iter(self._candidates)))]

    def _wake(self) -> None:
        waiting = [candidate.try_at for candidate in self._candidates.values() if not candidate.is_open]
        is_open = sum(candidate.is_open for candidate in self._candidates.values())
        if waiting and is_open < self._context.config.join_parallel:
            self._context.alarms.set("candidates", max(self._context.now, min(waiting)))
