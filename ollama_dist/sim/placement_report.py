"""Placement measured under virtual time: hours of trouble, then calm; when it settles and what it moves."""

import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from ollama_dist.core.names import ModelKey
from ollama_dist.replication.moves.operations import Action
from ollama_dist.replication.moves.placement import COPY_BYTES_PER_S
from ollama_dist.replication.moves.policies import policy_for
from ollama_dist.sim.placement import DISK, GB, Broken, Deed, World

HOUR: Final = 3600.0
CALM_H: Final = 4.0
"""After the trouble: placement has to come to rest within this."""


@dataclass(frozen=True, slots=True)
class PlacementScenario:
    nodes: int = 6
    models: int = 10
    hours: float = 4.0
    """Virtual ones, of trouble."""
    seed: int = 1
    trouble: float = 0.02
    """The chance of something in any five seconds of them: a crash, a cut, new policies, new demand."""
    disk_gb: int = DISK // GB

    @property
    def command(self) -> str:
        words = ["ollama-dist", "sim", "placement", "--nodes", self.nodes, "--seed", self.seed]
        words += ["--models", self.models, "--hours", f"{self.hours:g}", "--trouble", f"{self.trouble:g}"]
        return shlex.join(map(str, [*words, "--disk", self.disk_gb]))


@dataclass(frozen=True, slots=True)
class Moved:
    """What was done in one part of a run."""

    copies: int
    deletions: int
    bytes_copied: int
    thrash: int
    """Times that one node undid what it had decided within this part: gave up a copy, or made it again."""


@dataclass(frozen=True, slots=True)
class PlacementReport:
    """One run. All but ``cpu_seconds`` follows from the parameters."""

    command: str
    nodes: int
    models: int
    seed: int
    virtual_hours: float
    in_trouble: Moved
    in_calm: Moved
    settled_s: float | None
    """From the end of the trouble until nothing moved any more; None where it never came to rest."""
    below_minimum: tuple[str, ...]
    """Models that had fewer copies at the end than their policy wants; disks may be too small for all."""
    refused: int
    """Times a copy was not given up because nobody promised to keep another."""
    violations: tuple[str, ...]
    cpu_seconds: float

    @property
    def holds(self) -> bool:
        return not self.violations and self.settled_s is not None and not self.in_calm.thrash

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def play_placement(scenario: PlacementScenario) -> PlacementReport:
    """Play it: no model may be lost and no disk filled, and once it is calm all has to come to rest."""
    began = time.process_time()
    world = World(scenario.seed, scenario.nodes, scenario.models, disk=scenario.disk_gb * GB)
    world.begin_trouble()
    violations, calm_at, before = [], world.now, 0
    try:
        world.run(scenario.hours * HOUR, scenario.trouble)
        world.calm()
        calm_at, before = world.now, len(world.deeds)
        world.run(CALM_H * HOUR)
    except Broken as broken:
        violations.append(str(broken))
    calm = world.deeds[before:]
    last = max((deed.at for deed in calm), default=calm_at)
    is_settled = not violations and last < world.now - HOUR
    return PlacementReport(
        command=scenario.command,
        nodes=scenario.nodes,
        models=scenario.models,
        seed=scenario.seed,
        virtual_hours=scenario.hours + CALM_H,
        in_trouble=_moved(world, world.deeds[:before], 0.0),
        in_calm=_moved(world, calm, calm_at),
        settled_s=last - calm_at if is_settled else None,
        below_minimum=tuple(_short(key) for key in world.keys if _lacks(world, key)),
        refused=world.refused,
        violations=tuple(violations),
        cpu_seconds=time.process_time() - began,
    )


def placement_text(report: PlacementReport) -> list[str]:
    """For people."""
    settled = "never" if report.settled_s is None else f"after {report.settled_s:.0f} s"
    lines = [
        f"{report.nodes} nodes, {report.models} models, {report.virtual_hours:g} virtual hours, "
        f"seed {report.seed}",
        f"in trouble: {_moved_text(report.in_trouble)}",
        f"in calm:    {_moved_text(report.in_calm)}",
        f"at rest:    {settled}",
        f"promises:   {report.refused} refused",
        f"below the minimum: {', '.join(report.below_minimum) or 'none'}",
    ]
    lines += [f"BROKEN: {violation}" for violation in report.violations]
    return lines if report.holds else [*lines, f"again: {report.command}"]


def _moved(world: World, deeds: Sequence[Deed], since: float) -> Moved:
    copied = [deed for deed in deeds if deed.action is Action.COPY]
    underway = {id(deed) for deed in copied if deed.at - world.sizes[deed.model] / COPY_BYTES_PER_S < since}
    times = Counter((deed.node, deed.model) for deed in deeds if id(deed) not in underway)
    return Moved(
        copies=len(copied),
        deletions=len(deeds) - len(copied),
        bytes_copied=sum(world.sizes[deed.model] for deed in copied),
        thrash=sum(count - 1 for count in times.values()),
    )


def _lacks(world: World, key: ModelKey) -> bool:
    policy = policy_for(world.policies, key)
    copies = sum(key in node.models for node in world.nodes.values())
    return policy is not None and copies < min(policy.min, len(world.nodes))


def _moved_text(moved: Moved) -> str:
    size = f"{moved.bytes_copied / GB:.0f} GB"
    return f"{moved.copies} copied ({size}), {moved.deletions} given up, {moved.thrash} to and fro"


def _short(key: ModelKey) -> str:
    return key.rpartition("/")[2]
