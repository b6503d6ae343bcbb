from typing import Any

import pytest

from ollama_dist.wire.durations import FOREVER, InvalidDuration, is_zero, keep_alive_seconds, parse_duration


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (0.0, 0.0),
        (300, 300.0),
        (1.5, 1.5),
        (-1, FOREVER),
        (-0.5, FOREVER),
        ("0", 0.0),
        ("0s", 0.0),
        ("0m", 0.0),
        ("5m", 300.0),
        ("1h15m30.5s", 4530.5),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("100ms", 0.1),
        ("10µs", 1e-5),
        ("+2h", 7200.0),
        ("-1m", FOREVER),
        ("-1ns", FOREVER),
    ],
)
def test_every_spelling_is_understood(value: Any, seconds: float | None) -> None:
    assert keep_alive_seconds(value) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("5", 'time: missing unit in duration "5"'),
        ("soon", 'time: invalid duration "soon"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        (".s", 'time: invalid duration ".s"'),
        ("5 m", 'time: unknown unit " m" in duration "5 m"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ('"', 'time: invalid duration "\\""'),
        ("5é", 'time: unknown unit "\\xc3\\xa9" in duration "5\\xc3\\xa9"'),
        ("9999999h", 'time: invalid duration "9999999h"'),
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
    ],
)
def test_what_is_no_duration_is_refused_in_the_words_of_go(value: Any, complaint: str) -> None:
    with pytest.raises(InvalidDuration) as caught:
        keep_alive_seconds(value)
    assert str(caught.value) == complaint


@pytest.mark.parametrize("value", [0, 0.0, "0", "0s", "0m", "-0s", 1e-12])
def test_zero_in_any_spelling_is_zero(value: Any) -> None:
    assert is_zero(value)


@pytest.mark.parametrize("value", [None, -1, "5", "1s", 0.1, [], "-1m"])
def test_anything_else_is_not_zero(value: Any) -> None:
    assert not is_zero(value)


def test_a_negative_duration_keeps_its_sign_when_it_is_no_keep_alive() -> None:
    assert parse_duration("-1h30m") == -5400.0
