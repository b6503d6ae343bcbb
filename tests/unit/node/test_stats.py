import pytest

from ollama_dist.core.ids import RequestId
from ollama_dist.core.outcomes import Attempt, Outcome, Result
from ollama_dist.node.stats import MAX_NAMES, OTHERS, Latencies, Stats
from tests.support.views import node_id


def ended(result: Result, *, model: str = "tiny", node: str = "desk", attempts: int = 1) -> Outcome:
    tried = tuple(Attempt(node_id(number), result) for number in range(attempts))
    return Outcome(RequestId(""), "/api/chat", model, node, 200, result, tried, 0.25, 1.0)


def test_quantiles_are_exact_to_a_fifth() -> None:
    latencies = Latencies()
    latencies.add([milliseconds / 1000 for milliseconds in range(1, 1001)])
    for part, true in [(0.5, 0.5), (0.9, 0.9), (0.99, 0.99)]:
        found = latencies.quantile(part)
        assert found is not None
        assert true <= found <= true * 1.2
    assert Latencies().quantile(0.5) is None


def test_requests_are_counted_by_how_they_ended() -> None:
    stats = Stats()
    for result in (Result.OK, Result.REJECTED, Result.CUT, Result.CANCELLED):
        stats.count(ended(result, attempts=2), is_fallback=result is Result.OK)
    assert (stats.served, stats.failed, stats.fallbacks, stats.retries) == (2, 1, 1, 4)
    rendered = stats.render()
    assert rendered["outcomes"] == {"ok": 1, "rejected": 1, "cut": 1, "cancelled": 1}
    assert rendered["latency"]["first_byte"]["p50_ms"] == pytest.approx(250, rel=0.2)


def test_names_that_callers_invent_do_not_fill_the_memory() -> None:
    stats = Stats()
    for number in range(MAX_NAMES * 2):
        stats.count(ended(Result.MISSING, model=f"m{number}", node=""), is_fallback=False)
    models = stats.render()["models"]
    assert len(models) == MAX_NAMES + 1
    assert models[OTHERS] == MAX_NAMES


def test_many_models_at_many_nodes_do_not_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_dist.node.stats.MAX_ENDS", 50)
    stats = Stats()
    for number in range(100):
        stats.count(ended(Result.OK, model=f"m{number}", node=f"n{number}"), is_fallback=False)
    rendered = stats.render()
    assert rendered["models"][OTHERS] == rendered["nodes"][OTHERS] == 50
    assert (stats.served, rendered["routes"]) == (100, {"/api/chat": 100})
