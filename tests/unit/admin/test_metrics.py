from collections.abc import Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from ollama_dist.admin.metrics import exposition
from ollama_dist.core.ids import RequestId
from ollama_dist.core.outcomes import Attempt, Outcome, Result
from ollama_dist.core.view import MemberState
from ollama_dist.node.reports import Problem
from ollama_dist.node.stats import Stats
from tests.support.views import node_id

Labels = tuple[tuple[str, str], ...]
SLOW = Problem("warning", "slow_engine", "it is slow", "wait")


def read(
    stats: Stats, states: Sequence[MemberState] = (), problems: Sequence[Problem] = ()
) -> dict[tuple[str, Labels], float]:
    statistics: dict[str, Any] = {
        "requests": stats.render(),
        "gossip": {"probes": 12, "refuted": 1, "local_health": 2, "loop_lag_ms": 3},
        "replication": {"given_bytes": 5},
        "engine": {"load": 1, "slots": 4, "held_loads": 0},
        "process": {"memory_bytes": 6, "threads": 7, "tasks": 8, "uptime_s": 9.5},
    }
    text = exposition(statistics, stats.latencies, states, problems).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_are_told_as_such_and_what_is_so_now_as_gauges() -> None:
    told = read(Stats())
    assert told["ollama_dist_gossip_probes_total", ()] == 12
    assert told["ollama_dist_gossip_refuted_total", ()] == 1
    assert told["ollama_dist_gossip_local_health", ()] == 2
    assert told["ollama_dist_gossip_loop_lag_ms", ()] == 3
    assert told["ollama_dist_given_bytes_total", ()] == 5
    assert told["ollama_dist_engine_slots", ()] == 4


def test_requests_are_told_by_route_and_end_and_their_times_in_buckets() -> None:
    stats = Stats()
    tried = (Attempt(node_id(0), Result.OK),)
    for seconds in (0.0009, 0.3, 40.0):
        asked = (RequestId(""), "/api/chat", 'my "odd"\nmodel', "desk")
        stats.count(Outcome(*asked, 200, Result.OK, tried, None, seconds), is_fallback=False)
    told = read(stats)
    assert told["ollama_dist_requests_by_route_total", (("route", "/api/chat"),)] == 3
    assert told["ollama_dist_requests_by_outcome_total", (("outcome", "ok"),)] == 3
    assert told["ollama_dist_requests_by_model_total", (("model", 'my "odd"\nmodel'),)] == 3
    bucket = "ollama_dist_total_seconds_bucket"
    assert told[bucket, (("le", "0.001"),)] == 1
    assert told[bucket, (("le", "0.256"),)] == 1
    assert told[bucket, (("le", "0.512"),)] == 2
    assert told[bucket, (("le", "+Inf"),)] == told["ollama_dist_total_seconds_count", ()] == 3
    assert round(told["ollama_dist_total_seconds_sum", ()], 4) == 40.3009
    assert told["ollama_dist_first_byte_seconds_count", ()] == 0


def test_members_and_problems_are_called_as_status_calls_them() -> None:
    states = [MemberState.ALIVE, MemberState.ALIVE, MemberState.DEAD]
    told = read(Stats(), states, [SLOW, SLOW])
    assert {
        labels[0][1]: value for (name, labels), value in told.items() if name == "ollama_dist_members"
    } == {
        "alive": 2,
        "suspect": 0,
        "dead": 1,
        "left": 0,
    }
    assert told["ollama_dist_problems", (("code", "slow_engine"), ("severity", "warning"))] == 2
