"""Files opened in a thread."""

import asyncio
import io
import threading
from pathlib import Path

import pytest

from ollama_dist.runtime.files import opened


async def test_a_file_is_open_within_the_block_only(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"bytes")
    async with opened(lambda: (tmp_path / "blob").open("rb")) as file:
        assert file.read() == b"bytes"
    assert file.closed


async def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with opened(lambda: (tmp_path / "none").open("rb")):
            raise AssertionError("it was opened")


@pytest.mark.parametrize("leaves_first", [True, False])
async def test_who_leaves_while_it_is_opened_leaves_nothing_open(leaves_first: bool) -> None:
    may_open, is_open, file = threading.Event(), threading.Event(), io.BytesIO()

    def opening() -> io.BytesIO:
        may_open.wait(30)
        is_open.set()
        return file

    async def use() -> None:
        async with opened(opening):
            raise AssertionError("it was used")

    user = asyncio.create_task(use())
    await asyncio.sleep(0)
    if leaves_first:
        user.cancel()
    may_open.set()
    is_open.wait(30)  # the loop stands still meanwhile: the user cannot have learnt of it
    user.cancel()
    with pytest.raises(asyncio.CancelledError):
        await user
    await asyncio.get_running_loop().shutdown_default_executor()
    assert file.closed
