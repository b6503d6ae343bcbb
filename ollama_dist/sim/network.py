"""A cluster of membership state machines on a network that exists in memory only, at virtual time.

Everything that happens is an event on one heap; the same seed gives the same history. Faults are switches:
a node can be crashed (its machine then refuses connections), silenced (nothing comes out of its machine),
paused, restarted; a link can be cut in one direction or both; messages can be late or lost.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Final

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
from ollama_dist.gossip.protocol.messages import Contact, Envelope

LATENCY_S: Final = (0.0002, 0.002)
"""One way, uniformly: a quiet local network."""

Check = Callable[["VirtualNode"], None]


def virtual_id(name: str) -> NodeId:
    return NodeId(sha256(name.encode()).hexdigest()[:16])


def sign_as(member: NodeId) -> Callable[[bytes], bytes]:
    """A stand-in for a signature: as unforgeable as nobody's trying makes it."""
    return lambda data: sha256(member.encode() + data).digest()


def verify(member: NodeId, public_key: bytes, data: bytes, signature: bytes) -> bool:
    return public_key == member.encode() and signature == sha256(member.encode() + data).digest()


@dataclass
class VirtualNode:
    """One machine with one member on it."""

    name: str
    address: str
    id: NodeId
    core: Membership
    generation: int = 0
    peers: tuple[str, ...] = ()
    is_up: bool = True
    is_paused: bool = False
    is_silent: bool = False
    held: list[Callable[[], None]] = field(default_factory=list)
    """What happens to it as soon as it is not paused any more."""
    events: list[tuple[float, Event]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    life: int = 0
    """Starts so far: what was meant for an earlier one is lost."""

    def states(self) -> dict[NodeId, MemberState]:
        return {view.id: view.state for view in self.core.members()}

    def view_of(self, other: "VirtualNode") -> MemberView:
        view = self.core.member(other.id)
        assert view is not None, f"{self.name} does not know {other.name}"
        return view


class VirtualNetwork:
    """Runs nodes against each other. ``check`` is called after every input, with the node that had it."""

    def __init__(
        self,
        seed: int = 0,
        *,
        config: GossipConfig = LAN,
        loss: float = 0.0,
        latency: tuple[float, float] = LATENCY_S,
        check: Check | None = None,
    ) -> None:
        self.now = 0.0
        self.rng = Random(seed)
        self.config = config
        self.loss = loss
        self.latency = latency
        self.nodes: dict[str, VirtualNode] = {}
        self.cut: set[tuple[str, str]] = set()
        """Directed pairs of names between which nothing passes."""
        self.calls = 0
        self._check = check
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._requests: dict[int, Callable[[Envelope], None]] = {}
        self._by_address: dict[str, VirtualNode] = {}

    # How nodes come and go

    def add(
        self, name: str, *, seeds: Iterable[str] = (), generation: int = 1, identity: str = ""
    ) -> VirtualNode:
        """Start a new node; ``seeds`` are names of others, ``identity`` whose disk it was copied from."""
        address = f"{name}:1"
        member = virtual_id(identity or name)
        node = VirtualNode(name, address, member, self._core(member, address))
        self.nodes[name] = self._by_address[address] = node
        self._start(node, generation, seeds)
        return node

    def cluster(self, size: int) -> list[VirtualNode]:
        """``size`` nodes called n0, n1, … that join through the first."""
        return [self.add(f"n{index}", seeds=["n0"] if index else ()) for index in range(size)]

    def crash(self, node: VirtualNode) -> None:
        """The process is gone; its machine says so to whoever connects."""
        node.is_up = False
        node.life += 1

    def silence(self, node: VirtualNode) -> None:
        """The machine is gone: nobody answers, not even with a refusal."""
        self.crash(node)
        node.is_silent = True

    def restart(self, node: VirtualNode, *, seeds: Iterable[str] = (), keeps_disk: bool = True) -> None:
        if node.is_up:
            self.crash(node)
        node.is_up, node.is_silent, node.is_paused = True, False, False
        node.held.clear()
        generation = node.generation + 1 if keeps_disk else 1
        known = node.peers if keeps_disk else ()
        node.core = self._core(node.id, node.address)
        self._start(node, generation, seeds, known)

    def pause(self, node: VirtualNode, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after ``seconds``."""
        node.is_paused = True
        began, life = self.now, node.life

        def resume() -> None:
            if node.life != life:
                return
            node.is_paused = False
            held, node.held = node.held, []
            self._do(node, node.core.stall(self.now, self.now - began))
            for event in held:
                event()

        self.at(self.now + seconds, resume)

    def part(self, one: Iterable[VirtualNode], other: Iterable[VirtualNode]) -> None:
        """Nothing passes between the two groups."""
        ours, theirs = list(one), list(other)
        for a in ours:
            for b in theirs:
                self.cut |= {(a.name, b.name), (b.name, a.name)}

    def heal(self) -> None:
        self.cut.clear()

    # Running

    def at(self, time: float, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, event))

    def run(self, seconds: float) -> None:
        """Let ``seconds`` of virtual time pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, event = heapq.heappop(self._heap)
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
        return all(
            {view.id for view in node.core.members() if view.state is MemberState.ALIVE} == running
            for node in self.living()
        )

    # How things happen

    def _core(self, me: NodeId, address: str) -> Membership:
        contact = Contact((address,), me.encode(), nonce=self.rng.getrandbits(64))
        rng = Random(self.rng.getrandbits(64))
        return Membership(me, contact, sign=sign_as(me), verify=verify, config=self.config, rng=rng)

    def _start(
        self, node: VirtualNode, generation: int, seeds: Iterable[str], known: Iterable[str] = ()
    ) -> None:
        for seed in seeds:
            self._do(node, node.core.candidate(self.now, f"{seed}:1", is_lasting=True))
        for address in known:
            self._do(node, node.core.candidate(self.now, address, is_lasting=True))
        self._do(node, node.core.start(self.now, generation))

    def _later(self, node: VirtualNode, time: float, happen: Callable[[], list[Effect]]) -> None:
        """Give ``node`` an input at ``time`` if it is the same life then; a paused one gets it afterwards."""
        life = node.life

        def event() -> None:
            if not node.is_up or node.life != life:
                return
            if node.is_paused:
                node.held.append(event)
            else:
                self._do(node, happen())

        self.at(time, event)

    def _do(self, node: VirtualNode, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Call():
                    self._call(node, effect)
                case Respond(request, envelope):
                    if answer := self._requests.pop(request, None):
                        answer(envelope)
                case WakeAt(time, number):
                    self._wake(node, time, number)
                case Event():
                    node.events.append((self.now, effect))
                case Persist(generation, peers, _):
                    node.generation, node.peers = generation, peers
                case Count(what):
                    node.counts[what] = node.counts.get(what, 0) + 1
        if self._check is not None:
            self._check(node)

    def _wake(self, node: VirtualNode, time: float, number: int) -> None:
        self._later(node, time, lambda: node.core.tick(self.now, number))

    def _call(self, caller: VirtualNode, call: Call) -> None:
        self.calls += 1
        callee = next((self._by_address[a] for a in call.addresses if a in self._by_address), None)
        settled = False

        def settle(time: float, happen: Callable[[], list[Effect]]) -> None:
            nonlocal settled
            if not settled:
                settled = True
                self._later(caller, time, happen)

        def fail(time: float, why: Failure) -> None:
            settle(time, lambda: caller.core.call_failed(self.now, call.token, why))

        self.at(call.deadline, lambda: fail(self.now, Failure.TIMEOUT))
        if callee is None:
            fail(self.now + self._delay(), Failure.UNREACHABLE)
            return
        if (caller.name, callee.name) in self.cut or callee.is_silent or self._is_lost():
            return
        arrives = self.now + self._delay()
        if not callee.is_up:
            fail(arrives + self._delay(), Failure.REFUSED)
            return
        if call.peer is not None and call.peer != callee.id:
            fail(arrives + self._delay(), Failure.REJECTED)
            return

        def answer(envelope: Envelope) -> None:
            if (callee.name, caller.name) in self.cut or self._is_lost():
                return
            back = self.now + self._delay()
            settle(back, lambda: caller.core.reply(self.now, call.token, callee.id, envelope))

        self._order += 1
        request = self._order
        self._requests[request] = answer
        self._later(callee, arrives, lambda: callee.core.message(self.now, request, caller.id, call.envelope))

    def _delay(self) -> float:
        return self.rng.uniform(*self.latency)

    def _is_lost(self) -> bool:
        return self.loss > 0 and self.rng.random() < self.loss


def event_times(node: VirtualNode, kind: EventKind, member: VirtualNode) -> list[float]:
    """When ``node`` told of ``kind`` about ``member``."""
    return [time for time, event in node.events if event.kind is kind and event.member == member.id]
