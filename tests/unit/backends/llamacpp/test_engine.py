"""The engine as the rest of the node sees it."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from ollama_dist.backends.fetch import get
from ollama_dist.backends.llamacpp import process
from ollama_dist.backends.llamacpp.engine import LlamaCppEngine
from ollama_dist.backends.llamacpp.errors import EngineMissing
from ollama_dist.backends.llamacpp.settings import LlamaCppSettings
from ollama_dist.core.view import Engine, EngineKind, EngineState
from tests.support.views import key, node_id
from tests.support.wait import until
from tests.unit.backends.llamacpp.talking import Talker

needs_library = pytest.mark.skipif(
    find_spec("xllamacpp") is None,
    reason="the embedded engine is tested where the extra `engine` is installed",
)


@needs_library
async def test_it_tells_what_it_has_and_what_it_runs(settings: LlamaCppSettings) -> None:
    changes: list[int] = []
    engine = LlamaCppEngine(node_id(1), settings)
    assert engine.snapshot.engine == Engine(EngineKind.LLAMACPP, "", EngineState.STARTING)
    await engine.start(lambda: changes.append(1))
    try:
        known = engine.snapshot.engine
        assert (known.kind, known.state) == (EngineKind.LLAMACPP, EngineState.READY)
        assert key("tiny") in engine.snapshot.models
        assert engine.target is not None
        async with Talker(engine.target.host, engine.target.port) as client:
            await client.post("/api/generate", model="tiny")
            await until(lambda: key("tiny") in engine.snapshot.loaded, what="the model in the snapshot")
        assert engine.snapshot.loaded[key("tiny")].context_length == settings.context_length
        assert changes
        status, body = await get(engine.target, "/", timeout=1.0, limit=100)
        assert (status, body) == (200, b"Ollama is running")
    finally:
        await engine.stop()


@needs_library
async def test_a_folder_with_nothing_usable_says_why(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "text.gguf").write_text("not a model at all")
    engine = LlamaCppEngine(node_id(1), LlamaCppSettings(tmp_path / "models", tmp_path))
    await engine.start(lambda: None)
    try:
        assert engine.snapshot.error == "no model can be used; text.gguf: it does not begin with GGUF"
    finally:
        await engine.stop()


async def test_without_the_library_it_says_how_to_get_it(
    settings: LlamaCppSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "find_spec", lambda name: None)
    engine = LlamaCppEngine(node_id(1), settings)
    with pytest.raises(EngineMissing, match=r"pip install 'ollama-dist\[engine\]'"):
        await engine.start(lambda: None)
