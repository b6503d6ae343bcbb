"""With a real Ollama: found, started, watched, brought back, and gone without a trace."""

import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from ollama_dist.backends.ollama.engine import OllamaEngine, OllamaSettings
from ollama_dist.backends.ollama.finder import Listening
from ollama_dist.core.view import EngineKind, EngineState
from tests.support.fake_ollama import FakeOllama
from tests.support.views import node_id
from tests.support.wait import until

BINARY = os.environ.get("OLLAMA_BIN", "")


def state(engine: OllamaEngine) -> EngineState:
    return engine.snapshot.engine.state


async def test_one_that_is_named_is_waited_for_and_never_started() -> None:
    async with FakeOllama(models=("tiny",)) as fake:
        await fake.stop()
        engine = OllamaEngine(OllamaSettings(node_id(1), address=("127.0.0.1", fake.port)))
        await engine.start(lambda: None)
        assert engine.target is not None
        await until(lambda: "refused" in engine.snapshot.error, what="its being missed")
        assert state(engine) is EngineState.UNREACHABLE
        await fake.start()
        assert await until(lambda: state(engine) is EngineState.READY) < 3
        await engine.stop()


async def test_one_that_appears_later_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeOllama(models=("tiny",)) as fake:
        there: list[Listening] = [Listening.NOBODY]

        async def look(_host: str, _port: int) -> Listening:
            return there[-1]

        monkeypatch.setattr("ollama_dist.backends.ollama.engine.who_listens", look)
        monkeypatch.setattr("ollama_dist.backends.ollama.finder.WELL_KNOWN", ("127.0.0.1", fake.port))
        engine = OllamaEngine(OllamaSettings(node_id(1), program="no-such-program-anywhere"))
        changes: list[EngineKind] = []
        await engine.start(lambda: changes.append(engine.snapshot.engine.kind))
        assert engine.snapshot.engine.kind is EngineKind.NONE
        assert engine.target is None
        there.append(Listening.OLLAMA)
        assert await until(lambda: state(engine) is EngineState.READY) < 3
        assert changes[-1] is EngineKind.OLLAMA
        await engine.stop()


@pytest.mark.real_ollama
@pytest.mark.skipif(not shutil.which(BINARY), reason="a real Ollama is tested where OLLAMA_BIN names one")
async def test_a_real_one_is_started_watched_brought_back_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))

    async def nobody(_host: str, _port: int) -> Listening:
        return Listening.NOBODY

    monkeypatch.setattr("ollama_dist.backends.ollama.engine.who_listens", nobody)
    engine = OllamaEngine(
        OllamaSettings(node_id(1), program=BINARY, slots=3, log_file=tmp_path / "ollama.log")
    )
    await engine.start(lambda: None)
    process = engine._process
    assert process is not None
    try:
        assert state(engine) is EngineState.STARTING
        await until(lambda: state(engine) is EngineState.READY, seconds=30)
        await until(lambda: engine.slots == 3, what="its slots' being found")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: state(engine) is EngineState.STARTING, seconds=5)
        await until(lambda: state(engine) is EngineState.READY, seconds=30)
        pid = process.pid
    finally:
        await engine.stop()
    assert not psutil.pid_exists(pid)
