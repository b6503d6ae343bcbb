"""Files opened in a thread, for a disk takes its time; closed by whoever they were opened for."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import IO, TypeVar

_File = TypeVar("_File", bound=IO[bytes])


@contextlib.asynccontextmanager
async def opened(opening: Callable[[], _File]) -> AsyncIterator[_File]:
    """What ``opening`` returns, closed when the block is left; raises what it raises.

    Who is cancelled while it is being opened would never see it: it is closed then too.
    """
    is_unwanted = threading.Event()
    came: list[_File] = []

    def run() -> None:
        came.append(opening())
        if is_unwanted.is_set():
            came[0].close()

    try:
        await asyncio.to_thread(run)
        yield came[0]
    finally:
        is_unwanted.set()
        for file in came:
            file.close()
