"""Ranges as clients write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.wire.ranges import RangeNotSatisfiable, content_range, read_range


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("", None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=2-", (2, 10)),
        ("bytes=2-400", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-300", (0, 10)),
        ("bytes=5-2", None),
        ("bytes=1-2,4-5", None),
        ("items=1-2", None),
        ("bytes=1", None),
        ("bytes=٣-٤", None),
    ],
)
def test_one_range_is_read_and_all_else_is_none(header: str | None, wanted: tuple[int, int] | None) -> None:
    assert read_range(header, 10) == wanted


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=11-12", "bytes=-0"])
def test_what_begins_after_the_end_is_refused(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        read_range(header, 10)


def test_the_answer_says_what_it_has() -> None:
    assert content_range(2, 6, 10) == "bytes 2-5/10"


@given(st.text(max_size=40), st.integers(0, 2**43))
def test_any_text_is_a_range_within_the_bytes_or_none(header: str, size: int) -> None:
    try:
        wanted = read_range(header, size)
    except RangeNotSatisfiable:
        return
    assert wanted is None or 0 <= wanted[0] < wanted[1] <= size
