"""Tasks that run beside everything else: named, never dying unheard, ended by whoever began them."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()

_Result = TypeVar("_Result")


def background(work: Coroutine[Any, Any, _Result], name: str) -> asyncio.Task[_Result]:
    """Begin ``work``. If it fails, that is logged at once and not only when somebody asks."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_report)
    return task


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel the tasks that still run and wait until all are over; what failed was reported then."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    for task in running:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


class Tasks:
    """As many tasks as come, kept while they run and ended with their owner."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, _Result], name: str) -> asyncio.Task[_Result]:
        task = background(work, name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def stop(self) -> None:
        """Cancel what runs and wait until it is over; the task that asks for it goes on."""
        await end(*(task for task in self._running if task is not asyncio.current_task()))


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task_failed", task=task.get_name(), error=repr(error), exc_info=error)
