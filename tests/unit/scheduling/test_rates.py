import math

import pytest

from ollama_dist.core.outcomes import Usage
from ollama_dist.scheduling.rates import (
    CPU_DECODE_TOKENS_PER_S,
    MAX_ENTRIES,
    OUTPUT_TOKENS,
    REFERENCE_BYTES,
    Rates,
)
from tests.support.views import CPU, SIZE, key, node

TINY, OTHER = key("tiny"), key("other")


def answer(tokens: int, seconds: float, load_s: float = 0.0) -> Usage:
    return Usage(output_tokens=tokens, output_s=seconds, load_s=load_s)


def test_a_measured_rate_counts_for_its_node_and_model_only() -> None:
    rates, place = Rates(), node(1, ["tiny", "other"], speed=50)
    rates.learn(place, TINY, answer(300, 1.0))
    assert rates.decode(place, TINY, SIZE) == pytest.approx(300)
    assert rates.decode(place, OTHER, SIZE) == 50


def test_the_newest_answer_weighs_a_fifth_in_log_space() -> None:
    rates, place = Rates(), node(1, ["tiny"])
    rates.learn(place, TINY, answer(100, 1.0))
    rates.learn(place, TINY, answer(200, 1.0))
    assert rates.decode(place, TINY, SIZE) == pytest.approx(100 * 2**0.2)


def test_what_was_never_measured_is_guessed_from_the_machine_and_the_size() -> None:
    rates, place = Rates(), node(1, ["tiny"], resources=CPU)
    assert rates.decode(place, TINY, int(REFERENCE_BYTES)) == pytest.approx(CPU_DECODE_TOKENS_PER_S)
    ratio = rates.decode(place, TINY, int(REFERENCE_BYTES) * 10) / CPU_DECODE_TOKENS_PER_S
    assert ratio == pytest.approx(math.pow(10, -0.9))


def test_only_a_real_load_teaches_how_long_one_takes() -> None:
    rates, place = Rates(), node(1, ["tiny"])
    guess = rates.load_s(place, SIZE)
    rates.learn(place, TINY, answer(1, 1.0, load_s=0.01))
    assert rates.load_s(place, SIZE) == guess
    rates.learn(place, TINY, answer(1, 1.0, load_s=50.0))
    assert rates.load_s(place, SIZE) == pytest.approx(51.0)


def test_answers_are_expected_to_be_as_long_as_they_were_within_the_callers_bound() -> None:
    rates, place = Rates(), node(1, ["tiny"])
    assert rates.output_tokens(TINY, None) == OUTPUT_TOKENS
    rates.learn(place, TINY, answer(1000, 1.0))
    assert rates.output_tokens(TINY, None) == pytest.approx(1000)
    assert rates.output_tokens(TINY, 16) == 16
    assert rates.output_tokens(TINY, -1) == pytest.approx(1000)


def test_what_is_remembered_is_bounded_and_can_be_forgotten() -> None:
    rates, place = Rates(), node(1, ["tiny"])
    for number in range(MAX_ENTRIES + 10):
        rates.learn(place, key(f"m{number}"), answer(10, 1.0))
    assert len(rates._decode) == MAX_ENTRIES
    rates.forget(place.id)
    assert not rates._decode
