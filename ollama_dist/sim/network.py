"""A cluster of membership state machines on a network that exists in memory only, at virtual time.

Everything that happens is an event on one heap; the same seed gives the same history. Faults are switches:
a node can be crashed (its machine then refuses connections), silenced (nothing comes out of its machine),
paused, restarted; what happens between nodes is in `links`.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from hashlib import sha256
from random import Random
from typing import Final, Protocol

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
    MemberView,
    Persist,
    Respond,
    WakeAt,
)
from ollama_dist.gossip.protocol.messages import GENERATION_STEP, Contact, Envelope
from ollama_dist.sim.links import LATENCIES, Latency, Links

STALL_PERIODS: Final = 2
"""A process that did not run for so many probe periods tells its state machine, as the driver does."""


FIRST_GENERATION: Final = 1000
"""A start that finds nothing written down takes the time, as the driver does: a number surely new."""


_CLONE: Final = EventKind.CLONE


class Input(Enum):
    """What was handed to a state machine."""

    OWN = auto()
    """A wish of its node: start, state, load, leave."""
    TICK = auto()
    MESSAGE = auto()
    REPLY = auto()
    FAILED = auto()
    STALL = auto()


@dataclass(frozen=True, slots=True)
class Given:
    """One input, as far as watchers care."""

    kind: Input
    peer: NodeId | None = None
    """Whose message or reply it is, or who did not answer."""
    token: int = 0
    call: Call | None = None
    """Of a reply or a failure: the call it ends."""


OWN: Final = Given(Input.OWN)
TICK: Final = Given(Input.TICK)
STALL: Final = Given(Input.STALL)


class Observer(Protocol):
    """Watches a run."""

    def handled(self, node: "VirtualNode", given: Given, effects: list[Effect]) -> None:
        """``node`` was given an input and answered with ``effects``."""

    def sent(self, node: "VirtualNode", envelope: Envelope) -> None:
        """``node`` put a request or a reply on the network, wherever it ends."""


def virtual_id(name: str) -> NodeId:
    return NodeId(sha256(name.encode()).hexdigest()[:16])


def sign_as(member: NodeId) -> Callable[[bytes], bytes]:
    """A stand-in for a signature: as unforgeable as nobody's trying makes it."""
    return lambda data: sha256(member.encode() + data).digest()


def verify(member: NodeId, public_key: bytes, data: bytes, signature: bytes) -> bool:
    return public_key == member.encode() and signature == sha256(member.encode() + data).digest()


@dataclass(eq=False)
class VirtualNode:
    """One machine with one member on it."""

    name: str
    address: str
    id: NodeId
    core: Membership
    seeds: tuple[str, ...] = ()
    """Addresses that are written in its settings."""
    generation: int = 0
    peers: tuple[str, ...] = ()
    is_up: bool = True
    is_paused: bool = False
    is_silent: bool = False
    held: list[tuple[bool, Callable[[], None]]] = field(default_factory=list)
    """What happens to it as soon as it is not paused any more, and whether that is a timer."""
    events: list[tuple[float, Event]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    life: int = 0
    """Starts so far: what was meant for an earlier one is lost."""
    troubled_at: float = float("-inf")
    """When it was last started, paused, woken or otherwise kept from answering."""

    @property
    def runs(self) -> bool:
        return self.is_up and not self.is_paused

    def states(self) -> dict[NodeId, MemberState]:
        return {view.id: view.state for view in self.core.members()}

    def view_of(self, other: "VirtualNode") -> MemberView:
        view = self.core.member(other.id)
        assert view is not None, f"{self.name} does not know {other.name}"
        return view


class VirtualNetwork:
    """Runs nodes against each other; ``observers`` are told of everything that happens."""

    def __init__(
        self,
        seed: int = 0,
        *,
        config: GossipConfig = LAN,
        loss: float = 0.0,
        latency: Latency = LATENCIES["lan"],
        observers: Iterable[Observer] = (),
        keeps_events: bool = True,
    ) -> None:
        self.now = 0.0
        self.rng = Random(seed)
        self.config = config
        self.links = Links(loss, latency)
        self.nodes: dict[str, VirtualNode] = {}
        self.by_id: dict[NodeId, VirtualNode] = {}
        """The first node of each identity: a copy never takes its place."""
        self.calls = 0
        self.tells_stalls = True
        """Whether a process that stood still notices (rule 8)."""
        self.observers = list(observers)
        self._keeps_events = keeps_events
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._requests: dict[int, Callable[[Envelope], None]] = {}
        self._by_address: dict[str, VirtualNode] = {}

    @property
    def queued(self) -> int:
        """Events that are yet to come."""
        return len(self._heap)

    # How nodes come and go

    def add(
        self, name: str, *, seeds: Iterable[str] = (), generation: int = 1, identity: str = ""
    ) -> VirtualNode:
        """Start a new node; ``seeds`` are names of others, ``identity`` whose disk it was copied from."""
        node = self.prepare(name, seeds=seeds, identity=identity)
        self.begin(node, generation)
        return node

    def prepare(self, name: str, *, seeds: Iterable[str] = (), identity: str = "") -> VirtualNode:
        """A node that is yet to be started by `begin`."""
        address = f"{name}:1"
        member = virtual_id(identity or name)
        node = VirtualNode(
            name, address, member, self._core(member, address), seeds=tuple(f"{seed}:1" for seed in seeds)
        )
        self.nodes[name] = self._by_address[address] = node
        self.by_id.setdefault(member, node)
        return node

    def begin(self, node: VirtualNode, generation: int) -> None:
        node.troubled_at = self.now
        for address in (*node.seeds, *node.peers):
            self.do(node, node.core.candidate(self.now, address, is_lasting=True))
        self.do(node, node.core.start(self.now, generation + self.rng.randrange(GENERATION_STEP)))

    def cluster(self, size: int) -> list[VirtualNode]:
        """``size`` nodes called n0, n1, … that join through the first."""
        return [self.add(f"n{index}", seeds=["n0"] if index else ()) for index in range(size)]

    def crash(self, node: VirtualNode) -> None:
        """The process is gone; its machine says so to whoever connects."""
        node.is_up = False
        node.life += 1
        node.troubled_at = self.now

    def silence(self, node: VirtualNode) -> None:
        """The machine is gone: nobody answers, not even with a refusal."""
        self.crash(node)
        node.is_silent = True

    def restart(
        self,
        node: VirtualNode,
        *,
        seeds: Iterable[str] | None = None,
        keeps_disk: bool = True,
        generation: int | None = None,
    ) -> None:
        """Start it again; ``seeds`` None: those it had. ``generation``: what an older disk says."""
        if node.is_up:
            self.crash(node)
        node.is_up, node.is_silent, node.is_paused = True, False, False
        node.held.clear()
        if seeds is not None:
            node.seeds = tuple(f"{seed}:1" for seed in seeds)
        if not keeps_disk:
            node.peers = ()
        node.core = self._core(node.id, node.address)
        first = FIRST_GENERATION + int(self.now * 1000)
        self.begin(node, generation or (node.generation + 1 if keeps_disk else first))

    def pause(self, node: VirtualNode, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after ``seconds``."""
        node.is_paused = True
        node.troubled_at = began = self.now
        life = node.life
        self.at(self.now + seconds, lambda: self._resume(node, life, began))

    def _resume(self, node: VirtualNode, life: int, began: float) -> None:
        if node.life != life:
            return
        node.is_paused = False
        node.troubled_at = self.now
        # Timers that are due run before what has piled up in sockets: the order that misleads most.
        held, node.held = sorted(node.held, key=lambda each: not each[0]), []
        gap = self.now - began
        if self.tells_stalls and gap > STALL_PERIODS * self.config.period(len(self.nodes)):
            self.do(node, node.core.stall(self.now, gap), STALL)
        for _, event in held:
            event()

    def part(self, one: Iterable[VirtualNode], other: Iterable[VirtualNode]) -> None:
        """Nothing passes between the two groups."""
        ours, theirs = list(one), list(other)
        for a in ours:
            for b in theirs:
                self.links.cut |= {(a.name, b.name), (b.name, a.name)}

    def heal(self) -> None:
        self.links.heal()

    # Running

    def at(self, time: float, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, event))

    def run(self, seconds: float) -> None:
        """Let ``seconds`` of virtual time pass."""
        end = self.now + seconds
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end:
            self.now, _, event = pop(heap)
            event()
        self.now = end

    def run_until(self, condition: Callable[[], bool], *, within: float, step: float = 0.02) -> float:
        """Let time pass until ``condition`` holds; seconds it took. Fails when it does not ``within``."""
        began = self.now
        while not condition():
            assert self.now - began < within, f"not within {within} s of virtual time"
            self.run(step)
        return self.now - began

    def living(self) -> list[VirtualNode]:
        return [node for node in self.nodes.values() if node.is_up]

    def agrees(self) -> bool:
        """Whether every running node sees exactly the running ones as alive."""
        running = {node.id for node in self.living()}
        return all(_seen_alive(node) == running for node in self.living())

    # How things happen

    def do(self, node: VirtualNode, effects: list[Effect], given: Given = OWN) -> None:
        """Carry out what ``node``'s state machine answered to an input."""
        is_copy = False
        for effect in effects:
            match effect:
                case Event():
                    is_copy |= effect[0] is _CLONE
                    if self._keeps_events:
                        node.events.append((self.now, effect))
                case WakeAt(time, number):
                    self._wake(node, time, number)
                case Call():
                    self._call(node, effect)
                case Respond(request, envelope):
                    self._told(node, envelope)
                    if answer := self._requests.pop(request, None):
                        answer(envelope)
                case Persist(generation, peers, _):
                    node.generation, node.peers = generation, peers
                case Count(what):
                    node.counts[what] = node.counts.get(what, 0) + 1
        for observer in self.observers:
            observer.handled(node, given, effects)
        if is_copy:
            self.crash(node)  # as the driver does: who is a copy stays outside

    def deliver(self, sender: NodeId, receiver: VirtualNode, envelope: Envelope) -> None:
        """Hand ``receiver`` a message now that the network was not asked to carry, its reply for nobody."""
        if receiver.is_up:
            self._order += 1
            self._message(receiver, self._order, sender, envelope, self.now)

    def _core(self, me: NodeId, address: str) -> Membership:
        contact = Contact((address,), me.encode(), nonce=self.rng.getrandbits(64))
        rng = Random(self.rng.getrandbits(64))
        return Membership(me, contact, sign=sign_as(me), verify=verify, config=self.config, rng=rng)

    def _told(self, node: VirtualNode, envelope: Envelope) -> None:
        for observer in self.observers:
            observer.sent(node, envelope)

    def _later(
        self, node: VirtualNode, time: float, happen: Callable[[], list[Effect]], given: Given
    ) -> None:
        """Give ``node`` an input at ``time`` if it is the same life then; a paused one gets it afterwards."""
        self.at(time, partial(self._hand, node, node.life, happen, given))

    def _hand(self, node: VirtualNode, life: int, happen: Callable[[], list[Effect]], given: Given) -> None:
        if not node.is_up or node.life != life:
            return
        if node.is_paused:
            node.held.append((given is TICK, partial(self._hand, node, life, happen, given)))
        else:
            self.do(node, happen(), given)

    def _wake(self, node: VirtualNode, time: float, number: int) -> None:
        time += self.links.late(node.name, self.rng)
        self._later(node, time, lambda: node.core.tick(self.now, number), TICK)

    def _message(
        self, receiver: VirtualNode, request: int, sender: NodeId, envelope: Envelope, time: float
    ) -> None:
        given = Given(Input.MESSAGE, sender)
        self._later(receiver, time, lambda: receiver.core.message(self.now, request, sender, envelope), given)

    def _call(self, caller: VirtualNode, call: Call) -> None:
        self.calls += 1
        self._told(caller, call.envelope)
        links, rng = self.links, self.rng
        callee = next((self._by_address[a] for a in call.addresses if a in self._by_address), None)
        settled, life = False, caller.life
        self._order += 1
        number = self._order

        def settle(time: float, happen: Callable[[], list[Effect]], given: Given) -> None:
            nonlocal settled
            # Who comes too late finds that nobody waits any more, or somebody who never asked.
            if not settled and time <= call.deadline and caller.life == life:
                settled = True
                self._later(caller, time, happen, given)

        def fail(time: float, why: Failure) -> None:
            given = Given(Input.FAILED, call.peer, call.token, call)
            settle(time, lambda: caller.core.call_failed(self.now, call.token, why), given)

        def expire() -> None:
            self._requests.pop(number, None)
            if not settled:
                fail(self.now, Failure.TIMEOUT)

        self.at(call.deadline, expire)
        if callee is None:
            fail(self.now + links.latency.sample(rng), Failure.UNREACHABLE)
            return
        if callee.is_silent or not links.passes(caller.name, callee.name) or links.loses(rng):
            return
        arrives = self.now + links.delay(caller.name, callee.name, self.now, rng)
        if not callee.is_up or (call.peer is not None and call.peer != callee.id):
            if links.passes(callee.name, caller.name):
                why = Failure.REJECTED if callee.is_up else Failure.REFUSED
                fail(arrives + links.delay(callee.name, caller.name, arrives, rng), why)
            return

        def answer(envelope: Envelope) -> None:
            if not links.passes(callee.name, caller.name) or links.loses(rng):
                return
            back = self.now + links.delay(callee.name, caller.name, self.now, rng)
            given = Given(Input.REPLY, callee.id, call.token, call)
            settle(back, lambda: caller.core.reply(self.now, call.token, callee.id, envelope), given)

        self._requests[number] = answer
        self._message(callee, number, caller.id, call.envelope, arrives)
        if links.repeats(rng):
            again = arrives + links.delay(caller.name, callee.name, arrives, rng)
            self._order += 1
            self._message(callee, self._order, caller.id, call.envelope, again)


def _seen_alive(node: VirtualNode) -> set[NodeId]:
    return {row.id for row in node.core.inside.members if row.state is MemberState.ALIVE}


def event_times(node: VirtualNode, kind: EventKind, member: VirtualNode) -> list[float]:
    """When ``node`` told of ``kind`` about ``member``."""
    return [time for time, event in node.events if event.kind is kind and event.member == member.id]
