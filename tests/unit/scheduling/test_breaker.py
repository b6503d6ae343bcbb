from ollama_dist.core.outcomes import Result
from ollama_dist.scheduling.breaker import LONGEST_PAUSE_S, TRIAL_S, Breakers, Circuit
from tests.support.views import node_id

NODE = node_id(1)


def test_three_failures_in_a_row_open_it() -> None:
    breakers = Breakers()
    for result, expected in [
        (Result.FAILED, Circuit.CLOSED),
        (Result.TIMEOUT, Circuit.CLOSED),
        (Result.OK, Circuit.CLOSED),
        (Result.FAILED, Circuit.CLOSED),
        (Result.CUT, Circuit.CLOSED),
        (Result.FAILED, Circuit.OPEN),
    ]:
        breakers.end(NODE, result, now=10.0)
        assert breakers.circuit(NODE, 10.0) is expected


def test_nobody_there_opens_it_at_once_and_one_request_tries_later() -> None:
    breakers = Breakers()
    breakers.end(NODE, Result.REFUSED, now=0.0)
    assert breakers.circuit(NODE, 0.49) is Circuit.OPEN
    assert breakers.circuit(NODE, 0.5) is Circuit.HALF_OPEN
    breakers.begin(NODE, 0.5)
    assert breakers.circuit(NODE, 0.5) is Circuit.OPEN
    breakers.end(NODE, Result.OK, now=0.6)
    assert breakers.circuit(NODE, 0.6) is Circuit.CLOSED


def test_each_failed_trial_doubles_the_pause_up_to_a_bound() -> None:
    breakers = Breakers()
    now = 0.0
    breakers.end(NODE, Result.REFUSED, now)
    pauses = []
    for _ in range(5):
        began = now
        while breakers.circuit(NODE, now) is Circuit.OPEN:
            now += 0.125
        pauses.append(now - began)
        breakers.begin(NODE, now)
        breakers.end(NODE, Result.REFUSED, now)
    assert pauses == [0.5, 1.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_requests_that_were_under_way_do_not_make_it_worse() -> None:
    breakers = Breakers()
    for _ in range(10):
        breakers.end(NODE, Result.REFUSED, now=0.0)
    assert breakers.circuit(NODE, 0.5) is Circuit.HALF_OPEN


def test_a_trial_that_never_ends_does_not_keep_it_open_for_ever() -> None:
    breakers = Breakers()
    breakers.end(NODE, Result.REFUSED, now=0.0)
    breakers.begin(NODE, 1.0)
    assert breakers.circuit(NODE, 1.0 + TRIAL_S) is Circuit.HALF_OPEN


def test_a_caller_who_leaves_says_nothing_about_the_place() -> None:
    breakers = Breakers()
    breakers.end(NODE, Result.FAILED, now=0.0)
    breakers.end(NODE, Result.FAILED, now=0.0)
    breakers.end(NODE, Result.CANCELLED, now=0.0)
    breakers.end(NODE, Result.FAILED, now=0.0)
    assert breakers.circuit(NODE, 0.0) is Circuit.OPEN


def test_what_is_the_callers_or_the_models_fault_is_not_the_nodes() -> None:
    breakers = Breakers()
    for result in (Result.REJECTED, Result.BUSY, Result.MISSING, Result.GAVE_OUT) * 3:
        breakers.end(NODE, result, now=0.0)
    assert breakers.circuit(NODE, 0.0) is Circuit.CLOSED


def test_a_place_that_came_back_starts_afresh() -> None:
    breakers = Breakers()
    breakers.end(NODE, Result.REFUSED, now=0.0)
    breakers.reset(NODE)
    assert breakers.circuit(NODE, 0.0) is Circuit.CLOSED
