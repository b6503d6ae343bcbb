"""Tasks that run beside everything else: named, never dying unheard, ended by whoever began them."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger()


def background(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Begin ``work``. If it fails, that is logged at once and not only when somebody asks."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_report)
    return task


async def end(*tasks: asyncio.Task[None] | None) -> None:
    """Cancel the tasks that still run and wait until all are over; what failed was reported then."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    for task in running:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task_failed", task=task.get_name(), error=repr(error), exc_info=error)
