from contextlib import ExitStack

import pytest

from ollama_dist.api.auth import Identity
from ollama_dist.api.shares import Shares
from ollama_dist.core.errors import TooManyRequests
from ollama_dist.node.client_keys import Share

GUEST = Identity("guest", Share(per_minute=60, at_once=2))


def begin(shares: Shares, caller: Identity, now: float = 0.0) -> None:
    """A request that is over at once."""
    with shares.taken(caller, now):
        pass


def test_no_more_at_once_than_allowed_whatever_becomes_of_them() -> None:
    shares = Shares()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(shares.taken(GUEST, 0.0))
        with pytest.raises(TooManyRequests, match="at most 2 requests at once") as refusal:
            begin(shares, GUEST)
        assert (refusal.value.status, refusal.value.retry_after_s) == (429, 1)
        begin(shares, Identity("other", GUEST.share))
    with pytest.raises(ValueError, match="broken"), shares.taken(GUEST, 0.0):
        raise ValueError("broken")
    begin(shares, GUEST)


def test_no_more_a_minute_than_allowed_and_it_is_told_when_the_next_may_come() -> None:
    shares = Shares()
    for _ in range(10):  # what ten silent seconds are worth
        begin(shares, GUEST)
    with pytest.raises(TooManyRequests, match="at most 60 requests a minute: wait 1 s") as refusal:
        begin(shares, GUEST)
    assert refusal.value.retry_after_s == 1
    begin(shares, GUEST, now=1.0)
    with pytest.raises(TooManyRequests):
        begin(shares, GUEST, now=1.5)


def test_a_slow_share_waits_long() -> None:
    shares = Shares()
    once = Identity("x", Share(per_minute=1))
    begin(shares, once)
    with pytest.raises(TooManyRequests) as refusal:
        begin(shares, once, now=20.0)
    assert refusal.value.retry_after_s == 40


@pytest.mark.parametrize("share", [None, Share()])
def test_without_a_share_there_is_no_end(share: Share | None) -> None:
    shares = Shares()
    for _ in range(1000):
        begin(shares, Identity("x", share))


def test_what_has_ended_is_forgotten() -> None:
    shares = Shares()
    for number in range(100):
        begin(shares, Identity(str(number), GUEST.share))
    assert not shares._under_way
