"""An engine with models made up for these tests; skipped where its library is not installed."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ollama_dist.backends.llamacpp.service import EngineService
from ollama_dist.backends.llamacpp.settings import LlamaCppSettings
from ollama_dist.backends.llamacpp.tiny import write_tiny_model
from tests.unit.backends.llamacpp.talking import Talker

SENTENCE = "hello from a model made up for tests"
ENDLESS = "round and on it goes"

Served = AbstractAsyncContextManager[tuple[EngineService, Talker]]
Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny`` and ``twin`` say `SENTENCE`, ``endless`` says `ENDLESS` again and again."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_model(folder / "tiny.gguf", SENTENCE)
    write_tiny_model(folder / "twin.gguf", SENTENCE)
    write_tiny_model(folder / "endless.gguf", ENDLESS, endless=True)
    return folder


@pytest.fixture
def settings(tiny_models: Path, tmp_path: Path) -> LlamaCppSettings:
    return LlamaCppSettings(tiny_models, tmp_path / "state", threads=1, context_length=512, warmup=False)


@pytest.fixture
def serve(settings: LlamaCppSettings) -> Serve:
    """Starts an engine with changed settings, and ends it."""
    if find_spec("xllamacpp") is None:
        pytest.skip("the embedded engine is tested where the extra `engine` is installed")

    @contextlib.asynccontextmanager
    async def serving(**changes: Any) -> AsyncIterator[tuple[EngineService, Talker]]:
        service = EngineService(replace(settings, **changes))
        host, port = await service.start()
        async with Talker(host, port) as talker:
            try:
                yield service, talker
            finally:
                await service.stop()

    return serving
