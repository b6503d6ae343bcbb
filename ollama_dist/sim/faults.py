"""Faults as data: what befalls a cluster, whom, when and for how long. What strikes whom is up to the seed.

On a command line a fault is its name, and parameters after a colon: ``pause:seconds=20,count=2,every=40``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from random import Random
from typing import ClassVar, Final, Self

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.protocol.messages import Claim, Contact, Envelope, Kind, Rank, Standing
from ollama_dist.sim.links import LATENCIES
from ollama_dist.sim.measures import Measures
from ollama_dist.sim.network import VirtualNetwork, VirtualNode, virtual_id


class BadFault(ValueError):
    """These words name no fault, or one with parameters it has not."""


@dataclass
class World:
    """What faults act on."""

    network: VirtualNetwork
    measures: Measures
    rng: Random
    struck: dict[str, int] = field(default_factory=dict)
    """How often each fault struck."""
    joined: int = 0
    is_over: bool = False
    """The time of faults has passed: what still goes on by itself stops."""

    def some(self, count: int) -> list[VirtualNode]:
        """So many running nodes; one is always left in peace."""
        able = [node for node in self.network.nodes.values() if node.runs and node.core.is_member]
        return self.rng.sample(able, max(0, min(count, len(able) - 1)))

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        self.network.at(self.network.now + seconds, then)

    def down(self, node: VirtualNode, *, silently: bool) -> None:
        if silently:
            self.network.silence(node)
        else:
            self.network.crash(node)
        self.measures.went(node)

    def up(self, node: VirtualNode, *, keeps_disk: bool = True, generation: int | None = None) -> None:
        self.measures.came(node)
        self.network.restart(node, keeps_disk=keeps_disk, generation=generation)

    def pause(self, node: VirtualNode, seconds: float) -> None:
        self.measures.unreachable(node)
        self.network.pause(node, seconds)

    def heal(self) -> None:
        """Open every way, and see how long it takes until all see all."""
        self.network.heal()
        self.measures.links_troubled()
        began = self.network.now

        def look() -> None:
            if self.network.agrees():
                self.measures.heals.append(self.network.now - began)
            elif self.network.links.passes_all and self.network.now - began < 60:
                self.after(0.1, look)

        look()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(ABC):
    """Something that befalls a cluster. Times are seconds after the cluster has settled."""

    name: ClassVar[str] = ""
    says: ClassVar[str] = ""
    lies: ClassVar[bool] = False
    """Whether members tell what is not so: then a death that others tell of proves nothing."""

    at: float = 5.0
    every: float = 0.0
    """0: once."""
    seconds: float = 15.0
    """How long it lasts."""
    count: int = 1
    """Nodes that it strikes at once."""

    @abstractmethod
    def strike(self, world: World) -> None:
        """It befalls the cluster, once."""

    @classmethod
    def parse(cls, parameters: str) -> Self:
        known = {each.name: each.type for each in fields(cls)}
        given: dict[str, float | int | str] = {}
        for part in filter(None, parameters.split(",")):
            name, _, value = part.partition("=")
            if name not in known:
                raise BadFault(f"{cls.name} has no {name!r}, but {', '.join(known)}")
            given[name] = _value(f"{cls.name}:{part}", str(known[name]), value)
        return replace(cls(), **given)  # type: ignore[arg-type]

    def __str__(self) -> str:
        usual = type(self)()
        differs = [
            f"{each.name}={getattr(self, each.name)}"
            for each in fields(self)
            if getattr(self, each.name) != getattr(usual, each.name)
        ]
        return self.name + (":" + ",".join(differs) if differs else "")


def _value(part: str, kind: str, text: str) -> float | int | str:
    makers: dict[str, Callable[[str], float | int | str]] = {"float": float, "int": int}
    try:
        return makers.get(kind.removeprefix("<class '").removesuffix("'>"), str)(text)
    except ValueError:
        raise BadFault(f"{part!r}: not a number") from None


# Machines


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill(Fault):
    name = "kill"
    says = "kill -9: the machine refuses connections; started again after `seconds`"

    def strike(self, world: World) -> None:
        for node in world.some(self.count):
            world.down(node, silently=False)
            world.after(self.seconds, partial(world.up, node))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vanish(Fault):
    name = "vanish"
    says = "a black hole: nothing answers any more; started again after `seconds`"

    def strike(self, world: World) -> None:
        for node in world.some(self.count):
            world.down(node, silently=True)
            world.after(self.seconds, partial(world.up, node))


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart(Fault):
    name = "restart"
    says = "started again at once; disk=kept, lost, old or older (by one start, or two)"
    disk: str = "kept"

    def strike(self, world: World) -> None:
        for node in world.some(self.count):
            world.measures.unreachable(node)
            # What was written down is as it was one start before, or two.
            says = {"old": node.generation, "older": max(1, node.generation - 1)}.get(self.disk)
            world.up(node, keeps_disk=self.disk != "lost", generation=says)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolling(Fault):
    name = "rolling"
    says = "all are restarted, one after the other, within `seconds`; each says good-bye first"

    def strike(self, world: World) -> None:
        nodes = list(world.network.nodes.values())
        for index, node in enumerate(nodes):
            world.after(index * self.seconds / len(nodes), partial(self._one, world, node))

    def _one(self, world: World, node: VirtualNode) -> None:
        if node.runs and node.core.is_member:
            world.network.do(node, node.core.leave(world.network.now))
            world.after(1.0, lambda: world.up(node))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Fault):
    name = "pause"
    says = "SIGSTOP, and SIGCONT after `seconds`"

    def strike(self, world: World) -> None:
        for node in world.some(self.count):
            world.pause(node, self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Starve(Fault):
    name = "starve"
    says = "for `seconds` a node runs only a moment (`awake`) between stops of `stop`"
    stop: float = 2.0
    awake: float = 0.05

    def strike(self, world: World) -> None:
        until = world.network.now + self.seconds
        for node in world.some(self.count):
            self._stop(world, node, until)

    def _stop(self, world: World, node: VirtualNode, until: float) -> None:
        if node.runs and world.network.now < until and not world.is_over:
            world.pause(node, self.stop)
            world.after(self.stop + self.awake, lambda: self._stop(world, node, until))


def _delay(world: World, count: int, seconds: float, delays: dict[str, float], delay: float) -> None:
    """Enter ``delay`` in ``delays`` for as many nodes, and take it out again later."""
    for node in world.some(count):
        delays[node.name] = delay
        world.after(seconds, partial(_mend, delays, node.name))


def _mend(delays: dict[str, float], name: str) -> None:
    delays.pop(name, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow(Fault):
    name = "slow"
    says = "all from and to a node takes `delay` seconds longer, on average, and its alarms ring so late"
    delay: float = 0.1

    def strike(self, world: World) -> None:
        _delay(world, self.count, self.seconds, world.network.links.slow, self.delay)


@dataclass(frozen=True, slots=True, kw_only=True)
class Far(Fault):
    name = "far"
    says = "a node is `delay` seconds away from all others, each way, and all is well with it"
    delay: float = 0.075

    def strike(self, world: World) -> None:
        _delay(world, self.count, self.seconds, world.network.links.far, self.delay)


# Who comes and goes


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Fault):
    name = "join"
    says = "`count` new nodes start at once, through the first node"
    count: int = 3

    def strike(self, world: World) -> None:
        for _ in range(self.count):
            world.joined += 1
            world.network.add(f"new{world.joined}", seeds=["n0"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(Fault):
    name = "leave"
    says = "`count` nodes say good-bye; started again after `seconds`"

    def strike(self, world: World) -> None:
        for node in world.some(self.count):
            world.measures.unreachable(node)
            world.network.do(node, node.core.leave(world.network.now))
            world.after(1.0, partial(self._end, world, node))

    def _end(self, world: World, node: VirtualNode) -> None:
        if node.is_up:
            world.measures.elapsed()
            world.network.crash(node)
        world.after(max(0.0, self.seconds - 1), lambda: world.up(node))


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone(Fault):
    name = "clone"
    says = "a node starts from a copy of another one's disk, and is there for `seconds` unless it yields"

    def strike(self, world: World) -> None:
        for node in world.some(self.count):
            world.joined += 1
            identity = next((name for name in world.network.nodes if virtual_id(name) == node.id), node.name)
            name = f"copy{world.joined}-of-{node.name}"
            copy = world.network.prepare(name, seeds=["n0"], identity=identity)
            world.network.begin(copy, node.generation + 1)
            world.after(self.seconds, partial(world.network.crash, copy))


# The network


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition(Fault):
    name = "partition"
    says = "two sides that hear nothing of each other (`share` on the smaller), or as many as `sides` says"
    share: float = 0.5
    sides: int = 2

    def strike(self, world: World) -> None:
        nodes = list(world.network.nodes.values())
        world.rng.shuffle(nodes)
        apart = max(1, round(self.share * len(nodes)))
        world.measures.parted()
        for index, node in enumerate(nodes[:apart]):
            world.network.links.sides[node.name] = 1 + index % (self.sides - 1)
        world.after(self.seconds, world.heal)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneWay(Fault):
    name = "one-way"
    says = "nothing passes from one node to another, only back; `count` such pairs"

    def strike(self, world: World) -> None:
        for _ in range(self.count):
            pair = world.some(2)
            if len(pair) == 2:
                world.measures.links_troubled()
                cut = (pair[0].name, pair[1].name)
                world.network.links.cut.add(cut)
                world.after(self.seconds, partial(self._mend, world, cut))

    def _mend(self, world: World, cut: tuple[str, str]) -> None:
        world.network.links.cut.discard(cut)
        world.measures.links_troubled()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flap(Fault):
    name = "flap"
    says = "a node's cable is out for `out` seconds and in for `back`, over and over"
    out: float = 1.5
    back: float = 1.5

    def strike(self, world: World) -> None:
        until = world.network.now + self.seconds
        for node in world.some(self.count):
            self._out(world, node, until)

    def _out(self, world: World, node: VirtualNode, until: float) -> None:
        if world.network.now >= until or world.is_over:
            return
        world.measures.unreachable(node)
        world.network.links.sides[node.name] = -1
        world.after(self.out, lambda: self._in(world, node, until))

    def _in(self, world: World, node: VirtualNode, until: float) -> None:
        world.network.links.sides.pop(node.name, None)
        node.troubled_at = world.network.now
        world.after(self.back, lambda: self._out(world, node, until))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss(Fault):
    name = "loss"
    says = "for `seconds` the part `share` of all messages is lost"
    share: float = 0.3

    def strike(self, world: World) -> None:
        links = world.network.links
        before, links.loss = links.loss, self.share
        world.after(self.seconds, lambda: setattr(links, "loss", before))


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance(Fault):
    name = "latency"
    says = "for `seconds` messages take as long as between `like` (lan, wifi, wan, far)"
    like: str = "wan"

    def strike(self, world: World) -> None:
        links = world.network.links
        if self.like not in LATENCIES:
            raise BadFault(f"latency is like {', '.join(LATENCIES)}, not {self.like!r}")
        before, links.latency = links.latency, LATENCIES[self.like]
        world.after(self.seconds, lambda: setattr(links, "latency", before))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall(Fault):
    name = "stall"
    says = "a connection stands still and then brings everything late; `count` of them"
    seconds: float = 3.0
    count: int = 3

    def strike(self, world: World) -> None:
        links = world.network.links
        for _ in range(self.count):
            pair = world.some(2)
            if len(pair) == 2:
                links.late_until[pair[0].name, pair[1].name] = world.network.now + self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate(Fault):
    name = "duplicate"
    says = "for `seconds` the part `share` of all requests arrives twice, in any order"
    share: float = 0.3

    def strike(self, world: World) -> None:
        links = world.network.links
        before, links.duplicates = links.duplicates, self.share
        world.after(self.seconds, lambda: setattr(links, "duplicates", before))


# Members that lie


@dataclass(frozen=True, slots=True, kw_only=True)
class Rogue(Fault):
    name = "rogue"
    says = "a member accuses others, in its own and in others' names, and forges what they say"
    lies = True
    pause: float = 0.2

    def strike(self, world: World) -> None:
        until = world.network.now + self.seconds
        for node in world.some(self.count):
            self._lie(world, node, until)

    def _lie(self, world: World, node: VirtualNode, until: float) -> None:
        if world.network.now >= until or world.is_over:
            return
        others = [each for each in world.some(len(world.network.nodes)) if each is not node]
        if len(others) >= 2 and node.runs:
            to, victim = world.rng.sample(others, 2)
            rumours = _lies(node.id, victim, [each.id for each in others], world.rng)
            own = node.core.inside.members.get(node.id)
            claim = own.signed if own is not None else None
            world.network.deliver(node.id, to, Envelope(Kind.GOSSIP, claim, rumours=rumours))
        world.after(self.pause, lambda: self._lie(world, node, until))


def _lies(liar: NodeId, victim: VirtualNode, others: list[NodeId], rng: Random) -> tuple[Claim, ...]:
    row = victim.core.inside.members.get(victim.id)
    assert row is not None
    generation, incarnation = row.standing.life
    forged = Contact(("nowhere:1",), victim.id.encode(), nonce=rng.getrandbits(64))
    accusers = [liar, *rng.sample(others, min(3, len(others)))]
    accused = [
        Claim(victim.id, Standing(generation, incarnation, rank), accuser=accuser)
        for rank in (Rank.SUSPECT, Rank.DEAD)
        for accuser in accusers
    ]
    beyond = Claim(victim.id, Standing(generation, incarnation + 5, Rank.DEAD), accuser=liar)
    said = [
        Claim(victim.id, Standing(generation + more, incarnation + 1, rank), forged, b"forged")
        for more in (0, 1, 2**62)
        for rank in (Rank.ALIVE, Rank.LEFT)
    ]
    return (*accused, beyond, *said)


ALL: Final = (
    Kill,
    Vanish,
    Restart,
    Rolling,
    Pause,
    Starve,
    Slow,
    Far,
    Join,
    Leave,
    Clone,
    Partition,
    OneWay,
    Flap,
    Loss,
    Distance,
    Stall,
    Duplicate,
    Rogue,
)
FAULTS: Final[Mapping[str, type[Fault]]] = {fault.name: fault for fault in ALL}


def parse(text: str) -> Fault:
    """The fault in ``name[:parameter=value,…]``. Raises `BadFault`."""
    name, _, parameters = text.partition(":")
    if name not in FAULTS:
        raise BadFault(f"there is no fault {name!r}, but {', '.join(FAULTS)}")
    return FAULTS[name].parse(parameters)


def begin(faults: tuple[Fault, ...], world: World, until: float) -> None:
    """Have each fault strike when it is its time, until ``until`` (virtual seconds)."""
    start = world.network.now
    for fault in faults:
        _strike_at(fault, world, start + fault.at, until)


def _strike_at(fault: Fault, world: World, time: float, until: float) -> None:
    def strike() -> None:
        world.struck[fault.name] = world.struck.get(fault.name, 0) + 1
        fault.strike(world)
        if fault.every > 0:
            _strike_at(fault, world, world.network.now + fault.every * world.rng.uniform(0.75, 1.25), until)

    if time < until:
        world.network.at(time, strike)
