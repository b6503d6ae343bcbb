"""``sim``: membership, and placement, of a cluster under virtual time, with faults, measured and checked."""

import sys

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.output import print_json, print_lines
from ollama_dist.sim.campaign import CAMPAIGN, run_campaign
from ollama_dist.sim.faults import FAULTS, BadFault, parse
from ollama_dist.sim.links import LATENCIES
from ollama_dist.sim.placement_report import PlacementScenario, placement_text, play_placement
from ollama_dist.sim.report import as_text
from ollama_dist.sim.rules import RULES
from ollama_dist.sim.scenario import Scenario, play


def run(arguments: Arguments) -> int:
    return _placement(arguments) if arguments.action == "placement" else _gossip(arguments)


def _placement(arguments: Arguments) -> int:
    nodes = 6 if arguments.nodes is None else arguments.nodes
    if not (1 <= nodes <= 50 and 1 <= arguments.models <= 200 and 0 < arguments.hours <= 1000):
        raise _wrong("--nodes is 1 to 50, --models 1 to 200, --hours more than 0 and up to 1000")
    if not (0 <= arguments.trouble <= 1 and 25 <= arguments.disk <= 100_000):
        raise _wrong("--trouble is 0 to 1, --disk 25 to 100000")
    report = play_placement(
        PlacementScenario(
            nodes, arguments.models, arguments.hours, arguments.seed, arguments.trouble, arguments.disk
        )
    )
    if arguments.json:
        print_json("sim.placement", {"holds": report.holds, **report.as_json()})
    else:
        print_lines(placement_text(report))
    return Exit.OK if report.holds else Exit.FAILED


def _gossip(arguments: Arguments) -> int:
    if arguments.nodes is None:
        arguments.nodes = 9
    if arguments.list:
        print_lines(_known())
        return Exit.OK
    if arguments.campaign:
        return _campaign(arguments)
    report = play(_scenario(arguments))
    if arguments.json:
        print_json("sim.gossip", {"holds": report.holds, **report.as_json()})
    else:
        print_lines(as_text(report))
    return Exit.OK if report.holds else Exit.FAILED


def _scenario(arguments: Arguments) -> Scenario:
    if arguments.latency not in LATENCIES:
        raise _wrong(f"--latency is {', '.join(LATENCIES)}, not {arguments.latency!r}")
    if unknown := [rule for rule in arguments.without if rule not in RULES]:
        raise _wrong(f"there is no rule {unknown[0]!r}")
    if not 1 <= arguments.nodes <= 1000 or not 0 <= arguments.loss < 1 or arguments.minutes <= 0:
        raise _wrong("--nodes is 1 to 1000, --loss from 0 to less than 1, --minutes more than 0")
    try:
        faults = tuple(map(parse, arguments.fault))
    except BadFault as error:
        raise _wrong(str(error)) from error
    return Scenario(
        nodes=arguments.nodes,
        minutes=arguments.minutes,
        seed=arguments.seed,
        loss=arguments.loss,
        latency=arguments.latency,
        faults=faults,
        without=tuple(arguments.without),
        wide=arguments.wan,
    )


def _wrong(what: str) -> Failure:
    return Failure(what, do="ollama-dist sim --help", exit_code=Exit.USAGE)


def _campaign(arguments: Arguments) -> int:
    entries = [entry for entry in CAMPAIGN if arguments.only in entry.title]
    if not entries:
        titles = ", ".join(entry.title for entry in CAMPAIGN)
        raise _wrong(f"no title of the campaign has {arguments.only!r} in it; there are {titles}")
    reports = []
    for entry, report in run_campaign(entries, seeds=arguments.seeds, first_seed=arguments.seed):
        reports.append(report)
        if not arguments.json:
            lines = [f"{entry.title:<28} {entry.line(report)}"]
            lines += [f"  {violation}" for violation in report.violations[:5]]
            print_lines(lines if report.holds else [*lines, f"  again: {report.command}"])
            sys.stdout.flush()  # it takes long: who waits for the next line shall see this one
    if arguments.json:
        print_json("sim.campaign", {"runs": [report.as_json() for report in reports]})
    return Exit.OK if all(report.holds for report in reports) else Exit.FAILED


def _known() -> list[str]:
    lines = ["faults (every one takes at, every, seconds and count):"]
    lines += [f"  {name:<16}{fault.says}" for name, fault in FAULTS.items()]
    lines += ["", "rules that --without switches off:"]
    return lines + [f"  {name:<16}{what}" for name, what in RULES.items()]
