"""What rides on messages, and how two members bring each other up to date.

News of members rides on everything. Whoever hears a fingerprint other than his own asks for what he lacks,
with a digest of what he has (scuttlebutt); loads of others ride along while they are fresh.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.context import Context, Purpose
from ollama_dist.gossip.protocol.effects import Respond
from ollama_dist.gossip.protocol.fresh import FreshLoads
from ollama_dist.gossip.protocol.members import Row
from ollama_dist.gossip.protocol.messages import (
    VERSION_LIMIT,
    Claim,
    DigestEntry,
    Envelope,
    Hot,
    Kind,
    MemberDelta,
    Rank,
    Start,
)
from ollama_dist.gossip.protocol.own import Own

FRESH_PERIODS = 3
"""A load rides along for so many periods after it was heard."""

CLAIM_OVERHEAD = 24
"""Bytes a delta takes beside its claims, load and entries."""


class Exchange:
    """Builds envelopes and answers digests."""

    def __init__(self, context: Context, own: Own) -> None:
        self._context = context
        self._own = own
        self._wanted: dict[NodeId, None] = {}
        """Members whose fingerprint differs from ours, the longest waiting first."""
        self._synced_at = float("-inf")
        self._in_vain: dict[NodeId, tuple[int, int]] = {}
        """Fingerprints (ours, theirs) with which a synchronisation brought nothing."""
        self._spread_ticks = 0
        self._loads = FreshLoads()
        self._disputed: set[NodeId] = set()
        """Members of whom we have a later load than they themselves told last."""

    # Envelopes

    def envelope(self, kind: Kind, to: Row | None, *, target: NodeId | None = None) -> Envelope:
        """A request. Somebody suspected is told so at once (rule 2)."""
        context = self._context
        differs = to is None or to.fingerprint != context.members.fingerprint
        carries_digest = kind is Kind.SYNC or (
            kind is Kind.PING
            and differs
            and context.config.rules.anti_entropy
            and context.size <= context.config.inline_digest_max
        )
        return Envelope(
            kind=kind,
            claim=self._own_claim(to),
            fingerprint=context.members.fingerprint,
            rumours=self._news_for(to),
            hot=self._own_load(),
            digest=self.digest() if carries_digest else (),
            deltas=self._fresh_loads(to),
            target=target,
            start=self._start_for(to),
        )

    def reply(self, kind: Kind, to: Row | None, digest: tuple[DigestEntry, ...]) -> Envelope:
        """The reply to a request, with answers to stale news and with what its digest lacks."""
        context = self._context
        budget = context.config.sync_bytes if kind is Kind.SYNC else context.config.inline_sync_bytes
        answers = tuple(dict.fromkeys(context.answers))
        context.answers.clear()
        deltas = self.deltas_for(digest, budget) if digest or kind is Kind.SYNC else self._fresh_loads(to)
        return Envelope(
            kind=kind,
            claim=self._own_claim(to),
            fingerprint=context.members.fingerprint,
            rumours=answers + self._news_for(to),
            hot=self._own_load(),
            deltas=deltas,
            start=self._start_for(to),
        )

    def respond_help(self, request: int, target: Row, *, acked: bool) -> None:
        """Tell who asked us to ping ``target`` how that went."""
        context = self._context
        self._context.effects.append(
            Respond(
                request,
                Envelope(
                    Kind.PING_REQ,
                    claim=self._own.claim if self._own.is_announced else None,
                    fingerprint=context.members.fingerprint,
                    acked=acked,
                    target_claim=target.signed if acked else None,
                ),
            )
        )

    def _own_claim(self, to: Row | None) -> Claim | None:
        """Our word; without the proof for who, by its fingerprint, has that already."""
        own = self._own
        if not own.is_announced:
            return None
        if to is None or to.fingerprint != self._context.members.fingerprint or own.claim.rank.is_gone:
            return own.claim
        return Claim(own.claim.subject, own.claim.standing)

    def _start_for(self, to: Row | None) -> Start | None:
        """Who is nobody we know, or has our own id, may be a twin."""
        return self._own.start(self._context.now) if to is None or to is self._own.row else None

    def _news_for(self, to: Row | None) -> tuple[Claim, ...]:
        context = self._context
        buddy = (to.accusation,) if to is not None and to.accusation is not None else ()
        limit = context.config.retransmits(context.size)
        return buddy + context.rumours.take(context.config.piggyback_bytes, limit)

    def _own_load(self) -> Hot | None:
        row = self._own.row
        return None if row.hot is None else Hot(row.hot.version, row.hot.data, self._context.now - row.hot_at)

    def _fresh_loads(self, to: Row | None) -> tuple[MemberDelta, ...]:
        """The newest loads of others, for somebody who may not have heard them yet."""
        context = self._context
        deltas: list[MemberDelta] = []
        if to is not None and to.id in self._disputed:
            self._disputed.discard(to.id)
            if to.hot is not None:
                deltas.append(self._load_delta(to))
        for time, member in self._loads.newest(context.now - FRESH_PERIODS * context.period):
            row = context.members.get(member)
            if row is None or row.hot_at != time or row is to or not row.is_living:
                continue
            deltas.append(self._load_delta(row))
            if len(deltas) == context.config.hot_piggyback:
                break
        return tuple(deltas)

    def _load_delta(self, row: Row) -> MemberDelta:
        assert row.hot is not None
        version, data, _ = row.hot
        hot = _new(Hot, (version, data, self._context.now - row.hot_at))
        return _new(MemberDelta, (row.id, row.standing[0], (), hot, None))

    # Digests and deltas

    def digest(self) -> tuple[DigestEntry, ...]:
        """What we know, in numbers; of the dead only those that died lately.

        Before we have announced ourselves, nothing of us: others shall say what they know under our identity.
        """
        context, own = self._context, self._own
        members = context.members
        if own.is_announced and not members.gone_count:
            return tuple(members.digests.values())
        oldest = context.now - context.config.dead_in_digest
        told = (row for row in members if row.is_living or row.since > oldest)
        return tuple(members.digests[row.id] for row in told if own.is_announced or row is not own.row)

    def deltas_for(self, digest: tuple[DigestEntry, ...], budget: int) -> tuple[MemberDelta, ...]:
        """What the owner of ``digest`` lacks: members never heard of first, then the smallest pieces."""
        known = dict(zip(map(_SUBJECT, digest), digest, strict=True))
        members, hidden = self._context.members, None if self._own.is_announced else self._own.row
        of, row_of = known.get, members.row
        lacking = []
        for mine in members.unlike(known):
            theirs = of(mine[0])
            if is_load := theirs is not None and _is_load_alone(mine, theirs):
                is_newer = mine[4] > theirs[4] and not mine[3]
            else:
                is_newer = _is_newer(mine, theirs)
            if is_newer and (row := row_of(mine[0])) is not hidden:
                size = row.cold.size
                lacking.append((size if theirs is None else _KNOWN + size, row, theirs, is_load))
        lacking.sort(key=_ORDER)
        deltas = []
        for _, row, theirs, is_load in lacking:
            if budget < CLAIM_OVERHEAD:
                break
            if is_load and row.hot is not None:
                if (cost := CLAIM_OVERHEAD + len(row.hot[1]) + 8) > budget:
                    continue
                delta = self._load_delta(row)
            else:
                delta, cost = self._delta(row, theirs, budget)
                if cost > budget:
                    continue
            budget -= cost
            deltas.append(delta)
        return tuple(deltas)

    def _delta(self, row: Row, entry: DigestEntry | None, budget: int) -> tuple[MemberDelta, int]:
        standing = row.standing
        same_life = entry is not None and entry.generation == standing.generation
        if entry is not None and (entry.generation, entry.incarnation, entry.is_gone) == (
            *standing.life,
            not row.is_living,
        ):
            claims: tuple[Claim, ...] = ()
        else:
            claims = row.claims()
        cost = CLAIM_OVERHEAD + sum(claim.size for claim in claims)
        hot = None
        if row.hot is not None and not (same_life and entry is not None and entry.hot >= row.hot.version):
            hot = Hot(row.hot.version, row.hot.data, self._context.now - row.hot_at)
            cost += len(hot.data) + 8
        version, gc = (entry.cold, entry.gc) if same_life and entry is not None else (0, 0)
        lacks_state = row.is_living and (gc, version) != (row.cold.gc, row.cold.version)
        cold = row.cold.delta_for(version, gc, budget - cost) if lacks_state else None
        if cold is not None:
            cost += sum(len(each.key) + len(each.value or b"") + 12 for each in cold.entries)
        return MemberDelta(row.id, standing.generation, claims, hot, cold), cost

    def take_deltas(self, deltas: Sequence[MemberDelta], hear: Callable[[Claim], None]) -> None:
        """Take in load and slow state of members; ``hear`` is given what is claimed of each before."""
        members, own, take_load = self._context.members.get, self._own.row, self._take_newer_load
        for delta in deltas:
            subject, generation, claims, told, state = delta
            for claim in claims:
                hear(claim)
            row = members(subject)
            if row is None:
                continue
            is_of_this_life = generation == row.standing[0] and row.is_living
            if state is None and told is not None and told[0] < VERSION_LIMIT and row is not own:
                if is_of_this_life and ((known := row.hot) is None or told[0] > known[0]):
                    take_load(row, told)
            elif is_of_this_life:
                self._take_state(row, delta)

    def _take_state(self, row: Row, delta: MemberDelta) -> None:
        hot, cold, gc = _versions(delta)
        if max(hot, cold, gc) >= VERSION_LIMIT:
            self._context.count("absurd_version")
            return
        if row is self._own.row:
            self.look_for_lies(row.digest()._replace(hot=hot, cold=cold, gc=gc))
            return
        if delta.hot is not None:
            self.take_load(row, delta.hot)
        if delta.cold is not None and row.cold.apply(delta.cold):
            self._context.members.touch(row)
            self._context.updated(row.id)
            self.spread(1)

    def look_for_lies(self, told: DigestEntry) -> None:
        """Somebody told what it has of us."""
        if max(told.hot, told.cold, told.gc) < VERSION_LIMIT:
            self._own.outbid(told)

    def take_word(self, row: Row, hot: Hot) -> None:
        """The member itself told its load. Where others told a later one, it hears of that: they may lie."""
        if row.hot is not None and hot.version < row.hot.version:
            self._disputed.add(row.id)
        self.take_load(row, hot)

    def take_load(self, row: Row, hot: Hot) -> None:
        if row.hot is None or hot.version > row.hot.version:
            self._take_newer_load(row, hot)

    def _take_newer_load(self, row: Row, hot: Hot) -> None:
        context, age = self._context, hot[2]
        at = context.now - age if age > 0.0 else context.now
        context.members.load(row, hot, at)
        self._loads.add(at, row.id)
        context.updated(row.id)

    # Spreading

    def spread(self, ticks: int = 2) -> None:
        """There is something new that is not a rumour: tell some members soon, that they may fetch it."""
        self._spread_ticks = max(self._spread_ticks, ticks)
        self.wake()

    def wake(self) -> None:
        """See to it that news goes out, if there is any and somebody to tell."""
        context = self._context
        if not len(context.rumours) and not self._spread_ticks:
            return
        if context.size > self._own.row.is_living and not context.alarms.is_set("gossip"):
            context.alarms.set("gossip", context.now + context.config.gossip_interval / 4)

    def gossip(self) -> None:
        """Tell a few random members."""
        context = self._context
        self._spread_ticks = max(0, self._spread_ticks - 1)
        own, alive = self._own.row, Rank.ALIVE
        living = context.members.living()
        others = [row for row in living if row.standing[2] is alive and row is not own] or context.others()
        at_once = max(1, context.config.gossip_open_max // context.health.slowness)
        room = max(0, at_once - context.open_count(Purpose.GOSSIP))
        for row in context.some(others, min(context.config.gossip_fanout, room)):
            if not context.is_open(row.id, Kind.GOSSIP):
                context.call(row, self.envelope(Kind.GOSSIP, row), self._deadline, Purpose.GOSSIP)
        if others and (len(context.rumours) or self._spread_ticks):
            context.alarms.set("gossip", context.now + context.config.gossip_interval)

    @property
    def _deadline(self) -> float:
        return self._context.now + self._context.config.sync_timeout * self._context.health.slowness

    @property
    def _sync_pause(self) -> float:
        return self._context.config.sync_pause(self._context.size) * self._context.health.slowness

    # Synchronising

    def heard_fingerprint(self, row: Row, fingerprint: int) -> None:
        """A member told its fingerprint: if it differs from ours, it may know what we do not."""
        row.fingerprint = fingerprint
        if fingerprint != self._context.members.fingerprint:
            self.want(row.id)

    def want(self, member: NodeId) -> None:
        """Ask ``member`` for what we lack, as soon as the pace allows."""
        context = self._context
        if member == context.me or not context.config.rules.anti_entropy:
            return
        self._wanted[member] = None
        if not context.alarms.is_set("sync"):
            context.alarms.set("sync", max(context.now, self._synced_at + self._sync_pause))

    def ask_anew(self, row: Row) -> None:
        """What it told us is old by now: ask, though nothing seems to differ."""
        row.fingerprint = None
        self._in_vain.pop(row.id, None)
        self.want(row.id)

    def _most_wanted(self) -> NodeId:
        """Of those that answer the one that waits longest, else of all."""
        rows = map(self._context.members.get, self._wanted)
        near = (row.id for row in rows if row is not None and row.answers)
        return next(near, None) or next(iter(self._wanted))

    def sync(self) -> None:
        """Ask the one that waits longest and still differs."""
        context = self._context
        while self._wanted:
            member = self._most_wanted()
            del self._wanted[member]
            row = context.members.get(member)
            if row is None or not row.is_living or row.fingerprint == context.members.fingerprint:
                continue
            if self._in_vain.get(member) == (context.members.fingerprint, row.fingerprint):
                continue
            if context.call(row, self.envelope(Kind.SYNC, row), self._deadline, Purpose.SYNC):
                self._synced_at = context.now
                break
        if self._wanted:
            context.alarms.set("sync", context.now + self._sync_pause)

    def synced(self, row: Row, *, brought_news: bool) -> None:
        """A synchronisation with ``row`` ended; one that brings nothing is not repeated for nothing."""
        if brought_news or row.fingerprint is None:
            self._in_vain.pop(row.id, None)
        else:
            self._in_vain[row.id] = (self._context.members.fingerprint, row.fingerprint)

    def forget(self, member: NodeId) -> None:
        self._wanted.pop(member, None)
        self._in_vain.pop(member, None)
        self._disputed.discard(member)


def _versions(delta: MemberDelta) -> tuple[int, int, int]:
    """Of the load and the slow state that it brings, and of the deletions that are forgotten."""
    hot = delta.hot.version if delta.hot is not None else 0
    return (hot, delta.cold.end, delta.cold.gc) if delta.cold is not None else (hot, 0, 0)


_SUBJECT: Final = itemgetter(0)
_ORDER: Final = itemgetter(0)
_KNOWN: Final = 1 << 40
"""Who is known to the reader comes after all that are not."""

_new: Final = tuple.__new__
"""Makes a named tuple without the function that each has for it: that costs as much again."""


def _is_newer(mine: DigestEntry, theirs: DigestEntry | None) -> bool:
    _, generation, incarnation, is_gone, hot, cold, gc = mine
    if theirs is None:
        return not is_gone
    _, their_generation, their_incarnation, they_say_gone, their_hot, their_cold, their_gc = theirs
    if generation != their_generation:
        return generation > their_generation
    if incarnation != their_incarnation:
        return incarnation > their_incarnation
    if is_gone or they_say_gone:
        return is_gone != they_say_gone
    return hot > their_hot or (gc, cold) > (their_gc, their_cold)


def _is_load_alone(mine: DigestEntry, theirs: DigestEntry) -> bool:
    """Whether nothing but the load differs: so it is with nearly all."""
    return (
        mine[1] == theirs[1]
        and mine[2] == theirs[2]
        and mine[5] == theirs[5]
        and mine[3] == theirs[3]
        and mine[6] == theirs[6]
    )
