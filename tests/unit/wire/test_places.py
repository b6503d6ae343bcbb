import pytest

from ollama_dist.core.requests import Place
from ollama_dist.wire.places import read_place, wants_place, write_place


@pytest.mark.parametrize(
    ("value", "wanted"), [("1", True), ("show", True), ("", False), (" No", False), ("0", False)]
)
def test_a_caller_asks_by_saying_anything_but_no(value: str, wanted: bool) -> None:
    assert wants_place(value) is wanted


def test_a_place_is_read_as_it_was_written() -> None:
    assert read_place(write_place(Place(3, 1.234))) == Place(3, 1.234)


def test_once_the_wait_is_over_it_is_told_how_long_it_was() -> None:
    assert write_place(Place(1, 0.5), waited_s=0.75) == "position=1, expected_ms=500, waited_ms=750"


@pytest.mark.parametrize(
    "text", ["", "position=x, expected_ms=1", "position=1", "position=-1, expected_ms=1"]
)
def test_what_is_no_place_is_none(text: str) -> None:
    assert read_place(text) is None
