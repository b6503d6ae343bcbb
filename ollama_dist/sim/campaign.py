"""Many runs in a row: every fault by itself and all together, over many seeds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from ollama_dist.sim.faults import parse
from ollama_dist.sim.report import Report
from ollama_dist.sim.scenario import Scenario, play


@dataclass(frozen=True, slots=True)
class Entry:
    """One scenario of a campaign, played with several seeds."""

    title: str
    scenario: Scenario

    def line(self, report: Report) -> str:
        """The outcome of one run in one line."""
        dead = report.dead_everywhere_s
        return "  ".join(
            [
                f"seed {report.seed:<4}",
                "holds   " if report.holds else "VIOLATED",
                f"dead p50/p99 {dead.p50:.1f}/{dead.p99:.1f}" if dead else "dead      -      ",
                f"false deaths {report.false_deaths}",
                f"history {report.history}",
            ]
        )


def _entry(title: str, *faults: str, nodes: int = 9, minutes: float = 2.0, loss: float = 0.0) -> Entry:
    scenario = Scenario(nodes=nodes, minutes=minutes, loss=loss, faults=tuple(map(parse, faults)))
    return Entry(title, scenario)


MIX: Final = (
    "kill:every=23",
    "vanish:at=11,every=31",
    "restart:at=7,every=29",
    "restart:at=13,every=41,disk=lost",
    "pause:at=19,every=37,seconds=12",
    "starve:at=40,every=97",
    "slow:at=20,every=53",
    "leave:at=31,every=71",
    "clone:at=37,every=83",
    "partition:at=60,every=120,share=0.4",
    "one-way:at=25,every=61",
    "flap:at=45,every=89",
    "loss:at=33,every=79",
    "latency:at=85,every=113,like=wifi",
    "stall:at=15,every=47",
    "duplicate:at=55,every=101",
)
"""What can happen to honest members, over and over, at periods that fall together in all ways."""

CAMPAIGN: Final = (
    _entry("rest", minutes=10),
    _entry("loss 10 %", loss=0.1, minutes=10),
    _entry("kill", "kill:every=20"),
    _entry("vanish", "vanish:every=20"),
    _entry("restart", "restart:every=5"),
    _entry("restart, disk lost", "restart:every=8,disk=lost"),
    _entry("restart, disk old", "restart:every=8,disk=old"),
    _entry("rolling restart", "rolling"),
    _entry("pause 2 s", "pause:every=7,seconds=2"),
    _entry("pause 30 s", "pause:every=45,seconds=30"),
    _entry("starved", "starve:seconds=60"),
    _entry("slow node", "slow:every=30"),
    _entry("far node", "far:seconds=110", "kill:at=30,every=25"),
    _entry("join of 30", "join:count=30"),
    _entry("leave", "leave:every=25"),
    _entry("clone", "clone:every=20"),
    _entry("partition in halves", "partition:every=45"),
    _entry("partition 90/10", "partition:every=45,share=0.1"),
    _entry("partition in three", "partition:every=45,share=0.67,sides=3"),
    _entry("one-way links", "one-way:every=20,count=2"),
    _entry("flapping", "flap:every=30"),
    _entry("loss 50 % for 15 s", "loss:every=40,share=0.5"),
    _entry("wide area", "latency:every=40,like=wan"),
    _entry("stalled connections", "stall:every=9"),
    _entry("duplicates", "duplicate:every=20"),
    _entry("rogue", "rogue:seconds=90"),
    _entry("rogue and kill", "rogue:seconds=90", "kill:every=25"),
    _entry("all at once", *MIX, minutes=10),
    _entry("all at once, 3 nodes", *MIX, nodes=3, minutes=10),
    _entry("all at once, 20 nodes", *MIX, nodes=20, minutes=4, loss=0.05),
)


def run_campaign(
    entries: Iterable[Entry], *, seeds: int, first_seed: int = 1
) -> Iterator[tuple[Entry, Report]]:
    """Play each with so many seeds; what failed says how it is replayed."""
    for entry in entries:
        for seed in range(first_seed, first_seed + seeds):
            yield entry, play(replace(entry.scenario, seed=seed))
