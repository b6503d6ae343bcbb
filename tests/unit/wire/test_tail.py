import random

from ollama_dist.wire.outline import Outline
from ollama_dist.wire.tail import LONG_LINE_BYTES, SETTLE_BYTES, Tail, Whole


def fed(data: bytes, lines: int = 5, longest_piece: int = 4000) -> Tail:
    tail = Tail(lines)
    rng = random.Random(len(data))
    at = 0
    while at < len(data):
        size = rng.randint(1, longest_piece)
        tail.feed(data[at : at + size])
        at += size
    return tail


def test_the_last_lines_are_there_and_what_is_unfinished() -> None:
    tail = fed(b"".join(b"line %d\n" % number for number in range(10_000)) + b"rest")
    assert tail.lines()[-2:] == [b"line 9998", b"line 9999"]
    assert len(tail.lines()) >= 5
    assert tail.unfinished() == b"rest"
    assert tail.newlines == 10_000
    assert tail.size == sum(len(b"line %d\n" % number) for number in range(10_000)) + 4


def test_the_last_lines_are_those_of_all_where_it_tells_them() -> None:
    said = b"".join(b"line %d\n" % number for number in range(10_000))
    told = 0
    for cut in range(len(said) - 40, len(said) + 1):
        for count in (1, 3):
            tail = fed(said[:cut], longest_piece=1 + cut % 300)
            for last in (tail.last(count), tail.last(count) if tail.lines() else []):
                assert last == (tail.lines()[-count:] if said[:cut].endswith(b"\n") else [])
                told += bool(last)
    assert told == 4 * said[-41:].count(b"\n")


def test_the_last_lines_are_not_told_where_they_are_long() -> None:
    assert fed(b"a\nb\nc\n").last(2) == [b"b", b"c"]
    assert fed(b"a\nb\nc\n").last(9) == [b"a", b"b", b"c"]
    assert fed(b"a\n\n\n").last(2) == [b"", b""]
    assert fed(b"").last(1) == []
    for size in (LONG_LINE_BYTES, LONG_LINE_BYTES + 1, 4 * SETTLE_BYTES):
        assert bool(fed(b"a\n" + b"x" * size + b"\n").last(1)) == (size <= LONG_LINE_BYTES)


def test_lines_and_counts_are_the_same_however_often_they_are_asked_for() -> None:
    tail = fed(b"a\nb\nc")
    assert (tail.lines(), tail.unfinished()) == ([b"a", b"b"], b"c")
    tail.feed(b"d\n")
    assert (tail.lines(), tail.unfinished(), tail.size) == ([b"a", b"b", b"cd"], b"", 7)


def test_a_line_too_long_to_keep_is_outlined_while_it_comes_and_after() -> None:
    long = b'data: {"a":1,"b":[' + b"1," * SETTLE_BYTES + b'1],"c":2}'
    tail = fed(b"first\n" + long)
    unfinished = tail.unfinished()
    assert isinstance(unfinished, Outline)
    assert unfinished.facts["a"] == 1
    tail.feed(b"\n\nlast\n")
    first, outlined, *others = tail.lines()
    assert first == b"first"
    assert isinstance(outlined, Outline)
    assert outlined.is_whole
    assert outlined.facts["c"] == 2
    assert others == [b"", b"last"]


def test_a_finished_line_of_some_length_is_outlined_when_lines_are_gone_through() -> None:
    long = b'{"a":"' + b"x" * LONG_LINE_BYTES + b'"}'
    [line] = fed(long + b"\n").lines()
    assert isinstance(line, Outline)
    assert line.is_whole


def test_memory_is_bounded_whatever_comes() -> None:
    rng = random.Random(7)
    tail = Tail(40)
    for _ in range(300):
        tail.feed(b'{"a":"' + b"x" * rng.choice([1, 100, 3000, 40_000]) + rng.choice([b'"}\n', b"\n", b""]))
        assert tail._pending <= SETTLE_BYTES + 40_010
        assert len(tail._kept) <= 40 + 1
        assert all(isinstance(line, Outline) or len(line) <= LONG_LINE_BYTES for line in tail._kept)


def test_a_whole_is_outlined_at_the_end_or_on_the_way() -> None:
    for padding in (10, 10 * SETTLE_BYTES):
        whole = Whole()
        body = b'{"a":"' + b"x" * padding + b'","b":1}\n'
        for at in range(0, len(body), 1000):
            whole.feed(body[at : at + 1000])
        assert whole.outline().is_whole
        assert whole.outline().facts["b"] == 1
        assert whole.size == len(body)
