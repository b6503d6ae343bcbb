import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.wire.outline import (
    CONTAINER,
    KEPT_HEAD_BYTES,
    KEPT_TAIL_BYTES,
    MAX_FACTS,
    Outline,
    document_of,
    is_container,
    outline_of,
)
from tests.support import recordings


def read(data: bytes, longest_piece: int = 10**6, seed: int = 1) -> Outline:
    outline = Outline()
    rng = random.Random(seed)
    at = 0
    while at < len(data):
        size = rng.randint(1, longest_piece)
        outline.feed(data[at : at + size])
        at += size
    return outline


def test_facts_are_keyed_by_their_path() -> None:
    document = {
        "done": True,
        "count": 12,
        "speed": 1.5e3,
        "reason": None,
        "usage": {"prompt_tokens": 5},
        "choices": [{"finish_reason": None}, {"delta": {"content": 'a"\\ü\n'}, "finish_reason": "stop"}],
        "context": [1, 2, 3],
    }
    outline = read(json.dumps(document).encode())
    assert outline.is_whole
    assert outline.facts == {
        "done": True,
        "count": 12,
        "speed": 1500.0,
        "reason": None,
        "usage": CONTAINER,
        "usage.prompt_tokens": 5,
        "choices": CONTAINER,
        "choices.finish_reason": "stop",
        "choices.delta": CONTAINER,
        "choices.delta.content": 'a"\\ü\n',
        "context": CONTAINER,
    }
    assert (outline.text("choices.finish_reason"), outline.text("done")) == ("stop", "")
    assert (outline.number("count"), outline.number("nothing")) == (12, 0)


@pytest.mark.parametrize("longest", [1, 3, 50])
def test_recorded_objects_read_the_same_in_one_piece_and_in_many(longest: int) -> None:
    for exchange in recordings.exchanges("0.33.0-rc2"):
        for line in exchange.answer.split(b"\n"):
            line = line.removeprefix(b"data: ")
            if line.startswith(b"{") and len(line) < KEPT_TAIL_BYTES:
                pieces, whole = read(line, longest, seed=len(line)), outline_of(line)
                assert pieces.is_whole
                assert pieces.facts == whole.facts


def test_no_beginning_of_an_object_is_whole() -> None:
    line = recordings.by_id("0.33.0-rc2")["ant-tools"].answer.strip()
    for cut in range(len(line)):
        assert not read(line[:cut]).is_whole
        assert not outline_of(line[:cut]).is_whole


def test_only_white_space_may_follow() -> None:
    assert read(b'{"a":1} \r\n').is_whole
    assert not read(b'{"a":1} x').is_whole
    assert not read(b'{"a":1}{"a":2}').is_whole


def test_what_stands_before_the_object_is_passed_over() -> None:
    assert read(b'data: {"a":1}').facts == {"a": 1}


def test_of_long_strings_the_beginning_and_the_end_are_kept() -> None:
    text = "begin " + "x" * 100_000 + " end"
    outline = read(json.dumps({"response": text}).encode(), longest_piece=5000)
    kept = outline.text("response")
    assert kept.startswith("begin ")
    assert kept.endswith(" end")
    assert len(kept) <= KEPT_HEAD_BYTES + 2 * KEPT_TAIL_BYTES


def test_neither_many_nor_deep_nor_long_fields_are_kept() -> None:
    many = read(json.dumps({str(number): number for number in range(10_000)}).encode())
    assert len(many.facts) == MAX_FACTS
    deep = read(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    assert deep.is_whole
    assert len(deep.facts) <= 6
    assert read(json.dumps({"k" * 1000: 1}).encode()).facts == {}


def test_bytes_that_are_not_utf8_do_not_stop_it() -> None:
    outline = read(b'{"a":"\xff","b":1}')
    assert (outline.text("a"), outline.facts["b"]) == ("\ufffd", 1)


texts = st.text(st.characters(codec="utf-8"), max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(texts, values, max_size=3)


@given(objects, st.integers(1, 9))
def test_any_object_is_whole_when_all_of_it_came_and_not_before(value: dict[str, Any], longest: int) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    assert read(text, longest).is_whole
    assert not read(text[:-1], longest).is_whole


names = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=5)
nested = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(names, nested, max_size=3))
def test_a_document_tells_of_a_path_what_its_outline_would(value: dict[str, Any]) -> None:
    text = json.dumps(value).encode()
    document, outline = document_of(text), outline_of(text)
    assert document.is_whole
    assert document.facts == outline.facts
    assert {path: document.fact(path) for path in outline.facts} == outline.facts
    assert document.fact("no.such") is None
    assert {name for name, inner in document.top.items() if is_container(inner)} >= {
        name for name, inner in value.items() if isinstance(inner, list | dict)
    }


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_any_bytes_can_be_fed(pieces: list[bytes]) -> None:
    outline = Outline()
    for piece in pieces:
        outline.feed(piece)
    assert len(outline.facts) <= MAX_FACTS
