from dataclasses import replace

from ollama_dist.scheduling.ledger import Ledger
from tests.support.views import node


def test_own_requests_count_until_the_node_has_told_its_load_again() -> None:
    ledger, place = Ledger(), node(2, in_flight=1)
    ledger.sent(place)
    ledger.sent(place)
    assert ledger.in_flight(place) == 3
    told = replace(node(2, in_flight=3), load_version=1)
    assert ledger.in_flight(told) == 3


def test_requests_that_ended_since_are_taken_off() -> None:
    ledger, place = Ledger(), node(2, in_flight=2)
    ledger.ended(place)
    assert ledger.in_flight(place) == 1
    for _ in range(5):
        ledger.ended(place)
    assert ledger.in_flight(place) == 0


def test_nodes_are_counted_apart_and_can_be_forgotten() -> None:
    ledger = Ledger()
    ledger.sent(node(2))
    assert ledger.in_flight(node(3)) == 0
    ledger.forget(node(2).id)
    assert ledger.in_flight(node(2)) == 0
