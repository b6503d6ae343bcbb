import pytest

from ollama_dist.api.framing import refusal

CHUNKED = [("Transfer-Encoding", "Chunked")]


def test_a_sound_head_is_taken() -> None:
    assert refusal((1, 1), [("Host", "localhost"), ("Content-Length", "3"), ("my_own", "x")]) is None
    assert refusal((1, 1), CHUNKED) is None
    assert refusal((1, 0), []) is None


@pytest.mark.parametrize("version", [(0, 9), (2, 0), (1, 2)])
def test_only_http_1_is_spoken(version: tuple[int, int]) -> None:
    assert refusal(version, []) == 505


@pytest.mark.parametrize("value", ["identity, chunked", "gzip, chunked", ",chunked", "", "xchunked"])
def test_no_coding_is_known_but_chunked(value: str) -> None:
    assert refusal((1, 1), [("transfer-encoding", value)]) == 501


def test_before_1_1_nobody_knows_where_a_chunked_body_ends() -> None:
    assert refusal((1, 0), CHUNKED) == 400


@pytest.mark.parametrize("name", ["Content_Length", "TRANSFER_ENCODING", "x_forwarded-for", "X_Api_Key"])
def test_a_header_we_read_may_not_be_spelt_otherwise(name: str) -> None:
    assert refusal((1, 1), [(name, "1")]) == 400
