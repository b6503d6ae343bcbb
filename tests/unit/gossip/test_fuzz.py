"""A hundred thousand spoilt messages; `scripts/fuzz` is for millions."""

from tests.support.fuzz import Fuzz, main


def test_spoilt_messages_are_refused_or_do_no_harm() -> None:
    fuzz = Fuzz(seed=1)
    fuzz.run(100_000, feed_every=4)  # whatever is raised but `Malformed` ends the test
    assert fuzz.counts["malformed"] > 10_000
    assert fuzz.counts["decoded"] > 10_000
    assert fuzz.counts["rows"] <= 5
    assert fuzz.counts["rumours"] <= 64


def test_a_long_run_says_how_it_goes() -> None:
    assert main(["--messages", "2000", "--seed", "7"]) == 0
