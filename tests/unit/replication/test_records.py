from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.errors import BadRequest
from ollama_dist.replication.moves import demand
from ollama_dist.replication.moves.deletions import (
    REMEMBERED_S,
    Missed,
    expired,
    is_elsewhere,
    is_meant,
    missed,
    missed_in,
)
from ollama_dist.replication.moves.demand import FADE_S, Demand, DemandMeter
from ollama_dist.replication.moves.policies import KIND, Policy, check_pattern, policies_of, policy_for
from ollama_dist.replication.moves.records import RECORDS_MAX, Record, Records, pack, told_by, unpack
from tests.support.views import key, node, node_id, view

A, B, C = node_id(1), node_id(2), node_id(3)
TINY = key("tiny")


def test_the_newest_version_wins_and_a_tie_goes_to_the_higher_id() -> None:
    records = Records()
    records.write(KIND, "x", {"min": 1}, A)
    assert records.hear([Record(KIND, "x", 1, B, {"min": 2})])
    assert not records.hear([Record(KIND, "x", 1, A, {"min": 1})])
    assert records.write(KIND, "x", None, A).counter == 2
    assert records.get(KIND, "x") is None
    assert not records.hear([Record(KIND, "x", 1, C, {"min": 3})])


@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.integers(1, 5), st.sampled_from([A, B, C])), max_size=12)
)
def test_all_end_with_the_same_in_whatever_order_they_hear(rows: list[tuple[str, int, str]]) -> None:
    # One author writes one thing under one version.
    told = [Record(KIND, name, counter, author, {"min": counter}) for name, counter, author in rows]  # type: ignore[arg-type]
    one, other = Records(told), Records()
    shuffled = list(told)
    Random(1).shuffle(shuffled)
    for record in shuffled:
        other.hear([record])
        other.hear(told_by(one.entries()))
    assert one.entries() == other.entries()


def test_no_more_are_kept_than_fit() -> None:
    records = Records()
    for number in range(RECORDS_MAX):
        records.write(KIND, f"m{number}", {}, A)
    with pytest.raises(BadRequest, match="already"):
        records.write(KIND, "one more", {}, A)
    assert not records.hear([Record(KIND, "one more", 9, B, {})])
    records.write(KIND, "m0", None, A)
    records.write(KIND, "one more", {}, A)
    assert len(records.all()) == RECORDS_MAX
    with pytest.raises(BadRequest, match="too long"):
        records.write(KIND, "m1", {"text": "x" * 5000}, A)


@given(st.binary(max_size=200))
def test_what_makes_no_sense_is_no_record(data: bytes) -> None:
    found = unpack(data)
    assert found is None or unpack(pack(found)) == found


def test_the_longest_pattern_counts_and_a_name_before_all() -> None:
    policies = [Policy("*", 1), Policy("tin*", 2), Policy("tiny", 3), Policy("tiny-but-longer*", 4)]
    assert policy_for(policies, TINY) == Policy("tiny", 3)
    assert policy_for(policies, key("tin")) == Policy("tin*", 2)
    assert policy_for(policies[1:], key("other")) is None
    assert policy_for([Policy("hf.co/a/*", 2)], key("hf.co/a/b:q4")) == Policy("hf.co/a/*", 2)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"min": "2", "max": None, "pinned": []},
        {"min": 3, "max": 2, "pinned": []},
        {"min": -1, "max": None, "pinned": []},
        {"min": 1, "max": 10**9, "pinned": []},
        {"min": 1, "max": None, "pinned": "desk"},
    ],
)
def test_a_policy_that_makes_no_sense_counts_for_nothing(value: dict[str, object]) -> None:
    assert policies_of([Record(KIND, "x", 1, A, value)]) == ()


def test_what_is_written_of_a_policy_is_read_again() -> None:
    policy = Policy("tin*", 1, 3, (A, B))
    assert policies_of([Record(KIND, "tin*", 1, A, policy.value())]) == (policy,)
    with pytest.raises(BadRequest):
        check_pattern("ti ny")


def test_demand_fades_and_is_told_coarsely() -> None:
    meter = DemandMeter()
    for second in range(60):
        meter.note(TINY, 2.0, float(second))
    now = meter.now(60.0)[TINY]
    assert now.wait_s == pytest.approx(2.0)
    assert now.per_s == pytest.approx(60 / FADE_S, rel=0.1)
    assert meter.now(60.0 + 20 * FADE_S) == {}
    assert demand.unpack(demand.pack({TINY: Demand(0.123, 4.56)})) == {TINY: Demand(0.1, 5.0)}


def test_the_demand_of_all_is_their_sum_and_the_mean_of_their_waiting() -> None:
    both = demand.total([{TINY: Demand(1.0, 4.0)}, {TINY: Demand(3.0, 0.0)}])
    assert both == {TINY: Demand(4.0, 1.0)}


@given(st.binary(max_size=100))
def test_demand_that_makes_no_sense_is_none(data: bytes) -> None:
    for each in demand.unpack(data).values():
        assert 0 <= each.per_s <= demand.RATE_MAX
        assert 0 <= each.wait_s <= demand.WAIT_MAX


def test_a_missed_deletion_means_the_copy_that_was_there_then() -> None:
    there = view(node(1), node(2, ["tiny"]), node(3, ["tiny"]))
    [record] = missed(there, TINY, [A, C], 50.0)
    assert (record.node, record.digest) == (B, "a" * 64)
    assert missed_in([Record("deletion", record.name, 1, A, record.value())]) == [record]
    mine = view(node(1), node(2, ["tiny"]), self_number=2)
    assert is_meant(record, mine.me)
    assert not is_meant(record, node(2, ["tiny"], digest="b"))
    assert not is_meant(record, node(2))
    assert not is_elsewhere(record, mine)
    assert is_elsewhere(record, view(node(1, ["tiny"]), node(2, ["tiny"]), self_number=2))
    both = view(node(2, ["tiny"]), node(3, ["tiny"]), self_number=2)
    together = missed(there, TINY, [A], 50.0)
    assert not is_elsewhere(record, both, together)
    assert is_elsewhere(record, both, [record])
    anew = view(node(2, ["tiny"]), node(3, ["tiny"], digest="b"), self_number=2)
    assert is_elsewhere(record, anew, together)
    assert expired([record], 50.0 + REMEMBERED_S) == []
    assert expired([record], 51.0 + REMEMBERED_S) == [record]
    assert missed_in([Record("deletion", "x", 1, A, {"model": 1})]) == []
    assert isinstance(record, Missed)
