import asyncio

import pytest
import structlog

from ollama_dist.runtime.tasks import Tasks, background, end


async def test_a_task_that_fails_says_so_at_once_and_ends_without_a_word_more() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with structlog.testing.capture_logs() as logs:
        task = background(fail(), "failing")
        await asyncio.wait([task])
        await asyncio.sleep(0)
    assert [(line["event"], line["task"]) for line in logs] == [("task_failed", "failing")]
    await end(task, None)


async def test_all_tasks_end_with_their_owner_but_the_one_that_ends_them() -> None:
    tasks = Tasks()
    ended = []

    async def stay() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("stay")

    async def stop_all() -> None:
        await tasks.stop()
        ended.append("stop_all")

    tasks.start(stay(), "stay")
    await asyncio.sleep(0)
    await asyncio.wait_for(tasks.start(stop_all(), "stop_all"), 5)
    assert ended == ["stay", "stop_all"]
    await asyncio.sleep(0)
    assert len(tasks) == 0


async def test_the_result_of_a_task_is_its_own() -> None:
    async def add() -> int:
        return 3

    tasks = Tasks()
    assert await tasks.start(add(), "add") == 3

    async def fail() -> None:
        raise ValueError("no")

    with structlog.testing.capture_logs(), pytest.raises(ValueError, match="no"):
        await tasks.start(fail(), "fail")
