"""Waiting until this node has heard of what was just changed: its client is to find it (read after write)."""

import asyncio
from collections.abc import Callable
from typing import Final

HEARD_S: Final = 2.0
"""How long a change is waited for to come back by gossip; it takes a tenth of that when all is well."""

_STEP_S: Final = 0.02


async def until_heard(is_visible: Callable[[], bool]) -> bool:
    """Wait for ``is_visible``, at most `HEARD_S`; whether it came to be."""
    for _ in range(round(HEARD_S / _STEP_S)):
        if is_visible():
            return True
        await asyncio.sleep(_STEP_S)
    return is_visible()
