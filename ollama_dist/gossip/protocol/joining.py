"""Finding the cluster: addresses to try, when to try them again, and what is done with who answers there.

An address is only where somebody may be. Who is there is told by the transport, and that it belongs to the
cluster by its certificate. Until somebody was found, or a while has passed without, this member stays quiet:
it might be a copy of another one that runs (see `twins`).
"""

from dataclasses import dataclass
from typing import Final

from ollama_dist.gossip.protocol.context import Context, Pending, Purpose
from ollama_dist.gossip.protocol.effects import EventKind
from ollama_dist.gossip.protocol.exchange import Exchange
from ollama_dist.gossip.protocol.messages import Kind
from ollama_dist.gossip.protocol.own import Own
from ollama_dist.gossip.protocol.twins import Twins

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

    def __init__(self, context: Context, own: Own, exchange: Exchange, twins: Twins) -> None:
        self._context = context
        self._own = own
        self._exchange = exchange
        self._candidates: dict[str, Candidate] = {}
        self._twins = twins
        self._is_ready = False
        """Somebody was found, or a while has passed without."""

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
                deadline = context.now + context.config.sync_timeout * context.health.slowness
                context.call_address(candidate.address, envelope, deadline, Purpose.JOIN)
        self._wake()

    def succeeded(self, pending: Pending, *, is_known: bool) -> None:
        """Somebody of ours answered there. Who has not announced itself is not known by that, and is
        asked again soon: two that start together would else take no notice of each other."""
        candidate = self._candidates.get(pending.address)
        if candidate is not None:
            config = self._context.config
            candidate.is_open = False
            candidate.try_at = self._context.now + (config.seed_retry if is_known else config.join_retry_low)
            candidate.pause = config.join_retry_low
            if is_known and not candidate.is_lasting:
                del self._candidates[pending.address]
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
        """From now on we are a member, be it of a cluster of one, as soon as we know that we are no copy."""
        self._is_ready = True
        self.go_on()

    def go_on(self) -> None:
        """Whatever kept us from joining may be over."""
        if self._is_ready and not self._own.is_announced and self._twins.allows_joining:
            self._context.alarms.cancel("alone")
            self._own.announce()
            self._context.event(EventKind.JOINED, self._context.me)
            self._exchange.spread()

    # Shared

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
