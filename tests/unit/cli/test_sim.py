"""``sim``: a run by words, its outcome in words and data, and its exit code."""

import json

import pytest

from ollama_dist.cli.failures import Exit
from ollama_dist.sim.faults import FAULTS
from tests.unit.cli.conftest import Command as Cli


def test_the_command_prints_a_table_or_data(cli: Cli) -> None:
    words = ("sim", "gossip", "--nodes", "3", "--minutes", "0.2", "--fault", "kill:at=2")
    told = cli(*words)
    assert told.code == Exit.OK
    assert "death: known to all" in told.out
    data = json.loads(cli(*words, "--json").out)
    assert data["holds"]
    assert data["schema"] == "ollama-dist.sim.gossip/1"
    assert data["struck"] == {"kill": 1}


def test_what_is_violated_is_told_with_how_to_see_it_again(cli: Cli) -> None:
    words = ("sim", "gossip", "--nodes", "4", "--minutes", "0.3", "--without", "anti-entropy", "--seed", "7")
    ended = cli(*words)
    assert ended.code == Exit.FAILED
    again = next(line for line in ended.out.splitlines() if line.startswith("again: "))
    assert again.startswith("again: ollama-dist sim gossip --nodes 4 --minutes 0.3 --seed 7")
    assert again.endswith("--without anti-entropy")
    assert cli(*again.split()[2:]).out.splitlines()[-3:] == ended.out.splitlines()[-3:]


@pytest.mark.parametrize(
    "words",
    [
        ("--fault", "earthquake"),
        ("--without", "gravity"),
        ("--nodes", "0"),
        ("--loss", "1"),
        ("--latency", "moon"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli("sim", "gossip", *words).code == Exit.USAGE


def test_the_command_lists_faults_and_rules(cli: Cli) -> None:
    told = cli("sim", "gossip", "--list").out
    assert all(f"  {name} " in told for name in FAULTS)
    assert "anti-entropy" in told


def test_placement_is_measured_and_told(cli: Cli) -> None:
    words = ("sim", "placement", "--nodes", "4", "--models", "5", "--hours", "1", "--seed", "2")
    told = cli(*words)
    assert told.code == Exit.OK
    assert told.out.startswith("4 nodes, 5 models, 5 virtual hours, seed 2")
    report = json.loads(cli(*words, "--json").out)
    assert (report["schema"], report["holds"]) == ("ollama-dist.sim.placement/1", True)
    assert report["settled_s"] is not None
    assert report["in_trouble"]["bytes_copied"] > 0
    again = json.loads(cli(*words, "--json").out)
    assert {**report, "cpu_seconds": 0} == {**again, "cpu_seconds": 0}


@pytest.mark.parametrize("words", [("--nodes", "51"), ("--hours", "0"), ("--trouble", "2"), ("--disk", "3")])
def test_a_placement_that_cannot_be_played_is_refused(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli("sim", "placement", *words).code == Exit.USAGE
