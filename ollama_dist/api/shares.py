"""How much each caller gets: requests a minute, and requests at once."""

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from ollama_dist.api.auth import NO_END, Identity
from ollama_dist.core.errors import TooManyRequests
from ollama_dist.node.client_keys import Share
from ollama_dist.runtime.rate import RateLimit

BURST_S: Final = 10.0
"""A caller that was silent may ask at once for what it gets in so long."""

SHARES_KEPT: Final = 64
"""Different shares whose callers are counted; there are as many as an operator has written down."""

BUSY_RETRY_S: Final = 1


_NOT_COUNTED: Final = nullcontext()


class Shares:
    """Counts what callers have begun and what of it is under way."""

    def __init__(self) -> None:
        self._rates: OrderedDict[Share, RateLimit] = OrderedDict()
        self._under_way: Counter[str] = Counter()

    def taken(self, caller: Identity, now: float) -> AbstractContextManager[None]:
        """One request of ``caller`` for as long as the block runs; raises `TooManyRequests`."""
        share = caller.share
        return (
            _NOT_COUNTED
            if share is None or share is NO_END or share == NO_END
            else self._counted(caller, share, now)
        )

    @contextmanager
    def _counted(self, caller: Identity, share: Share, now: float) -> Iterator[None]:
        if share.at_once and self._under_way[caller.tenant] >= share.at_once:
            raise TooManyRequests(
                f"at most {share.at_once} requests at once: wait until one has ended", BUSY_RETRY_S
            )
        self._take_rate(caller.tenant, share, now)
        self._under_way[caller.tenant] += 1
        try:
            yield
        finally:
            self._under_way[caller.tenant] -= 1
            if not self._under_way[caller.tenant]:
                del self._under_way[caller.tenant]

    def _take_rate(self, tenant: str, share: Share, now: float) -> None:
        if not share.per_minute:
            return
        rate = self._rates.get(share)
        if rate is None:
            per_s = share.per_minute / 60
            rate = self._rates[share] = RateLimit(per_s, max(1.0, per_s * BURST_S))
            while len(self._rates) > SHARES_KEPT:
                self._rates.popitem(last=False)
        if not rate.allows(tenant, now):
            wait = math.ceil(round(rate.wait_s(tenant, now), 3))
            raise TooManyRequests(
                f"at most {share.per_minute} requests a minute: wait {wait} s", max(1, wait)
            )
