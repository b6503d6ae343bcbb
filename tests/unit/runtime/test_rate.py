from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.ids import NodeId
from ollama_dist.runtime.rate import MAX_PEERS, RateLimit

A, B = NodeId("a" * 16), NodeId("b" * 16)


def test_a_burst_is_taken_and_then_so_much_a_second() -> None:
    limit = RateLimit(rate=2.0, burst=3.0)
    assert [limit.allows(A, 0.0) for _ in range(4)] == [True, True, True, False]
    assert [limit.allows(A, 1.0) for _ in range(3)] == [True, True, False]


def test_one_peer_does_not_use_up_what_is_anothers() -> None:
    limit = RateLimit(rate=1.0, burst=1.0)
    assert limit.allows(A, 0.0)
    assert not limit.allows(A, 0.0)
    assert limit.allows(B, 0.0)


@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=200))
def test_never_more_than_burst_and_rate_together(gaps: list[float]) -> None:
    limit, now, taken = RateLimit(rate=5.0, burst=10.0), 0.0, 0
    for gap in gaps:
        now += gap
        taken += limit.allows(A, now)
    assert taken <= 10.0 + 5.0 * now + 1e-6


def test_any_number_of_peers_takes_bounded_memory() -> None:
    limit = RateLimit()
    for number in range(MAX_PEERS + 50):
        limit.allows(NodeId(f"{number:016x}"), float(number))
    assert len(limit._buckets) == MAX_PEERS
