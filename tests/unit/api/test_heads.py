"""What is read of a request's head."""

from ollama_dist.api.heads import LARGEST_KEPT, RawHeaders, RequestHead, head_of


def head(*headers: tuple[str, str]) -> RequestHead:
    raw: RawHeaders = tuple((name.encode(), value.encode()) for name, value in headers)
    return head_of((1, 1), raw)


def test_heads_that_differ_in_what_is_sent_are_alike() -> None:
    first = head(("Host", "x"), ("Content-Length", "5"), ("Authorization", "Bearer a"))
    assert first.is_remembered
    assert head(("Host", "x"), ("Content-Length", "70"), ("Authorization", "Bearer b")) is first
    assert head(("Host", "y"), ("Content-Length", "5")) is not first


def test_no_credential_is_remembered() -> None:
    names = ("Authorization", "Cookie", "X-Api-Key", "cookie", "x-api-key", "Proxy-Authorization")
    read = head(*((name, "secret") for name in names), ("User-Agent", "a"))
    assert "secret" not in repr(read)
    assert read.passed_on == (("user-agent", "a"),)


def test_a_large_head_is_read_and_not_remembered() -> None:
    headers = ("User-Agent", "x" * LARGEST_KEPT), ("Host", "a")
    assert not head(*headers).is_remembered
    assert head(*headers) is not head(*headers)
    assert head(*headers).get("user-agent") == "x" * LARGEST_KEPT


def test_of_several_values_the_first_counts_and_of_origins_all() -> None:
    read = head(("Origin", "a"), ("X-Ollama-Node", "desk"), ("origin", "b"), ("x-ollama-node", "laptop"))
    assert (read.get("x-ollama-node"), read.origin) == ("desk", "a, b")


def test_who_speaks_for_somebody_else_is_known_by_any_of_its_headers() -> None:
    assert not head(("Host", "localhost")).is_forwarded
    for name in ("Via", "x-forwarded-for", "CF-Ray", "X-Real-IP"):
        assert head(("Host", "localhost"), (name, "1")).is_forwarded


def test_what_the_parser_lets_by_is_refused_however_often_it_comes() -> None:
    for _ in range(2):
        assert head(("Content_Length", "5")).refusal == 400
