"""Who is held to the contract, and where each is allowed to differ: as data, with the reason."""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ollama_dist.backends.llamacpp.service import EngineService
from ollama_dist.backends.llamacpp.settings import LlamaCppSettings
from tests.support.engine_models import lay_out_models
from tests.support.fake_ollama import FakeOllama
from tests.support.ports import free_port
from tests.support.recordings import VERSIONS
from tests.support.solo_node import solo_node

Serving = Callable[[Path], AbstractAsyncContextManager[tuple[str, int]]]
"""Starts a server on an empty store (a folder is given) and hands out its host and port."""


@dataclass(frozen=True)
class Target:
    """A server under test. ``age`` says whose recordings it is held to."""

    name: str
    age: str
    serving: Serving
    allowed: Mapping[str, str] = field(default_factory=dict)
    """Exchanges that may differ: a pattern of their ids, and why."""
    same_chunks: bool = True
    same_digests: bool = True
    needs: str = ""
    """What is missing for this target here; empty where nothing is."""

    def reason_to_differ(self, exchange_id: str) -> str | None:
        return next(
            (reason for pattern, reason in self.allowed.items() if re.fullmatch(pattern, exchange_id)), None
        )


def _fake(age: str) -> Serving:
    @contextlib.asynccontextmanager
    async def serving(_folder: Path) -> AsyncIterator[tuple[str, int]]:
        async with FakeOllama(age, models=()) as fake:
            yield "127.0.0.1", fake.port

    return serving


CHANCE_AT_0_5: Final = {"ps-after-.*": "which of the idle models 0.5 evicts, and their order, is chance"}

FAKES: Final = tuple(
    Target(f"fake-{age}", age, _fake(age), allowed=CHANCE_AT_0_5 if age == "0.5.13" else {})
    for age in VERSIONS
)


# A real Ollama, where OLLAMA_BIN names one

REAL_START_S: Final = 30.0


def real_ollama() -> Target:
    """The program OLLAMA_BIN names, held to the recordings of its own age."""
    binary = os.environ.get("OLLAMA_BIN", "")
    age = _age_of(binary)
    needs = ""
    if not shutil.which(binary):
        needs = "a real Ollama is tested where OLLAMA_BIN names one"
    elif age not in VERSIONS:
        needs = f"{binary} is of age {age!r}; there are recordings of {', '.join(VERSIONS)}"
    return Target(
        "real-ollama",
        age or VERSIONS[-1],
        _real(binary),
        allowed=CHANCE_AT_0_5 if age == "0.5.13" else {},
        same_digests=False,
        needs=needs,
    )


def _age_of(binary: str) -> str:
    """What the program says of itself; it warns that nobody listens, which is as well."""
    if not shutil.which(binary):
        return ""
    alone = {"OLLAMA_HOST": "127.0.0.1:9", "HOME": "/nonexistent"}
    told = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, env=alone, timeout=20, check=False
    )
    version = re.search(r"\d+\.\d+\.\d+(?:-rc\d+)?", told.stdout)
    return version[0] if version else ""


def _real(binary: str) -> Serving:
    @contextlib.asynccontextmanager
    async def serving(folder: Path) -> AsyncIterator[tuple[str, int]]:
        port = free_port()
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(folder),
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(folder / "models"),
        }
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            binary, "serve", env=environment, stdout=quiet, stderr=quiet
        )
        try:
            await _until_it_listens(port)
            yield "127.0.0.1", port
        finally:
            process.terminate()
            await process.wait()

    return serving


async def _until_it_listens(port: int) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(REAL_START_S):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


# A node in front of a fake


def _node(age: str, *, splice: bool = True) -> Serving:
    @contextlib.asynccontextmanager
    async def serving(_folder: Path) -> AsyncIterator[tuple[str, int]]:
        async with FakeOllama(age, models=()) as fake, solo_node(fake.port, splice=splice) as node:
            yield "127.0.0.1", node.port

    return serving


NODE_DIFFERS: Final = {
    "host-name|host-public-ip": "an empty refusal is taken for success by the Go client, so it is told why",
    "host-empty": "a Host that was taken away names nobody: a node refuses it, where Ollama lets it in",
}
NODE_IS_YOUNGER: Final = {
    "root-post|wrong-method-.*|ps-head|blob-get": "a node refuses methods as the newest servers do",
    "origin-.*-preflight": "a node answers preflights as the newest servers do",
}

NODES: Final = tuple(
    Target(
        f"node-{age}",
        age,
        _node(age),
        allowed=NODE_DIFFERS | (CHANCE_AT_0_5 | NODE_IS_YOUNGER if age == "0.5.13" else {}),
        same_chunks=False,
    )
    for age in VERSIONS
)

PIECEWISE: Final = Target(
    "node-piecewise",
    VERSIONS[-1],
    _node(VERSIONS[-1], splice=False),
    allowed=NODE_DIFFERS,
    same_chunks=False,
)
"""A node whose streams do not run straight through."""

# The embedded engine


@contextlib.asynccontextmanager
async def _engine(folder: Path) -> AsyncIterator[tuple[str, int]]:
    lay_out_models(folder / "models")
    service = EngineService(LlamaCppSettings(folder / "models", folder / "state", warmup=False))
    address = await service.start()
    try:
        yield address
    finally:
        await service.stop()


ENGINE_DIFFERS: Final = {
    "version-get": "the version it tells says what it is",
    "version-slash|tags-slash|generate-slash|double-slash": "a node redirects before its engine is asked",
    "origin-.*|host-.*": "web pages are a node's business: the engine talks to programs only",
    "tags-empty|v1-models-empty|tags": "models are files that lie in the folder from the beginning",
    "blob-.*|create-.*|copy.*|delete.*|pull-.*|push-.*": "there is no store: models are put there by hand",
    "show-(ok|name|tag|tools|think|embed|system|field-case)": "its templates are Jinja, its files have names",
    "ps-(one|forever|after-.*)": "the size in memory is worked out, not read from a log",
    "gen-think|gen-think-once": "thoughts are not part of the tokens of the context",
    "gen-messages-model": "a Jinja template ends the last embedded message, the recorded Go one does not",
    "ant-absent-stream": "a refusal says nothing about caching",
    "oai-embeddings-base64": "vectors differ by rounding, which base64 hides from comparison",
}
"""Everything else is as on record, to the byte."""

ENGINE: Final = Target(
    "engine",
    "0.33.0-rc2",
    _engine,
    allowed=ENGINE_DIFFERS,
    same_chunks=False,
    same_digests=False,
    needs=""
    if find_spec("xllamacpp")
    else "the embedded engine is tested where the extra `engine` is installed",
)

TARGETS: Final = (*FAKES, *NODES, PIECEWISE, ENGINE, real_ollama())
"""Another server joins by a row here."""
