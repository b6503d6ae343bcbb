"""What a node counts, as Prometheus reads it (its text format, exposition_formats.md). Pure.

One truth: the numbers are those of ``/admin/stats``, the words for members and problems those of ``status``.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ollama_dist.core.view import MemberState
from ollama_dist.gossip.counters import GAUGES
from ollama_dist.node.reports import Problem
from ollama_dist.node.stats import Latencies

PREFIX: Final = "ollama_dist"


def exposition(
    statistics: Mapping[str, Any],
    latencies: Mapping[str, Latencies],
    states: Iterable[MemberState],
    problems: Iterable[Problem],
) -> bytes:
    """All metrics as text. ``statistics``: those of `Operator`; ``states``: of each member its own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        _Gathered(
            [
                *_of_requests(statistics["requests"]),
                *(_of_time(name, each) for name, each in latencies.items()),
                *_of_gossip(statistics["gossip"]),
                *_of_this_node(statistics),
                _of_members(states),
                _of_problems(problems),
            ]
        )
    )
    return generate_latest(registry)


class _Gathered(Collector):
    """Metrics that are there already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _of_requests(requests: Mapping[str, Any]) -> Iterator[Metric]:
    for field, label, meaning in (
        ("routes", "route", "Requests that ended, by route."),
        ("outcomes", "outcome", "Requests that ended, by how."),
        ("models", "model", "Requests that ended, by model."),
        ("nodes", "node", "Requests that were answered, by node."),
    ):
        family = CounterMetricFamily(f"{PREFIX}_requests_by_{label}", meaning, labels=(label,))
        for value, count in requests[field].items():
            family.add_metric((value,), count)
        yield family
    for field, meaning in (
        ("fallbacks", "Requests that another than the first choice answered."),
        ("retries", "Attempts after the first."),
        ("relayed_in", "Requests taken from other nodes."),
        ("refused_in", "Requests of other nodes that were turned away."),
    ):
        yield CounterMetricFamily(f"{PREFIX}_{field}", meaning, value=requests[field])


def _of_time(name: str, times: Latencies) -> Metric:
    buckets = [("+Inf" if math.isinf(edge) else f"{edge:g}", count) for edge, count in times.cumulative()]
    meaning = f"Time of requests: {name.replace('_', ' ')}."
    return HistogramMetricFamily(
        f"{PREFIX}_{name}_seconds", meaning, buckets=buckets, sum_value=times.seconds
    )


def _of_gossip(counters: Mapping[str, int]) -> Iterator[Metric]:
    for name, value in sorted(counters.items()):
        kind = GaugeMetricFamily if name in GAUGES else CounterMetricFamily
        yield kind(f"{PREFIX}_gossip_{name}", f"Of membership: {name.replace('_', ' ')}.", value=value)


def _of_this_node(statistics: Mapping[str, Any]) -> Iterator[Metric]:
    engine, process = statistics["engine"], statistics["process"]
    given = statistics["replication"]["given_bytes"]
    yield CounterMetricFamily(f"{PREFIX}_given_bytes", "Bytes of models given to other members.", value=given)
    for name, meaning, value in (
        ("engine_load", "Requests at the engine.", engine["load"]),
        ("engine_slots", "Requests it answers at once.", engine["slots"]),
        ("memory_bytes", "Resident memory of this process.", process["memory_bytes"]),
        ("threads", "Its threads.", process["threads"]),
        ("tasks", "Tasks of its event loop.", process["tasks"]),
        ("uptime_seconds", "How long it has been running.", process["uptime_s"]),
    ):
        yield GaugeMetricFamily(f"{PREFIX}_{name}", meaning, value=value)


def _of_members(states: Iterable[MemberState]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_members", "Members by state.", labels=("state",))
    counts = Counter(states)
    for state in MemberState:
        family.add_metric((state,), counts[state])
    return family


def _of_problems(problems: Iterable[Problem]) -> Metric:
    labels = ("code", "severity")
    family = GaugeMetricFamily(f"{PREFIX}_problems", "What status says is wrong.", labels=labels)
    for kind, count in sorted(Counter((problem.code, problem.severity) for problem in problems).items()):
        family.add_metric(kind, count)
    return family
