"""Whole runs: every fault by itself, the same seed twice, and what the report says."""

from dataclasses import replace

import pytest

from ollama_dist.sim.campaign import CAMPAIGN, MIX
from ollama_dist.sim.faults import FAULTS, BadFault, parse
from ollama_dist.sim.invariants import CHECKED, TITLES
from ollama_dist.sim.report import Report, as_text
from ollama_dist.sim.scenario import Scenario, play

QUICK = [
    "kill:seconds=8",
    "vanish:seconds=8",
    "restart",
    "restart:disk=lost",
    "restart:disk=old",
    "restart:disk=older",
    "rolling:seconds=10",
    "pause:seconds=2",
    "pause:seconds=12",
    "starve:seconds=10",
    "slow",
    "far",
    "join:count=8",
    "leave:seconds=5",
    "clone",
    "partition:seconds=12",
    "partition:share=0.67,sides=3,seconds=12",
    "one-way",
    "flap",
    "loss",
    "latency:like=wan",
    "stall",
    "duplicate",
    "rogue",
]


def run(*faults: str, nodes: int = 5, minutes: float = 0.3, seed: int = 3, loss: float = 0.0) -> Report:
    """A short run; that the invariants hold is part of it."""
    scenario = Scenario(nodes=nodes, minutes=minutes, seed=seed, loss=loss, faults=tuple(map(parse, faults)))
    report = play(scenario)
    assert report.holds, "\n".join(as_text(report))
    return report


@pytest.mark.parametrize("fault", QUICK)
def test_the_invariants_survive_each_fault(fault: str) -> None:
    report = run(fault)
    assert report.struck == {fault.partition(":")[0]: 1}
    if not fault.startswith(("rogue", "latency", "loss", "starve")):
        assert report.false_deaths == 0


def test_every_fault_has_such_a_run() -> None:
    assert {fault.partition(":")[0] for fault in QUICK} == set(FAULTS)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_invariants_survive_everything_at_once(seed: int) -> None:
    report = run(*MIX, minutes=1.0, seed=seed)
    assert len(report.struck) >= 12


def test_one_seed_gives_one_report() -> None:
    scenario = Scenario(nodes=4, minutes=0.5, seed=5, loss=0.1, faults=tuple(map(parse, MIX)))
    first, second = play(scenario), play(scenario)
    assert first.same_as(second)
    assert play(replace(scenario, seed=6)).history != first.history


def test_deaths_and_news_are_timed_within_the_bounds() -> None:
    report = run("vanish:every=12,seconds=8", nodes=5, minutes=1.5)
    assert report.first_suspicion_s is not None
    assert report.first_suspicion_s.most < 2.5
    assert report.dead_everywhere_s is not None
    assert report.dead_everywhere_s.count >= 5
    assert report.dead_everywhere_s.most < 6
    assert report.write_to_all_s is not None
    assert report.write_to_all_s.p99 < 2
    assert report.load_lag_s is not None
    assert report.load_lag_s.p99 < 2
    assert report.false_deaths == report.false_suspicions == 0


def test_a_healed_partition_is_timed() -> None:
    report = run("partition:seconds=15", nodes=6, minutes=0.5)
    assert report.heal_s is not None
    assert report.heal_s.most < 5


# Words


@pytest.mark.parametrize("text", [*MIX, *(str(fault()) for fault in FAULTS.values())])
def test_a_fault_reads_what_it_writes(text: str) -> None:
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("earthquake", "no fault 'earthquake'"),
        ("kill:colour=red", "kill has no 'colour'"),
        ("kill:at=soon", "not a number"),
    ],
)
def test_a_fault_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadFault, match=said):
        parse(text)


def test_the_invariants_are_numbered_as_in_the_document() -> None:
    assert sorted(TITLES) == list(range(1, 22))
    assert len(CHECKED) == 18


def test_the_campaign_has_every_fault() -> None:
    assert {fault.name for entry in CAMPAIGN for fault in entry.scenario.faults} == set(FAULTS)
