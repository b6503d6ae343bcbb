"""Real Ollamas with folders of their own: the one OLLAMA_BIN names, and OLLAMA_BIN_OTHER, of another age."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from ollama_dist.backends.target import Target
from tests.support.ports import free_port
from tests.support.views import node_id
from tests.support.wait import until

BINARY: Final = os.environ.get("OLLAMA_BIN", "")
OTHER: Final = os.environ.get("OLLAMA_BIN_OTHER", "") or BINARY

needs_ollama = [
    pytest.mark.real_ollama,
    pytest.mark.skipif(not shutil.which(BINARY), reason="a real Ollama is tested where OLLAMA_BIN names one"),
]


@dataclass
class RealOllama:
    binary: str
    home: Path
    port: int
    process: asyncio.subprocess.Process | None = None

    @property
    def models(self) -> Path:
        """Its OLLAMA_MODELS."""
        return self.home / "models of it"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def target(self) -> Target:
        return Target(node_id(1), "127.0.0.1", self.port)

    async def start(self) -> None:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.home),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(self.models),
        }
        with (self.home / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                self.binary, "serve", env=environment, stdout=log, stderr=log
            )
        await until(self._listens, seconds=30, what="Ollama's listening")

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()

    async def ask(self, method: str, path: str, document: Any = None) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, json=document) as answer,
        ):
            assert answer.status in (200, 201), (path, answer.status, await answer.text())
            return await answer.json(content_type=None)

    async def create(self, name: str, weights: bytes, **more: Any) -> None:
        digest = f"sha256:{hashlib.sha256(weights).hexdigest()}"
        async with aiohttp.ClientSession() as session:
            await (await session.post(f"{self.url}/api/blobs/{digest}", data=weights)).read()
        said = await self.ask(
            "POST", "/api/create", {"model": name, "files": {"m.gguf": digest}, "stream": False, **more}
        )
        assert said["status"] == "success", said

    async def names(self) -> list[str]:
        return sorted(row["name"] for row in (await self.ask("GET", "/api/tags"))["models"])

    async def say(self, name: str, prompt: str) -> str:
        options = {"temperature": 0, "num_ctx": 256, "num_predict": 8}
        document = {"model": name, "prompt": prompt, "stream": False, "options": options}
        return str((await self.ask("POST", "/api/generate", document))["response"])

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextlib.asynccontextmanager
async def real_ollama(binary: str, home: Path) -> AsyncIterator[RealOllama]:
    home.mkdir(parents=True)  # noqa: ASYNC240
    ollama = RealOllama(binary, home, free_port())
    await ollama.start()
    try:
        yield ollama
    finally:
        await ollama.stop()
