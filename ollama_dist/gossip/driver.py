"""Carries out what the membership state machine decides: calls, timers, files, and telling the node.

It decides nothing itself. Each input is handed in with the loop's time; what comes back is done in order.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import Final

import grpc
import structlog

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip import codec
from ollama_dist.gossip.addresses import announced, interface_addresses
from ollama_dist.gossip.calls import CallFailed
from ollama_dist.gossip.channels import Channels
from ollama_dist.gossip.counters import Counters
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.dialing import split_host_port
from ollama_dist.gossip.discovery import Discovery, SeenCluster, Sighting, join_host_port
from ollama_dist.gossip.identity import Identity, verify
from ollama_dist.gossip.protocol.config import LAN, GossipConfig
from ollama_dist.gossip.protocol.core import Membership
from ollama_dist.gossip.protocol.effects import (
    Call,
    Count,
    Effect,
    Event,
    EventKind,
    Failure,
    Gone,
    MemberView,
    Persist,
    Respond,
    Updated,
    WakeAt,
)
from ollama_dist.gossip.protocol.messages import GENERATION_STEP, Contact, Envelope, Kind
from ollama_dist.gossip.server import Refused, Server
from ollama_dist.gossip.store import Memory, Store
from ollama_dist.gossip.subscribers import Subscriber, Subscribers
from ollama_dist.runtime.tasks import Tasks

log = structlog.get_logger()

STALL_PERIODS: Final = 2
"""A tick that comes so many probe periods late means that this process did not run (rule 8)."""

TIMER_S: Final = 0.001
"""uvloop's timers count in whole milliseconds, and most ring up to one of them before their time."""

GOODBYE_S: Final = 1.0
"""Saying good-bye takes no longer, whoever hears it."""


TROUBLES_MAX: Final = 64
"""Addresses of which it is remembered why nobody was met there."""


@dataclass(frozen=True, slots=True)
class GossipSettings:
    """What a node is told about its membership."""

    host: str = "0.0.0.0"
    """Where to listen for members."""
    ports: Sequence[int] = (0,)
    """The first free one is taken; 0 is any."""
    advertise: tuple[str, ...] = ()
    """``host:port`` to announce, at most four; empty: found out (`addresses`)."""
    seeds: tuple[str, ...] = ()
    """``host:port`` of members to find the cluster by."""
    mdns: bool = True
    mdns_interfaces: tuple[str, ...] = ()
    """Addresses of the interfaces to use; empty: all, or loopback alone for who listens on loopback alone."""
    kept_state: tuple[str, ...] = ("node",)
    """Keys of the slow state that is remembered of members that are gone."""
    memory: Path | None = None
    """The file that remembers the cluster; None remembers nothing."""
    config: GossipConfig = LAN


class Driver:
    """One life of one member. Start it once, stop it once.

    ``services`` are further gRPC services for members, on the same listener.
    """

    def __init__(
        self,
        credentials: Credentials,
        settings: GossipSettings,
        services: Sequence[grpc.GenericRpcHandler] = (),
    ) -> None:
        self._credentials = credentials
        self._settings = settings
        self._core: Membership | None = None
        self._counters = Counters()
        self._channels = Channels(credentials, self.hint, slowness=self._slowness)
        self._server = Server(credentials, self._answer, self._counters.add, services)
        self._store = Store(settings.memory) if settings.memory is not None else None
        self._memory = Memory()
        self._discovery: Discovery | None = None
        self._tasks = Tasks()
        self._requests: dict[int, asyncio.Future[Envelope]] = {}
        self._request = 0
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at = float("inf")
        self._seed_troubles: dict[str, CallFailed] = {}
        self._subscribers = Subscribers()
        self._departed = asyncio.Event()
        self._last_input = float("-inf")
        self.port = 0
        """Where it listens, once it is started."""
        self.addresses: tuple[str, ...] = ()
        """Under which others reach this member, once it is started."""
        self.is_clone = False
        """Whether another process runs under this identity: then this one stays outside."""

    # Life

    async def start(self) -> None:
        """Listen, look for the cluster, take part. Raises `ConfigError` when no port can be had."""
        settings = self._settings
        self.port = await self._server.start(settings.host, settings.ports)
        self.addresses = announced(settings.advertise, settings.host, self.port, interface_addresses())
        contact = Contact(self.addresses, self.identity.public_key, secrets.randbits(64))
        core = Membership(
            self.identity.id,
            contact,
            sign=self.identity.sign,
            verify=verify,
            config=settings.config,
            rng=SystemRandom(),
        )
        Context().run(self._begin, core)
        log.info("membership_started", node=self.id, port=self.port, addresses=self.addresses)
        await self._discover()

    def _begin(self, core: Membership) -> None:
        memory = self._memory = self._store.load() if self._store is not None else Memory()
        now = time.monotonic()
        self._remember(core, now)
        for address in (*self._settings.seeds, *memory.peers_in(self.identity.cluster_id)):
            self._do(core.candidate(now, address, is_lasting=True))
        # A first start takes the time for a number that is surely new; it is never compared with a clock.
        later = memory.generation + 1 + secrets.randbelow(GENERATION_STEP)
        effects = core.start(now, later if memory.generation else int(time.time() * 1000))
        self._core = core
        self._do(effects)

    async def stop(self, *, leave: bool = True) -> None:
        """End it; with ``leave`` the others are told first, which takes `GOODBYE_S` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S), asyncio.TaskGroup() as goodbyes:
                if leave and self._core is not None and self._core.is_member:
                    self._input(lambda core, now: core.leave(now))
                    goodbyes.create_task(self._departed.wait())
                if self._discovery is not None:
                    goodbyes.create_task(self._discovery.stop())
        self._withdraw()
        await self._channels.stop()
        await self._server.stop()
        await self._tasks.stop()
        if self._store is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._store.save(self._memory)

    def _withdraw(self) -> None:
        """Take no more part; whoever calls is told that nobody is here."""
        self._core = None
        for waiting in self._requests.values():
            if not waiting.done():
                waiting.set_exception(Refused(grpc.StatusCode.UNAVAILABLE))
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
            self._wake_at = float("inf")

    # What the node may ask and say

    @property
    def identity(self) -> Identity:
        """By the newest key."""
        return self._credentials.newest

    @property
    def id(self) -> NodeId:
        return self.identity.id

    @property
    def cluster_id(self) -> str:
        return self.identity.cluster_id

    def members(self) -> tuple[MemberView, ...]:
        """All members, this one and the dead of the last day included; the address that works comes first."""
        if self._core is None:
            return ()
        return tuple(self._with_working_address(view) for view in self._core.members())

    def member(self, member: NodeId) -> MemberView | None:
        """One of `members`."""
        view = self._core.member(member) if self._core is not None else None
        return self._with_working_address(view) if view is not None else None

    def subscribe(self, changed: Subscriber) -> Callable[[], None]:
        """``changed`` is called soon after something about members changed, once for all that changed.

        Calling what is returned ends that.
        """
        return self._subscribers.add(changed)

    def set_load(self, data: bytes) -> None:
        """This member's load, opaque, at most 64 bytes; told to the others when the pace allows."""
        self._input(lambda core, now: core.set_load(now, data))

    def set_state(self, key: str, value: bytes | None) -> None:
        """An entry of this member's slow state, opaque, at most 4 KiB; None takes it away."""
        self._input(lambda core, now: core.set_state(now, key, value))

    def hint(self, member: NodeId) -> None:
        """A connection to ``member`` was lost or refused: have a look at once."""
        self._input(lambda core, now: core.hint(now, member))

    def renew(self) -> None:
        """The credentials have changed: connections are made anew."""
        self._channels.renew()

    def renew_to(self, member: NodeId) -> None:
        """``member`` has the newest key now: the connection to it is made by that."""
        self._channels.renew_to(member)

    async def ask(self, member: MemberView, method: str, payload: bytes, timeout: float) -> bytes:
        """A call beside membership, of a service of the member's listener. Raises `CallFailed`."""
        return await self._channels.ask(member.id, member.addresses, method, payload, timeout)

    def expel(self, member: NodeId, reason: str) -> None:
        """``member`` is none any more; until the listener lets it in again, whoever speaks for it."""
        self._input(lambda core, now: core.expel(now, member, reason))

    def forget(self, member: NodeId) -> None:
        """List a dead member no more."""
        self._input(lambda core, now: core.forget(now, member))

    def add_seed(self, address: str) -> None:
        """Somebody of the cluster may be at ``address`` (``host:port``): try it, again and again."""
        self._add_candidate(address, is_lasting=True)

    def seen_clusters(self) -> tuple[SeenCluster, ...]:
        """Other clusters on this network, seen and not joined."""
        return self._discovery.seen_clusters if self._discovery is not None else ()

    def seed_troubles(self) -> dict[str, CallFailed]:
        """Why no member was met at a seed the last time it was tried, by its address."""
        return dict(self._seed_troubles)

    def counters(self) -> dict[str, int]:
        """What happened how often since the start, and what is so now (`GAUGES`)."""
        health, late = (self._core.local_health, self._core.late) if self._core is not None else (0, 0.0)
        now = {"channels": len(self._channels), "local_health": health, "loop_lag_ms": round(late * 1000)}
        return self._counters.told() | now

    # Inputs

    def _input(self, step: Callable[[Membership, float], list[Effect]]) -> None:
        """Hand something in, and before it how long this process stood still, if it did.

        It may come with a request; what follows from it, at once or later, is logged as nobody's.
        """
        if self._core is not None:
            Context().run(self._hand_in, self._core, step)

    def _hand_in(self, core: Membership, step: Callable[[Membership, float], list[Effect]]) -> None:
        now = time.monotonic()
        try:
            if (gap := self._gap(now)) > STALL_PERIODS * core.period:
                log.warning("stalled", seconds=round(gap, 3))
                self._counters.add("stalls")
                self._do(core.stall(now, gap))
            self._do(step(core, now))
        except Exception:  # membership goes on without this input rather than end unnoticed
            self._counters.add("failed_inputs")
            log.exception("membership_failed")
        self._last_input = now

    def _gap(self, now: float) -> float:
        """For how long nothing ran here although something was to be done."""
        return now - max(self._wake_at, self._last_input)

    def _slowness(self) -> int:
        return self._core.slowness if self._core is not None else 1

    def _tick(self, number: int) -> None:
        ringing = self._wake
        self._input(lambda core, now: core.tick(now, number))
        if self._wake is ringing and self._core is not None:  # it wishes for nothing more, or it failed
            self._set_wake(time.monotonic() + self._core.period, number)

    def _set_wake(self, when: float, number: int) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake_at = when
        self._wake = asyncio.get_running_loop().call_later(_until(when), self._tick, number)

    # Effects

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Call():
                    self._tasks.start(self._call(effect), f"{effect.kind} {effect.peer or effect.addresses}")
                case Respond(request, envelope):
                    waiting = self._requests.pop(request, None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(envelope)
                case WakeAt(when, number):
                    self._set_wake(when, number)
                case Event():
                    self._note(effect)
                case Updated(members):
                    self._counters.add("event_updated", len(members))
                    self._subscribers.tell_soon(*members)
                case Persist(generation, peers, gone):
                    lost = tuple(self._to_keep(each) for each in gone)
                    self._memory = self._memory.renewed(generation, self.cluster_id, peers, lost)
                    if self._store is not None:
                        self._tasks.start(self._store.save(self._memory), "save membership")
                case Count(what):
                    self._counters.add(what)

    def _to_keep(self, gone: Gone) -> Gone:
        """By the clock on the wall, which goes on while no node runs."""
        since = time.time() - (time.monotonic() - gone.since)
        state = {key: gone.state[key] for key in self._settings.kept_state if key in gone.state}
        return replace(gone, since=since, state=state)

    def _remember(self, core: Membership, now: float) -> None:
        """Who was gone already, and not for longer than they are listed."""
        for gone in self._memory.gone_from(self.cluster_id):
            age = max(0.0, time.time() - gone.since)
            if age < self._settings.config.dead_kept:
                self._do(core.remember(now, replace(gone, since=now - age)))

    def _note(self, event: Event) -> None:
        self._counters.add(f"event_{event.kind}")
        tell = log.warning if event.kind in _ALARMING else log.debug
        tell(f"member_{event.kind}", member=event.member, detail=event.detail)
        if event.kind is EventKind.DEPARTED:
            self._departed.set()
        if event.kind is EventKind.CLONE:
            self.is_clone = True
            self._withdraw()
        self._subscribers.tell_soon(event.member)

    # Calls to others

    async def _call(self, call: Call) -> None:
        try:
            sender, envelope = await self._ask(call)
        except CallFailed as failure:
            kind = failure.kind
            self._counters.add(f"call_{kind}")
            log.debug("call_failed", kind=call.kind, peer=call.peer, failure=kind, detail=str(failure))
            if failure.is_rotated:
                self._note_trouble(call.addresses[0], failure)
            self._input(lambda core, now: core.call_failed(now, call.token, kind))
        else:
            self._input(lambda core, now: core.reply(now, call.token, sender, envelope))

    async def _ask(self, call: Call) -> tuple[NodeId, Envelope]:
        """Who replied, and what. Raises `CallFailed`."""
        try:
            payload = codec.encode(call.envelope)
            self._counters.add_traffic("out", call.envelope, payload)
            sender = call.peer
            if sender is None:
                sender = await self._meet(call.addresses[0], self._left(call))
            reply = await self._channels.call(sender, call.addresses, call.kind, payload, self._left(call))
            envelope = codec.decode(call.kind, reply)
            self._counters.add_traffic("in", envelope, reply)
            return sender, envelope
        except (codec.Malformed, codec.TooLong) as error:
            self._counters.add("malformed" if isinstance(error, codec.Malformed) else "too_long")
            raise CallFailed(Failure.REJECTED, str(error)) from error

    async def _meet(self, address: str, timeout: float) -> NodeId:
        """Who is at ``address``. Raises `CallFailed`; where a person named the address, they are told."""
        if address not in self._settings.seeds and address not in self._seed_troubles:
            return await self._channels.meet(address, timeout)
        try:
            met = await self._channels.meet(address, timeout)
        except CallFailed as failure:
            self._note_trouble(address, failure)
            raise
        self._seed_troubles.pop(address, None)
        return met

    def _note_trouble(self, address: str, failure: CallFailed) -> None:
        known = self._seed_troubles.get(address)
        if known is None or (known.kind, known.is_rotated) != (failure.kind, failure.is_rotated):
            log.warning("seed_not_met", address=address, failure=failure.kind, detail=str(failure))
        while address not in self._seed_troubles and len(self._seed_troubles) >= TROUBLES_MAX:
            del self._seed_troubles[next(iter(self._seed_troubles))]
        self._seed_troubles[address] = failure

    def _left(self, call: Call) -> float:
        return call.deadline - time.monotonic()

    # Calls from others

    async def _answer(self, peer: NodeId, kind: Kind, payload: bytes) -> bytes:
        if self._core is None:
            raise Refused(grpc.StatusCode.UNAVAILABLE)
        try:
            envelope = codec.decode(kind, payload)
        except codec.Malformed as error:
            self._counters.add("malformed")
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT) from error
        self._counters.add_traffic("in", envelope, payload)
        self._request += 1
        request = self._request
        answer = self._requests[request] = asyncio.get_running_loop().create_future()
        self._input(lambda core, now: core.message(now, request, peer, envelope))
        try:
            async with asyncio.timeout(self._settings.config.sync_timeout):
                reply = codec.encode(said := await answer)
                self._counters.add_traffic("out", said, reply)
                return reply
        except TimeoutError as error:
            raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED) from error
        except codec.TooLong as error:
            self._counters.add("too_long")
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED) from error
        finally:
            self._requests.pop(request, None)

    # Finding each other

    async def _discover(self) -> None:
        if not self._settings.mdns:
            return
        # What is asked to be announced may lie beyond this network: here it is told where it really listens.
        local = announced((), self._settings.host, self.port, interface_addresses())
        hosts = tuple(split_host_port(address)[0] for address in local)
        is_loopback = self._settings.host in ("127.0.0.1", "localhost")
        interfaces = self._settings.mdns_interfaces or (("127.0.0.1",) if is_loopback else ())
        me = Sighting(self.cluster_id, self.id, hosts, self.port)
        self._discovery = Discovery(me, self._sighted, interfaces)
        await self._discovery.start()

    def _sighted(self, sighting: Sighting) -> None:
        for host in sighting.addresses:
            self._add_candidate(join_host_port(host, sighting.port), is_lasting=False)

    def _add_candidate(self, address: str, *, is_lasting: bool) -> None:
        self._input(lambda core, now: core.candidate(now, address, is_lasting=is_lasting))

    def _with_working_address(self, view: MemberView) -> MemberView:
        working = self._channels.working_address(view.id)
        if working is None or view.addresses[:1] == (working,) or working not in view.addresses:
            return view
        others = (address for address in view.addresses if address != working)
        return replace(view, addresses=(working, *others))


_ALARMING: Final = (EventKind.REACH, EventKind.CLONE)


def _until(when: float) -> float:
    """The delay, in seconds, of a timer that seldom rings before ``when``: it would find nothing to do."""
    return max(0.0, when - time.monotonic()) + TIMER_S
