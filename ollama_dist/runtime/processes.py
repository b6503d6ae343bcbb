"""Processes that somebody owns from their first moment on."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any


async def owned(
    beginning: Coroutine[Any, Any, asyncio.subprocess.Process],
) -> asyncio.subprocess.Process:
    """The process that ``beginning`` (`asyncio.create_subprocess_exec`) starts.

    Who is cancelled while it starts would never learn of it, and it would be nobody's: it is ended then.
    """
    starting = asyncio.create_task(beginning, name="process-start")
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        process = await starting
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
