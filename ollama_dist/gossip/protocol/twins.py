"""Somebody else who is us: an earlier start of this member, or one that runs from a copy of its disk.

What another start says under our identity, at a life that ours does not outlive, is asked after where that
start says it is. Silence: it is past, and we go beyond. An answer: it is a twin, and one of the two has to
yield, loudly. That is the newcomer: who has not announced itself, else who started later; of two that started
together the one with the lower nonce. One call tells both of them.

A twin out of our reach looks like a past, and the two would outbid each other for ever. But a past signs
nothing new: what was outlived many times lives somewhere, and the lower nonce yields.
"""

from collections import Counter
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.context import Context, Purpose
from ollama_dist.gossip.protocol.effects import EventKind
from ollama_dist.gossip.protocol.exchange import Exchange
from ollama_dist.gossip.protocol.messages import Claim, Envelope, Kind, Rank, Start
from ollama_dist.gossip.protocol.own import Own

OUTLIVED_MAX: Final = 4
"""Claims of one other start that are taken for its past. One that was restored from an old disk hears of
two or three at most, since members keep only the newest."""


class Twins:
    """Finds out whether another start of this member goes on, and which of the two yields."""

    def __init__(self, context: Context, own: Own, exchange: Exchange) -> None:
        self._context = context
        self._own = own
        self._exchange = exchange
        self._asked: Claim | None = None
        """After which other start we are asking."""
        self._open = 0
        """Calls to its addresses that have not ended."""
        self._outlived: Counter[int] = Counter()
        """How often we went beyond each other start, by its nonce."""
        self._has_yielded = False

    @property
    def allows_joining(self) -> bool:
        """Whether we are, as far as we know, the only one of us."""
        return not (self._has_yielded or self._open)

    def hear(self, claim: Claim) -> None:
        """Another start of ours said this, rightly signed."""
        contact = claim.contact
        if contact is None or self._open:
            return  # it will be heard again: it is answered to whatever we say of ourselves
        elsewhere = [address for address in contact.addresses if address not in self._own.addresses]
        if claim.rank is Rank.LEFT or not elsewhere:
            self._outlive(claim)
            return
        self._asked, self._open = claim, len(elsewhere)
        deadline = self._context.now + self._context.config.clone_check
        for address in elsewhere:
            envelope = self._exchange.envelope(Kind.PING, None)
            self._context.call_address(address, envelope, deadline, Purpose.CLONE_CHECK)

    def answered(self, sender: NodeId, envelope: Envelope) -> None:
        """Somebody is where the other start should be."""
        if sender == self._context.me:
            self.meet(envelope)
        self.silent()

    def silent(self) -> None:
        """Nobody who matters is there; a twin that is younger than we are has heard so from our call."""
        self._open -= 1
        claim = self._asked
        if not self._open and claim is not None and not self._has_yielded:
            self._asked = None
            self._outlive(claim)

    def meet(self, envelope: Envelope) -> None:
        """Who calls us or answers has our key: we ourselves, by an address we did not know, or a twin."""
        start = envelope.start
        if start is None or start.nonce == self._own.nonce:
            return
        if self._is_younger_than(start, is_announced=envelope.claim is not None):
            self._yield()

    def _is_younger_than(self, twin: Start, *, is_announced: bool) -> bool:
        if self._own.is_announced != is_announced:
            return is_announced
        apart = self._own.start(self._context.now).age - twin.age
        # Its age is as old as its message: a difference no greater than that may look otherwise from there.
        if abs(apart) > self._context.config.sync_timeout:
            return apart < 0
        return self._own.nonce < twin.nonce

    def _outlive(self, claim: Claim) -> None:
        assert claim.contact is not None
        nonce = claim.contact.nonce
        if not self._own.is_outbid_by(claim):
            return
        self._outlived[nonce] += 1
        if self._outlived[nonce] > OUTLIVED_MAX and self._own.nonce < nonce:
            self._yield()
        else:
            self._own.outlive(claim)

    def _yield(self) -> None:
        if not self._has_yielded:
            self._has_yielded = True
            detail = "another node runs under this identity"
            self._context.event(EventKind.CLONE, self._context.me, detail)
