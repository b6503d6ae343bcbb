import contextlib

import pytest

from ollama_dist.core.errors import Busy
from ollama_dist.core.names import ModelKey
from ollama_dist.core.outcomes import Usage
from ollama_dist.core.view import Load
from ollama_dist.node.load import EngineLoad

A, B = ModelKey("a"), ModelKey("b")


def test_slots_are_per_model_and_the_rest_waits() -> None:
    load = EngineLoad(slots=2, max_waiting=8, changed=lambda: None)
    with contextlib.ExitStack() as stack:
        for model in (A, A, A, B):
            stack.enter_context(load.admitted(model))
        assert load.now == Load(in_flight=4, waiting=1, slots=2)
        assert (load.active(A), load.active(B)) == (3, 1)
    assert load.now == Load(slots=2)


def test_a_full_queue_refuses_in_ollamas_words_but_a_free_slot_is_free() -> None:
    load = EngineLoad(slots=1, max_waiting=1, changed=lambda: None)
    with load.admitted(A), load.admitted(A):
        with pytest.raises(Busy, match=r"server busy, please try again\.  maximum pending"), load.admitted(A):
            pytest.fail("was admitted")
        with load.admitted(B):
            assert load.now.in_flight == 3
    assert load.now.in_flight == 0


def test_a_failed_request_gives_its_place_back() -> None:
    load = EngineLoad(slots=1, max_waiting=0, changed=lambda: None)
    with contextlib.suppress(ValueError), load.admitted(A):
        raise ValueError
    assert load.now.in_flight == 0


def test_every_change_is_told() -> None:
    told: list[Load] = []
    load = EngineLoad(slots=1, max_waiting=0, changed=lambda: told.append(load.now))
    with load.admitted(A):
        pass
    load.set_slots(1)
    load.set_slots(4)
    assert [(entry.in_flight, entry.slots) for entry in told] == [(1, 1), (0, 1), (0, 4)]


def test_the_decode_rate_follows_slowly_and_ignores_answers_without_one() -> None:
    load = EngineLoad(slots=1, max_waiting=0, changed=lambda: None)
    load.learn(Usage(output_tokens=100, output_s=1.0))
    assert load.now.tokens_per_s == 100.0
    load.learn(Usage(output_tokens=50, output_s=1.0))
    assert load.now.tokens_per_s == 90.0
    load.learn(Usage(output_tokens=1))
    assert load.now.tokens_per_s == 90.0
