"""How often somebody may do something. Pure."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MESSAGES_PER_S: Final = 50.0
BURST: Final = 100.0
MAX_PEERS: Final = 1024


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since: float


class RateLimit:
    """A token bucket per peer: ``rate`` messages a second, ``burst`` at once.

    Bounded: the peer that was silent longest is forgotten, whose bucket is the fullest.
    """

    def __init__(self, rate: float = MESSAGES_PER_S, burst: float = BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def allows(self, peer: str, now: float) -> bool:
        """Whether one more message of ``peer`` is taken at ``now``, seconds of any steady clock."""
        bucket = self._buckets.pop(peer, None) or _Bucket(self._burst, now)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.since) * self._rate)
        bucket.since = now
        while len(self._buckets) >= MAX_PEERS:
            self._buckets.popitem(last=False)
        self._buckets[peer] = bucket
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True

    def wait_s(self, peer: str, now: float) -> float:
        """Seconds until the next message of ``peer`` would be taken."""
        bucket = self._buckets.get(peer)
        missing = 1.0 - bucket.tokens - (now - bucket.since) * self._rate if bucket else 0.0
        return max(0.0, missing / self._rate)
