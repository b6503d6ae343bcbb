"""Waiting for a condition with a deadline, instead of sleeping and hoping."""

import asyncio
import time
from collections.abc import Callable


async def until(
    condition: Callable[[], bool], *, seconds: float = 30.0, what: str = "the condition"
) -> float:
    """Seconds until ``condition`` held; fails the test when it does not within ``seconds``."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        await asyncio.sleep(0.01)
    return time.monotonic() - began
