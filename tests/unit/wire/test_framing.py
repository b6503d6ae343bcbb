import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.wire.framing import NdjsonSplitter, RecordTooLong, SseEvent, SseSplitter
from tests.support import recordings


def pieces_of(data: bytes, longest: int) -> list[bytes]:
    rng = random.Random(longest)
    pieces = []
    while data:
        size = rng.randint(1, longest)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def records(data: bytes, longest: int = 10**6) -> list[bytes]:
    splitter = NdjsonSplitter()
    return [record for piece in pieces_of(data, longest) for record in splitter.feed(piece)]


def events(data: bytes, longest: int = 10**6) -> list[SseEvent]:
    splitter = SseSplitter()
    return [event for piece in pieces_of(data, longest) for event in splitter.feed(piece)]


def test_lines_end_at_line_feeds_and_nowhere_else() -> None:
    text = '{"a":"x\u2028y\u0085z"}\n\n  \r\n{"b":1}\r\n'.encode()
    assert records(text) == ['{"a":"x\u2028y\u0085z"}'.encode(), b'{"b":1}\r']


def test_what_has_no_line_end_is_there_for_the_asking() -> None:
    splitter = NdjsonSplitter()
    assert splitter.feed(b'{"a":1}\n{"b"') == [b'{"a":1}']
    assert splitter.feed(b":2}") == []
    assert splitter.take_rest() == b'{"b":2}'
    assert splitter.take_rest() == b""


def test_events_have_names_and_lines_of_data() -> None:
    stream = (
        b": hello\n\nevent: a\ndata: 1\ndata:2\nid: 5\nretry: 9\n\ndata\n\nevent: nothing\n\ndata: [DONE]\n\n"
    )
    assert events(stream) == [
        SseEvent(b"1\n2", "a"),
        SseEvent(b""),
        SseEvent(b"[DONE]"),
    ]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("longest", [1, 2, 100])
def test_any_line_end_ends_a_line_of_an_event(line_end: bytes, longest: int) -> None:
    stream = b"event: a\ndata: x\n\ndata: y\n\n".replace(b"\n", line_end)
    assert events(stream, longest) == [SseEvent(b"x", "a"), SseEvent(b"y")]


def test_it_is_known_whether_an_event_is_under_way() -> None:
    splitter = SseSplitter()
    between = [splitter.is_between_events]
    for piece in (b"data: x\n", b"\n", b"d"):
        splitter.feed(piece)
        between.append(splitter.is_between_events)
    assert between == [True, False, True, False]


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_recorded_streams_come_apart_as_they_were_put_together(version: str) -> None:
    for exchange in recordings.exchanges(version):
        if exchange.content_type == "application/x-ndjson":
            expected = [line for line in exchange.answer.split(b"\n") if line]
            assert all(records(exchange.answer, longest) == expected for longest in (1, 60, 5000))
        elif exchange.content_type == "text/event-stream":
            count = exchange.answer.count(b"\n\n")
            assert all(len(events(exchange.answer, longest)) == count for longest in (1, 60, 5000))


def test_what_grows_beyond_its_bound_is_refused() -> None:
    with pytest.raises(RecordTooLong):
        NdjsonSplitter(limit=10).feed(b"x" * 11)
    lines = NdjsonSplitter(limit=10)
    assert lines.feed(b"x" * 10) == []
    with pytest.raises(RecordTooLong):
        lines.feed(b"x")
    sse = SseSplitter(limit=10)
    sse.feed(b"data: x\n" * 10)
    with pytest.raises(RecordTooLong):
        sse.feed(b"data: x\n")


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"\n", b"\r", b"data: x", b"\n\n"]), max_size=12))
def test_where_bytes_are_cut_does_not_matter(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    ndjson, sse = NdjsonSplitter(), SseSplitter()
    assert [record for piece in pieces for record in ndjson.feed(piece)] == records(whole)
    assert [event for piece in pieces for event in sse.feed(piece)] == events(whole)
