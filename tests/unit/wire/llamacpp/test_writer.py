import pytest

from ollama_dist.core.dialects import Dialect
from ollama_dist.wire.llamacpp.writer import event, refusal, timestamp


def test_times_are_in_utc() -> None:
    assert timestamp(1_700_000_000.25) == "2023-11-14T22:13:20.250000Z"
    assert timestamp(0) == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("dialect", "late", "content_type", "ends"),
    [
        (Dialect.OLLAMA, True, "application/json; charset=utf-8", b"}"),
        (Dialect.OPENAI, False, "application/json; charset=utf-8", b"}"),
        (Dialect.OPENAI, True, "application/json", b"}\n"),
        (Dialect.ANTHROPIC, True, "application/json", b"}\n"),
    ],
)
def test_refusals_are_printed_by_whoever_found_the_fault(
    dialect: Dialect, late: bool, content_type: str, ends: bytes
) -> None:
    told_type, body = refusal(dialect, 404, "no such model", request_id="1", late=late)
    assert told_type == content_type
    assert body.endswith(ends)
    assert b"no such model" in body


def test_events_have_a_name_where_there_is_one() -> None:
    assert event({"a": 1}) == b'data: {"a":1}\n\n'
    assert event({"a": 1}, "done") == b'event: done\ndata: {"a":1}\n\n'
