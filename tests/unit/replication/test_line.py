"""Who stands in line for a blob."""

from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.replication.disk.line import BLOBS, LATELY_S, TAKERS, Line

BLOB, OTHER = Digest("d" * 64), Digest("e" * 64)
A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def test_those_who_began_before_are_told_the_nearest_first() -> None:
    line = Line()
    assert line.stand(BLOB, A, 10, now=0.0) == []
    assert line.stand(BLOB, C, 30, now=0.0) == [(10, A)]
    assert line.stand(BLOB, B, 20, now=0.0) == [(10, A)]
    assert line.stand(BLOB, C, 30, now=0.0) == [(20, B), (10, A)]
    assert line.stand(OTHER, C, 30, now=0.0) == []


def test_two_that_began_at_the_same_time_are_ordered_alike_everywhere() -> None:
    for first, second in ((A, B), (B, A)):
        line = Line()
        line.stand(BLOB, first, 10, now=0.0)
        line.stand(BLOB, second, 10, now=0.0)
        assert line.stand(BLOB, A, 10, now=0.0) == []
        assert line.stand(BLOB, B, 10, now=0.0) == [(10, A)]


def test_who_has_not_said_so_again_stands_there_no_more() -> None:
    line = Line()
    line.stand(BLOB, A, 10, now=0.0)
    assert line.stand(BLOB, B, 20, now=LATELY_S) == [(10, A)]
    assert line.stand(BLOB, B, 20, now=LATELY_S + 0.1) == []


def test_it_is_bounded() -> None:
    line = Line()
    for number in range(TAKERS + 10):
        line.stand(BLOB, NodeId(f"{number:04}"), number, now=0.0)
    assert len(line.stand(BLOB, NodeId("z"), 10_000, now=0.0)) == TAKERS
    for number in range(BLOBS):
        line.stand(Digest(f"{number:064}"), A, 0, now=0.0)
    assert line.stand(BLOB, B, 20, now=0.0) == []
