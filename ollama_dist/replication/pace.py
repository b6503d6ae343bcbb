"""How fast bytes of models may travel: a cap that is kept whoever asks, and lower while tokens are served."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

BURST_S: Final = 0.05
"""So much may come at once after a pause."""

FINE_BYTES: Final = 64 * 1024
COARSE_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Rates:
    """Caps in bytes a second; 0: none."""

    always: int = 0
    serving: int = 0
    """While requests are answered."""
    scrub: int = 0

    def now(self, *, is_serving: bool) -> int:
        """The cap of the moment: the lower one that counts."""
        caps = [cap for cap in (self.always, self.serving if is_serving else 0) if cap]
        return min(caps, default=0)


class Pace:
    """Lets bytes through no faster than ``limit()`` bytes a second; 0: as fast as they come."""

    def __init__(self, limit: Callable[[], float] = lambda: 0.0) -> None:
        self._limit = limit
        self._free_at = float("-inf")
        self._lock = threading.Lock()

    @property
    def step(self) -> int:
        """Bytes to take at once: few where a cap makes many take turns."""
        return FINE_BYTES if self.is_capped else COARSE_BYTES

    @property
    def is_capped(self) -> bool:
        return self._limit() > 0

    def wait_s(self, now: float) -> float:
        """Seconds until more may go."""
        return max(0.0, self._free_at - now) if self._limit() > 0 else 0.0

    def spend(self, size: int, now: float) -> None:
        """``size`` bytes go at ``now``, or as soon as they may."""
        limit = self._limit()
        if limit > 0:
            self._free_at = max(self._free_at, now - BURST_S) + size / limit

    async def take(self, size: int) -> None:
        """Wait for the turn of ``size`` bytes."""
        if (wait := self._turn(size)) > 0:
            await asyncio.sleep(wait)

    def take_in_thread(self, size: int) -> None:
        """The same, for a thread: which may take turns with the event loop."""
        if (wait := self._turn(size)) > 0:
            time.sleep(wait)

    def _turn(self, size: int) -> float:
        """Spend ``size`` bytes; how long to wait before."""
        with self._lock:
            now = time.monotonic()
            wait = self.wait_s(now)
            self.spend(size, now)
            return wait
