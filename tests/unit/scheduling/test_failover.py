import pytest

from ollama_dist.core.outcomes import Attempt, Result
from ollama_dist.scheduling.failover import BUDGET_FLOOR, GiveUp, RetryBudget, TryElsewhere, next_step
from tests.support.views import node_id

FREE, PAID = TryElsewhere(costs=False), TryElsewhere(costs=True)


def attempts(*results: Result) -> list[Attempt]:
    return [Attempt(node_id(number), result) for number, result in enumerate(results)]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([Result.REFUSED], FREE),
        ([Result.FAILED], PAID),
        ([Result.TIMEOUT], PAID),
        ([Result.BUSY], FREE),
        ([Result.MISSING], FREE),
        ([Result.UNSUPPORTED], FREE),
        ([Result.BUSY, Result.BUSY, Result.BUSY, Result.BUSY], FREE),
        ([Result.BUSY, Result.FAILED], PAID),
        ([Result.FAILED, Result.TIMEOUT], PAID),
        ([Result.FAILED, Result.TIMEOUT, Result.FAILED], GiveUp("3 places failed")),
        ([Result.REFUSED, Result.REFUSED, Result.REFUSED], FREE),
        ([Result.REFUSED, Result.REFUSED, Result.FAILED], PAID),
        ([Result.GAVE_OUT], GiveUp("the request was gave_out")),
        ([Result.REJECTED], GiveUp("the request was rejected")),
        ([Result.BUSY] * 16, GiveUp("16 places were asked")),
    ],
)
def test_what_follows_a_failed_attempt(results: list[Result], expected: TryElsewhere | GiveUp) -> None:
    assert next_step(attempts(*results), fallback=True) == expected


def test_without_fallback_a_failure_is_final_but_choosing_goes_on() -> None:
    assert next_step(attempts(Result.REFUSED), fallback=False) == GiveUp("fallback is switched off")
    assert next_step(attempts(Result.BUSY), fallback=False) == FREE


def test_a_fifth_of_the_requests_under_way_may_be_retried_but_always_three() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.begin()
    assert [budget.take() for _ in range(21)] == [True] * 20 + [False]
    budget.end(retries=1)
    assert budget.take()
    few = RetryBudget()
    few.begin()
    assert [few.take() for _ in range(BUDGET_FLOOR + 1)] == [True] * BUDGET_FLOOR + [False]


def test_when_everything_fails_the_load_grows_by_a_quarter_at_most() -> None:
    budget, sent = RetryBudget(), 0
    for _ in range(1000):
        budget.begin()
    for _ in range(1000):  # all under way at once
        tried: list[Result] = []
        step: TryElsewhere | GiveUp = FREE
        while isinstance(step, TryElsewhere) and (not step.costs or budget.take()):
            tried.append(Result.FAILED)
            sent += 1
            step = next_step(attempts(*tried), fallback=True)
    assert 1000 < sent <= 1250
