"""One runner, without the supervisor."""

import asyncio
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from ollama_dist.backends.llamacpp.errors import LoadFailed, RunnerRefused
from ollama_dist.backends.llamacpp.process import start_runner
from ollama_dist.backends.llamacpp.runner import Job
from ollama_dist.core.errors import UpstreamRefused
from tests.support.wait import until

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None,
    reason="the embedded engine is tested where the extra `engine` is installed",
)


def job(path: Path) -> Job:
    return Job(
        key="secret",
        path=str(path),
        context=256,
        slots=1,
        threads=1,
        batch=256,
        gpu_layers=-1,
        main_gpu=0,
        mmap=True,
        shift=True,
        embedding=False,
        template="",
        warmup=False,
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_runner_answers_until_it_is_stopped(tiny_models: Path) -> None:
    runner = await start_runner(job(tiny_models / "tiny.gguf"), lambda reason: None, timeout=30)
    try:
        tokens = await runner.client.ask("/tokenize", {"content": "hello"})
        assert tokens["tokens"]
        with pytest.raises(RunnerRefused):
            await runner.client.ask("/completion", {"prompt": []})
    finally:
        await runner.stop()
    assert not is_alive(runner.pid)
    with pytest.raises(UpstreamRefused, match="stopped unexpectedly"):
        await runner.client.ask("/tokenize", {"content": "hello"})


async def test_a_death_nobody_asked_for_is_told_once(tiny_models: Path) -> None:
    deaths: list[str] = []
    runner = await start_runner(job(tiny_models / "tiny.gguf"), deaths.append, timeout=30)
    os.kill(runner.pid, signal.SIGKILL)
    await until(lambda: bool(deaths), what="the news of its death")
    await runner.stop()
    assert deaths == ["signal 9"]


async def test_stopping_is_no_death(tiny_models: Path) -> None:
    deaths: list[str] = []
    runner = await start_runner(job(tiny_models / "tiny.gguf"), deaths.append, timeout=30)
    await runner.stop()
    assert deaths == []


async def test_a_file_that_is_gone_is_told_in_llama_cpps_words(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"llama.cpp cannot load it: .*No such file"):
        await start_runner(job(tmp_path / "none.gguf"), lambda reason: None, timeout=30)


async def test_a_load_that_takes_too_long_is_given_up(tiny_models: Path) -> None:
    with pytest.raises(LoadFailed, match="not loaded within 0 s"):
        await start_runner(job(tiny_models / "tiny.gguf"), lambda reason: None, timeout=0.001)


async def test_a_cancelled_load_leaves_nothing_behind(tiny_models: Path) -> None:
    loading = asyncio.create_task(
        start_runner(job(tiny_models / "tiny.gguf"), lambda reason: None, timeout=30)
    )
    await asyncio.sleep(0)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
