"""What a run found, as values, as text for people and as plain data for programs."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ollama_dist.sim.invariants import Invariants
from ollama_dist.sim.measures import Measures, Spread, spread_of
from ollama_dist.sim.network import VirtualNetwork

if TYPE_CHECKING:
    from ollama_dist.sim.scenario import Scenario


@dataclass(frozen=True, slots=True)
class KindTraffic:
    """Of one kind of message, requests and replies together: per node and second."""

    messages: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Report:
    """One run. All but ``cpu_seconds`` follows from the parameters."""

    command: str
    """What replays it."""
    nodes: int
    virtual_seconds: float
    seed: int
    struck: Mapping[str, int]
    """How often each fault struck."""
    first_suspicion_s: Spread | None
    dead_everywhere_s: Spread | None
    claim_to_all_s: Spread | None
    write_to_all_s: Spread | None
    load_lag_s: Spread | None
    heal_s: Spread | None
    unfinished: int
    """Deaths and news that were not followed to their end, for the end or another fault came first."""
    node_hours: float
    deaths: int
    """Verdicts of one member on another, right ones too."""
    false_suspicions: int
    false_deaths: int
    false_suspicions_per_node_hour: float
    false_deaths_per_node_hour: float
    traffic: Mapping[str, KindTraffic]
    largest: Mapping[str, int]
    """At their largest: rumours queued, open calls, alarms, rows, bytes of a message, events waiting."""
    states: tuple[str, ...]
    """In which members were seen by others."""
    inputs: int
    """Inputs to state machines; after each the invariants were checked."""
    history: str
    """A fingerprint of every event of the run."""
    violations: tuple[str, ...]
    cpu_seconds: float

    @property
    def holds(self) -> bool:
        return not self.violations

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def same_as(self, other: "Report") -> bool:
        """Whether two runs were alike; how long they took does not matter."""
        ours, theirs = self.as_json(), other.as_json()
        return all(ours[key] == theirs[key] for key in ours if key != "cpu_seconds")


def report_of(
    scenario: "Scenario",
    network: VirtualNetwork,
    invariants: Invariants,
    measures: Measures,
    struck: Mapping[str, int],
    cpu_seconds: float,
) -> Report:
    hours = measures.node_seconds / 3600
    per_node_second = 1 / max(measures.node_seconds, 1e-9)
    return Report(
        command=scenario.command,
        nodes=scenario.nodes,
        virtual_seconds=round(network.now, 1),
        seed=scenario.seed,
        struck=dict(sorted(struck.items())),
        first_suspicion_s=spread_of(measures.first_suspicion),
        dead_everywhere_s=spread_of(measures.dead_everywhere),
        claim_to_all_s=spread_of(measures.claims),
        write_to_all_s=spread_of(measures.writes),
        load_lag_s=spread_of(measures.loads),
        heal_s=spread_of(measures.heals),
        unfinished=measures.unfinished,
        node_hours=round(hours, 3),
        deaths=measures.deaths,
        false_suspicions=measures.false_suspicions,
        false_deaths=measures.false_deaths,
        false_suspicions_per_node_hour=round(measures.false_suspicions / max(hours, 1e-9), 4),
        false_deaths_per_node_hour=round(measures.false_deaths / max(hours, 1e-9), 4),
        traffic={
            kind.value: KindTraffic(
                round(traffic.messages * per_node_second, 3),
                round(traffic.messages * traffic.bytes_each * per_node_second, 1),
            )
            for kind, traffic in sorted(measures.traffic.items())
        },
        states=tuple(sorted(invariants.states_seen)),
        largest={**dict(sorted(invariants.most.items())), "events_waiting": measures.most_queued},
        inputs=invariants.checks,
        history=invariants.history,
        violations=tuple(map(str, invariants.violations)),
        cpu_seconds=round(cpu_seconds, 2),
    )


def as_text(report: Report) -> Iterable[str]:
    """The report in lines for people."""
    yield f"{report.nodes} nodes, {report.virtual_seconds:g} virtual seconds, seed {report.seed}"
    yield "faults: " + (", ".join(f"{name} {count}x" for name, count in report.struck.items()) or "none")
    yield ""
    yield f"{'seconds':<34}{'count':>7}{'p50':>9}{'p90':>9}{'p99':>9}{'most':>9}"
    for title, spread in (
        ("death: first suspicion", report.first_suspicion_s),
        ("death: known to all", report.dead_everywhere_s),
        ("new life: known to all", report.claim_to_all_s),
        ("write of slow state: at all", report.write_to_all_s),
        ("load: at another node", report.load_lag_s),
        ("partition: healed", report.heal_s),
    ):
        if spread is not None:
            figures = "".join(f"{value:>9.3f}" for value in (spread.p50, spread.p90, spread.p99, spread.most))
            yield f"{title:<34}{spread.count:>7}{figures}"
    yield f"not followed to the end: {report.unfinished}"
    yield ""
    yield f"{report.node_hours:g} node-hours: {report.deaths} deaths declared, {report.false_deaths} wrongly"
    yield (
        f"({report.false_deaths_per_node_hour:g} per node-hour); {report.false_suspicions} suspicions "
        f"without a reason ({report.false_suspicions_per_node_hour:g})"
    )
    yield ""
    yield f"{'per node and second':<34}{'messages':>9}{'bytes':>10}"
    for kind, traffic in report.traffic.items():
        yield f"{kind:<34}{traffic.messages:>9.2f}{traffic.bytes:>10.0f}"
    messages = sum(each.messages for each in report.traffic.values())
    yield f"{'all':<34}{messages:>9.2f}{sum(each.bytes for each in report.traffic.values()):>10.0f}"
    yield ""
    yield "largest: " + ", ".join(f"{what} {size}" for what, size in report.largest.items())
    yield f"history {report.history}, {report.inputs} inputs checked, {report.cpu_seconds:g} s of processor"
    yield ""
    if report.holds:
        yield "every invariant held"
    else:
        yield f"VIOLATED, {len(report.violations)} times:"
        yield from (f"  {violation}" for violation in report.violations[:20])
        yield f"again: {report.command}"
