"""A cap on bytes a second, with chosen time."""

from ollama_dist.replication.pace import BURST_S, COARSE_BYTES, FINE_BYTES, Pace, Rates


def test_without_a_cap_nothing_waits() -> None:
    pace = Pace()
    pace.spend(10**12, now=0.0)
    assert pace.wait_s(now=0.0) == 0.0
    assert pace.step == COARSE_BYTES


def test_bytes_go_no_faster_than_the_cap() -> None:
    pace, now, sent = Pace(lambda: 1000.0), 5.0, 0
    while now < 15.0:
        now += pace.wait_s(now)
        pace.spend(100, now)
        sent += 100
    assert 10_000 <= sent <= 10_000 + 1000 * BURST_S + 200
    assert pace.step == FINE_BYTES


def test_a_cap_that_is_lifted_holds_nothing_back() -> None:
    limit = [10.0]
    pace = Pace(lambda: limit[0])
    pace.spend(1000, now=0.0)
    assert pace.wait_s(now=0.0) > 90
    limit[0] = 0.0
    assert pace.wait_s(now=0.0) == 0.0


def test_the_lower_cap_counts_and_zero_is_none() -> None:
    assert Rates().now(is_serving=True) == 0
    assert Rates(always=5).now(is_serving=True) == 5
    assert Rates(serving=3).now(is_serving=False) == 0
    assert Rates(always=5, serving=3).now(is_serving=True) == 3
    assert Rates(always=2, serving=3).now(is_serving=True) == 2
