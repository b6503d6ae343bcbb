import asyncio
import os
import sys

import pytest

from ollama_dist.runtime.processes import owned
from tests.support.wait import until


def _children() -> set[str]:
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as children:
        return set(children.read().split())


async def test_a_process_is_handed_to_who_asked_for_it() -> None:
    process = await owned(asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(3)"))
    assert await process.wait() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="children are counted in /proc")
@pytest.mark.parametrize("steps", [1, 2])
async def test_who_is_cancelled_while_it_starts_leaves_nothing_behind(steps: int) -> None:
    before = _children()
    sleeping = asyncio.create_subprocess_exec(
        sys.executable, "-c", "import time; time.sleep(60)", stdin=asyncio.subprocess.PIPE
    )
    task = asyncio.create_task(owned(sleeping))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: _children() <= before, what="the process being gone")
