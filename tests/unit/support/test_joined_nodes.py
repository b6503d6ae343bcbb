"""Nodes for tests whose start fails: what is left open keeps uvloop's loop from closing, deaf to Ctrl-C."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ollama_dist.api.listener import Listener
from tests.support.joined_nodes import joined_nodes


@pytest.mark.parametrize("fails_at", [1, 2, 4])
async def test_a_start_that_fails_leaves_nothing_behind(
    fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = 0
    start = Listener.start

    async def failing(self: Any) -> None:
        nonlocal begun
        begun += 1
        if begun == fails_at:
            raise OSError("the port is taken")
        await start(self)

    monkeypatch.setattr(Listener, "start", failing)
    before = asyncio.all_tasks()
    with pytest.raises(OSError, match="taken"):
        async with joined_nodes({"desk": ["tiny"], "laptop": []}, folder=tmp_path):
            raise AssertionError("it began")
    assert asyncio.all_tasks() == before
