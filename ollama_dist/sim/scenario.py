"""One run from its parameters to its report: settle, let the faults strike, heal everything, look.

The parameters are all there is: the same ones give the same report.
"""

import contextlib
import gc
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from ollama_dist.gossip.protocol.config import LAN, WAN, GossipConfig
from ollama_dist.gossip.protocol.effects import Persist, WakeAt
from ollama_dist.gossip.protocol.messages import Claim, Envelope, Kind, MemberDelta
from ollama_dist.gossip.protocol.rumours import Rumours
from ollama_dist.sim import faults
from ollama_dist.sim.faults import Fault, World
from ollama_dist.sim.invariants import Invariants
from ollama_dist.sim.links import LATENCIES
from ollama_dist.sim.measures import Measures
from ollama_dist.sim.network import VirtualNetwork, VirtualNode
from ollama_dist.sim.report import Report, report_of
from ollama_dist.sim.rules import without

JOINS_UP_TO: Final = 64
"""Larger clusters begin with everybody knowing everybody, instead of all starting at once."""

SETTLES_WITHIN_S: Final = 60.0
CALM_S: Final = 60.0
CALM_PER_NODE_S: Final = 0.2
"""After all faults everybody must see the same, and have told all there is to tell, within so long."""

PAUSE_BETWEEN_WRITES_S: Final = 2.0
PAUSE_BETWEEN_LOADS_S: Final = 4.0
"""A node's load changes so often, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a run depends on."""

    nodes: int = 9
    minutes: float = 2.0
    """Virtual, between settling and the calm at the end."""
    seed: int = 1
    loss: float = 0.0
    latency: str = "lan"
    faults: tuple[Fault, ...] = ()
    without: tuple[str, ...] = ()
    """Safety rules that are switched off, to see that they are needed."""
    wide: bool = False
    """With the times for slow links."""

    @property
    def command(self) -> str:
        """What replays it."""
        words = ["ollama-dist", "sim", "gossip", "--nodes", str(self.nodes), "--minutes", f"{self.minutes:g}"]
        words += ["--seed", str(self.seed), "--loss", f"{self.loss:g}"]
        words += ["--latency", self.latency] if self.latency != "lan" else []
        words += ["--wan"] if self.wide else []
        words += [word for fault in self.faults for word in ("--fault", str(fault))]
        words += [word for rule in self.without for word in ("--without", rule)]
        return shlex.join(words)

    def without_rule(self, rule: str) -> "Scenario":
        return replace(self, without=(*self.without, rule))

    @property
    def config(self) -> GossipConfig:
        return without(WAN if self.wide else LAN, self.without)


@dataclass
class _Run:
    scenario: Scenario
    network: VirtualNetwork
    invariants: Invariants
    measures: Measures
    rng: Random
    notes: list[str] = field(default_factory=list)


def play(scenario: Scenario) -> Report:
    """Run it to its end. What is violated is in the report, not raised."""
    began = time.process_time()
    with _not_collecting():
        run = _prepared(scenario)
        _settle(run)
        world = _strike(run)
        _calm(run)
    cpu = time.process_time() - began
    return report_of(scenario, run.network, run.invariants, run.measures, world.struck, cpu)


@contextlib.contextmanager
def _not_collecting() -> Iterator[None]:
    """Rows live as long as the run, a million of them in large clusters, and nothing but a state machine that
    is started anew goes in circles: to look for it as often as usual takes a quarter of the time."""
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()


def _prepared(scenario: Scenario) -> _Run:
    nodes, config = scenario.nodes, scenario.config
    invariants = Invariants(
        WAN if scenario.wide else LAN,  # what holds with all rules in force
        raises=False,
        sweep_every=max(1.0, nodes / 30),
        sees_beginnings=nodes <= JOINS_UP_TO,
        look_every=1 if nodes <= JOINS_UP_TO else 16,
        encode_every=1 if nodes <= JOINS_UP_TO else max(64, nodes // 4),
        trusts_rumours=not any(fault.lies for fault in scenario.faults),
    )
    network = VirtualNetwork(
        scenario.seed,
        config=config,
        latency=LATENCIES[scenario.latency],
        observers=[invariants],
        keeps_events=False,
    )
    network.tells_stalls = "stall-guard" not in scenario.without
    invariants.watch(network)
    measures = Measures(network, measure_every=1 if nodes <= JOINS_UP_TO else max(64, nodes // 4))
    network.observers.append(measures)
    return _Run(scenario, network, invariants, measures, Random(f"faults {scenario.seed}"))


# The beginning


def _settle(run: _Run) -> None:
    network, nodes = run.network, run.scenario.nodes
    if nodes <= JOINS_UP_TO:
        network.cluster(nodes)
    else:
        _introduce(network, [network.prepare(f"n{i}", seeds=["n0"] if i else ()) for i in range(nodes)])
    end = network.now + SETTLES_WITHIN_S
    while not network.agrees() and network.now < end:
        network.run(0.5)
    network.run(2.0)
    network.links.loss = run.scenario.loss


def _introduce(network: VirtualNetwork, nodes: list[VirtualNode]) -> None:
    """Start all as if they had been together for long: each knows each, and has nothing to tell."""
    for node in nodes:
        node.seeds, seeds = (), node.seeds
        network.begin(node, 1)
        node.seeds = seeds
    for node in nodes:
        network.do(node, node.core.tick(network.now, node.core.wake_number))
    deltas = tuple(
        MemberDelta(node.id, 1, claims=(row.signed,))
        for node in nodes
        if (row := node.core.inside.members.get(node.id)) is not None
    )
    for node in nodes:
        teller = nodes[0] if node is not nodes[0] else nodes[-1]
        node.core.inside.rumours = _Deaf(node.id)
        effects = node.core.message(network.now, 0, teller.id, Envelope(Kind.GOSSIP, None, deltas=deltas))
        node.core.inside.rumours = Rumours(node.id)
        for row in node.core.inside.members:
            row.answers = True
        network.do(node, [effect for effect in effects if isinstance(effect, WakeAt | Persist)])


class _Deaf(Rumours):
    """Nothing is news."""

    def add(self, claim: Claim) -> None:
        pass


# What happens


def _strike(run: _Run) -> World:
    network, scenario = run.network, run.scenario
    world = World(network, run.measures, run.rng)
    end = network.now + 60 * scenario.minutes
    run.measures.begin(run.rng)
    _work(world)
    faults.begin(scenario.faults, world, end)
    network.run(end - network.now)
    world.is_over = True
    return world


def _work(world: World) -> None:
    """What nodes have to tell each other: now and then something slow, and their loads all the time."""

    def write() -> None:
        if world.is_over:
            return
        for node in world.some(1):
            value = world.rng.randbytes(40)
            world.network.do(
                node, node.core.set_state(world.network.now, f"k{world.rng.randrange(5)}", value)
            )
            world.measures.wrote(node)
        world.after(PAUSE_BETWEEN_WRITES_S, write)

    def load() -> None:
        if world.is_over:
            return
        node = world.rng.choice(list(world.network.nodes.values()))
        if node.runs and node.core.is_member:
            world.network.do(node, node.core.set_load(world.network.now, world.rng.randbytes(16)))
        pause = PAUSE_BETWEEN_LOADS_S / len(world.network.nodes)
        world.after(world.rng.expovariate(1 / pause), load)

    write()
    load()


# The end


def _calm(run: _Run) -> None:
    """End all faults, start what is down, and see whether the cluster finds back."""
    network = run.network
    run.measures.end()
    links = network.links
    links.heal()
    links.loss = links.duplicates = 0.0
    links.slow.clear()
    links.far.clear()
    links.latency = LATENCIES[run.scenario.latency]
    for node in list(network.nodes.values()):
        if network.by_id.get(node.id) is not node:
            network.crash(node)
        elif not node.is_up or not node.core.is_member:
            network.restart(node)
    end = network.now + CALM_S + CALM_PER_NODE_S * run.scenario.nodes
    while not run.invariants.is_calm(network) and network.now < end:
        network.run(0.5)
    run.invariants.calm(network)
