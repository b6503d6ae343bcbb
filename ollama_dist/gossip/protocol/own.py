"""This member's own record: the only one it writes, and nobody else may."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.context import Context
from ollama_dist.gossip.protocol.effects import Persist
from ollama_dist.gossip.protocol.members import Row
from ollama_dist.gossip.protocol.messages import (
    GENERATION_LIMIT,
    GENERATION_STEP,
    Claim,
    Contact,
    DigestEntry,
    Hot,
    Rank,
    Standing,
    Start,
)

INCARNATION_LIMIT: Final = 2**32 - 1
REACH_KEY: Final = "~reach"
"""Under this key of its slow state a member tells whom it cannot talk to; the protocol writes no other."""
REACH_MAX: Final = 16
FORGOTTEN_KEY: Final = "~forgot"
"""And under this one which of the dead it was told to forget, by id and life."""
FORGOTTEN_MAX: Final = 64
_NOBODY: Final[frozenset[NodeId]] = frozenset()
_FORGOTTEN_CHARS: Final = 16 + 16 + 8
_OUTLIVABLE: Final = GENERATION_LIMIT - GENERATION_STEP


class Own:
    """Signs, refutes, publishes, leaves."""

    def __init__(self, context: Context, contact: Contact, sign: Callable[[bytes], bytes]) -> None:
        self._context = context
        self._contact = contact
        self._sign = sign
        self._peers: tuple[str, ...] = ()
        self._may_differ = False
        self._persisted_at = float("-inf")
        self._hot_floor = 0
        """A version of our load that somebody else gave out."""
        self._state_outbid_at = float("-inf")
        self.row: Row
        self._other_start: Callable[[Claim], None] = self.outlive
        self.is_announced = False
        """Whether others are told of us: not before we have looked whether somebody else is us."""

    def connect(self, other_start: Callable[[Claim], None]) -> None:
        """Whom to tell of what another start of ours says."""
        self._other_start = other_start

    def begin(self, generation: int) -> None:
        claim = self._signed(Standing(generation, 0, Rank.ALIVE))
        self.row = Row(
            self._context.me, claim.standing, claim, since=self._context.now, reason="started here"
        )
        self._context.members.add(self.row)
        self.persist()

    @property
    def claim(self) -> Claim:
        return self.row.signed

    @property
    def nonce(self) -> int:
        return self._contact.nonce

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._contact.addresses

    def start(self, now: float) -> Start:
        return Start(self.nonce, now - self.row.since)

    def announce(self) -> None:
        self.is_announced = True
        self._context.rumours.add(self.claim)

    def hear(self, claim: Claim, *, verified: Callable[[Claim], bool]) -> None:
        """Somebody says something about us: contradict an accusation, look after another start."""
        mine, said = self.claim.standing, claim.standing
        if claim.rank in (Rank.SUSPECT, Rank.DEAD):
            if said.life == mine.life and not mine.rank.is_gone and self._context.config.rules.refutation:
                self._context.health.worse()
                self._context.count("refuted")
                self._renew(mine.generation, mine.incarnation + 1)
            elif said.life < mine.life and self.is_announced:
                self._context.answers.append(self.claim)
        elif self._matters(claim) and said.generation < _OUTLIVABLE and verified(claim):
            self._other_start(claim)

    def _matters(self, claim: Claim) -> bool:
        """Before we are announced any other start does: we may be a copy of one that runs."""
        return self.is_outbid_by(claim) or (not self.is_announced and not self._is_of_this_start(claim))

    def is_outbid_by(self, claim: Claim) -> bool:
        """Whether another start of ours, with a newer disk or the same one, is believed before this one."""
        said, mine = claim.standing, self.claim.standing
        is_other_start = not self._is_of_this_start(claim)
        return said.life > mine.life or (said.generation == mine.generation and is_other_start)

    def _is_of_this_start(self, claim: Claim) -> bool:
        return claim.contact is not None and claim.contact.nonce == self.nonce

    def outlive(self, claim: Claim) -> None:
        """Go beyond what another start of ours said."""
        self._context.count("outlived_own_past")
        self._renew(self._generation_after(claim.standing.generation), 0)
        self.persist()

    def leave(self) -> None:
        standing = Standing(self.claim.standing.generation, self.claim.standing.incarnation, Rank.LEFT)
        self._become(self._signed(standing))

    def publish_load(self, data: bytes) -> None:
        version = max(self._hot_floor, self.row.hot.version if self.row.hot else 0) + 1
        self._context.members.load(self.row, Hot(version, data), self._context.now)

    def outbid(self, told: DigestEntry) -> None:
        """Others have load or state of this life that we never wrote: go beyond it, that nobody believes it.

        Somebody lies, or a start before this one used the same generation.
        """
        context, cold, mine = self._context, self.row.cold, self.claim.standing
        if told.generation != mine.generation or mine.rank.is_gone:
            return
        ours = max(self._hot_floor, self.row.hot.version if self.row.hot else 0)
        if told.hot > ours:
            context.count("load_outbid")
            self._hot_floor = told.hot
            if self.row.hot is not None:
                pause = context.config.hot_pause(context.size)
                context.alarms.set("load", max(context.now, self.row.hot_at + pause))
        is_due = context.now - self._state_outbid_at >= context.config.sync_timeout
        if (told.gc, told.cold) > (cold.gc, cold.version) and is_due:
            context.count("state_outbid")
            self._state_outbid_at = context.now
            self._renew(
                self._generation_after(mine.generation), 0
            )  # with which everybody forgets what it had of us
            self.persist()

    def publish_reach(self, unreachable: list[NodeId]) -> bool:
        """Tell whom we cannot talk to; False when that is no news."""
        if unreachable:
            value = "".join(sorted(unreachable)[:REACH_MAX]).encode()
            changed = self.row.cold.set(REACH_KEY, value)
        else:
            changed = self.row.cold.delete(REACH_KEY, self._context.config.tombstones_max)
        if changed:
            self._context.members.touch(self.row)
        return changed

    def publish_forgotten(self, forgotten: list[Row]) -> None:
        """Tell which of the dead an operator wants to hear of no more; the others need not be asked."""
        lives = sorted(((row.id, row.standing) for row in forgotten), key=lambda each: each[0])
        value = "".join(f"{member}{life.generation:016x}{life.incarnation:08x}" for member, life in lives)
        if value:
            changed = self.row.cold.set(FORGOTTEN_KEY, value[: FORGOTTEN_MAX * _FORGOTTEN_CHARS].encode())
        else:
            changed = self.row.cold.delete(FORGOTTEN_KEY, self._context.config.tombstones_max)
        if changed:
            self._context.members.touch(self.row)

    def persist(self) -> None:
        """Keep what the next start needs."""
        self._peers = self._living_addresses()
        gone = sorted((row for row in self._context.members if not row.is_living), key=lambda row: -row.since)
        told = tuple(row.as_gone() for row in gone if row.id != self._context.me)
        self._context.effects.append(Persist(self.claim.standing.generation, self._peers, told))

    def peers_changed(self) -> None:
        """Others came, went or moved: `persist_if_changed` will look."""
        self._may_differ = True

    def persist_if_changed(self, *, at_once: bool = False) -> None:
        """Keep where the others are, once a period at most: when many come, each is not worth a write."""
        is_due = at_once or self._context.now - self._persisted_at >= self._context.period
        if self._may_differ and is_due:
            self._may_differ = False
            if self._living_addresses() != self._peers:
                self.persist()
                self._persisted_at = self._context.now

    def _living_addresses(self) -> tuple[str, ...]:
        return tuple(sorted({address for row in self._context.others() for address in row.addresses}))

    def _generation_after(self, generation: int) -> int:
        return generation + 1 + self._context.rng.randrange(GENERATION_STEP)

    def _renew(self, generation: int, incarnation: int) -> None:
        if incarnation > INCARNATION_LIMIT:
            generation, incarnation = self._generation_after(generation), 0
        self._become(self._signed(Standing(generation, incarnation, Rank.ALIVE)))

    def _become(self, claim: Claim) -> None:
        self.row.signed, self.row.standing = claim, claim.standing
        self._context.members.touch(self.row)
        self._context.rumours.forget(self._context.me)
        if self.is_announced:
            self._context.rumours.add(claim)

    def _signed(self, standing: Standing) -> Claim:
        bare = Claim(self._context.me, standing, self._contact)
        return Claim(self._context.me, standing, self._contact, signature=self._sign(bare.signed_part()))


def unreachable_of(row: Row) -> frozenset[NodeId]:
    """Whom a member says it cannot talk to."""
    value = row.cold.get(REACH_KEY)
    if value is None:
        return _NOBODY
    text = value.decode("ascii", "replace")
    return frozenset(NodeId(text[start : start + 16]) for start in range(0, len(text), 16))


def forgotten_of(row: Row) -> dict[NodeId, tuple[int, int]]:
    """Whom a member was told to forget, and the life it means: a newer one is nobody's to forget."""
    value = row.cold.get(FORGOTTEN_KEY)
    if value is None:
        return {}
    text = value.decode("ascii", "replace")
    found = {}
    for start in range(0, len(text), _FORGOTTEN_CHARS):
        entry = text[start : start + _FORGOTTEN_CHARS]
        with suppress(ValueError):
            found[NodeId(entry[:16])] = int(entry[16:32], 16), int(entry[32:], 16)
    return found
