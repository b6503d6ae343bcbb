"""Lists of several sources beside each other."""

from ollama_dist.core.ids import NodeId
from ollama_dist.replication.transfer.claims import Claims

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def test_one_source_is_believed_and_two_that_agree() -> None:
    claims = Claims()
    assert claims.expected(0) is None
    claims.add(A, 0, [b"0", b"1"])
    claims.add(B, 1, [b"1", b"2"])
    assert [claims.expected(index) for index in range(4)] == [b"0", b"1", b"2", None]
    assert claims.witnesses(1) == {A, B}
    assert not any(claims.is_disputed(index) for index in range(4))


def test_two_that_differ_settle_nothing_and_a_third_does() -> None:
    claims = Claims()
    claims.add(A, 0, [b"right"])
    claims.add(B, 0, [b"wrong"])
    assert claims.expected(0) is None
    assert claims.is_disputed(0)
    assert claims.outvoted(0) == frozenset()

    claims.add(C, 0, [b"right"])

    assert claims.expected(0) == b"right"
    assert claims.outvoted(0) == {B}


def test_who_is_not_believed_has_said_nothing() -> None:
    claims = Claims()
    claims.add(A, 0, [b"right"])
    claims.add(B, 0, [b"wrong"])
    claims.drop(B)
    assert claims.expected(0) == b"right"
    claims.drop(A)
    assert claims.expected(0) is None
    assert not claims.is_disputed(0)
