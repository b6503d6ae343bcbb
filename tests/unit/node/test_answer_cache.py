import pytest

from ollama_dist.node import answer_cache
from ollama_dist.node.answer_cache import AnswerCache, Asking, Kept, Question
from tests.support.views import request


def kept(body: bytes = b"x", at: float = 0.0) -> Kept:
    return Kept(200, (), body, None, at)


def question(text: str) -> Question:
    return Question(text)


def test_what_was_kept_is_found_until_it_is_too_old() -> None:
    cache = AnswerCache(100, max_age_s=10)
    cache.put(question("a"), kept(b"answer", at=5.0))
    found = cache.get(question("a"), now=15.0)
    assert found is not None
    assert found.body == b"answer"
    assert cache.get(question("b"), now=6.0) is None
    assert cache.get(question("a"), now=15.1) is None
    assert cache.render() == {"entries": 0, "bytes": 0, "stored": 1, "served": 1}


def test_it_is_bounded_in_bytes_and_what_was_used_longest_ago_goes_first() -> None:
    cache = AnswerCache(30, max_age_s=10)
    for name in "abc":
        cache.put(question(name), kept(b"0123456789"))
    cache.get(question("a"), now=0.0)
    cache.put(question("d"), kept(b"0123456789"))
    assert [cache.get(question(name), now=0.0) is not None for name in "abcd"] == [True, False, True, True]
    assert cache.render()["bytes"] == 30


def test_a_newer_answer_takes_the_place_of_an_older_one() -> None:
    cache = AnswerCache(30, max_age_s=10)
    cache.put(question("a"), kept(b"old"))
    cache.put(question("a"), kept(b"new!"))
    assert cache.render()["bytes"] == 4


def test_what_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_cache, "LARGEST", 5)
    cache = AnswerCache(30, max_age_s=10)
    cache.put(question("a"), kept(b"012345"))
    AnswerCache(0, max_age_s=10).put(question("a"), kept(b"0"))
    assert cache.render()["entries"] == 0


def test_no_two_askings_that_differ_in_anything_are_one_question() -> None:
    """Tenant, model, its content, and what is said."""
    one = Asking("me", b"said").about(request("tiny"), "a" * 64)
    others = [
        Asking("you", b"said").about(request("tiny"), "a" * 64),
        Asking("me", b"other").about(request("tiny"), "a" * 64),
        Asking("me", b"said").about(request("small"), "a" * 64),
        Asking("me", b"said").about(request("tiny"), "b" * 64),
    ]
    assert len({one, *others}) == 5
    assert Asking("me", b"said").about(request("tiny"), "a" * 64) == one
