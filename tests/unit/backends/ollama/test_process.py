"""What is started here is a small script that behaves towards its parent as `ollama serve` does."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from ollama_dist.backends.ollama.process import LOG_LIMIT, OllamaProcess
from tests.support.wait import until

PROGRAM = """#!{python}
import os, subprocess, sys, time
assert sys.argv[1:] == ["serve"], sys.argv
print("host", os.environ["OLLAMA_HOST"], "slots", os.environ.get("OLLAMA_NUM_PARALLEL"), flush=True)
secret = [name for name in os.environ if name.startswith("OLLAMA_DIST_") or "TOKEN" in name]
print("secrets", secret, flush=True)
runner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("runner", runner.pid, flush=True)
{rest}
time.sleep(600)
"""


Start = Callable[..., OllamaProcess]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts the script, or what is named instead, and stops it after the test."""
    started: list[OllamaProcess] = []

    def begin(path: str, slots: int = 0, changed: Callable[[], None] = lambda: None) -> OllamaProcess:
        process = OllamaProcess(path, slots, tmp_path / "ollama.log", changed)
        started.append(process)
        process.start()
        return process

    yield begin
    for process in started:
        await process.stop()


def program(folder: Path, rest: str = "") -> str:
    path = folder / "ollama"
    path.write_text(PROGRAM.format(python=sys.executable, rest=rest))
    path.chmod(0o755)
    return str(path)


def said(log: Path, word: str) -> list[str]:
    lines = (
        log.read_text().split("\n")[:-1] if log.exists() else []
    )  # a line that is being written is none yet
    return [line.removeprefix(word).strip() for line in lines if line.startswith(word)]


async def test_it_is_told_where_to_listen_and_nothing_it_should_not_know(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_DIST_CLUSTER_KEY", "secret")
    monkeypatch.setenv("OLLAMA_ADMIN_TOKEN", "secret")
    log = tmp_path / "ollama.log"
    process = start(program(tmp_path), 3)
    await until(lambda: bool(said(log, "runner")), what="its start")
    assert said(log, "host") == [f"127.0.0.1:{process.port} slots 3"]
    assert said(log, "secrets") == ["[]"]


async def test_it_and_its_runners_are_gone_when_it_is_stopped(tmp_path: Path, start: Start) -> None:
    log = tmp_path / "ollama.log"
    process = start(program(tmp_path))
    await until(lambda: bool(said(log, "runner")), what="its start")
    runner, server = int(said(log, "runner")[0]), process.pid
    assert server is not None
    await process.stop()
    await until(lambda: not psutil.pid_exists(server) and not _runs(runner), what="their end")


async def test_it_is_started_again_when_it_dies_and_leaves_no_runner_behind(
    tmp_path: Path, start: Start
) -> None:
    log = tmp_path / "ollama.log"
    changes: list[int | None] = []
    process = start(program(tmp_path), changed=lambda: changes.append(1))
    await until(lambda: len(said(log, "runner")) == 1, what="its start")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    await until(lambda: len(said(log, "runner")) == 2, what="its second start")
    assert not _runs(int(said(log, "runner")[0]))
    assert len(changes) == 3  # a start, a death, a start


async def test_one_that_does_not_end_when_asked_is_made_to(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollama_dist.backends.ollama.process.STOP_S", 0.2)
    log = tmp_path / "ollama.log"
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)"
    process = start(program(tmp_path, stubborn))
    await until(lambda: bool(said(log, "ready")), what="its start")
    server = process.pid
    assert server is not None
    await process.stop()
    assert not _runs(server)


async def test_a_program_that_cannot_be_started_is_tried_again_without_harm(
    tmp_path: Path, start: Start
) -> None:
    process = start(str(tmp_path / "missing"))
    await asyncio.sleep(0)
    assert process.pid is None


async def test_what_it_says_is_kept_within_bounds(tmp_path: Path, start: Start) -> None:
    log = tmp_path / "ollama.log"
    much = f"sys.stdout.write(('x' * 999 + chr(10)) * {2 * LOG_LIMIT // 1000}); print('done', flush=True)"
    start(program(tmp_path, much))
    await until(lambda: bool(said(log, "done")), what="its having said all")
    assert log.stat().st_size <= LOG_LIMIT
    assert (tmp_path / "ollama.log.1").stat().st_size <= LOG_LIMIT


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
