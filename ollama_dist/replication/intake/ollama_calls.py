"""What is asked of the local Ollama to have a model brought in: its own routes and nothing else."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ollama_dist.backends.fetch import Fetched, fetch
from ollama_dist.backends.http1 import Connection
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import DistError, UpstreamCut, UpstreamFailed
from ollama_dist.core.names import ModelKey, ModelName, model_key
from ollama_dist.wire import gojson

HEAD_S: Final = 60.0
SILENCE_S: Final = 3600.0
"""While it verifies, an Ollama says nothing: an old disk needs half an hour for the largest models."""

CALL_S: Final = 60.0
LINE_LIMIT: Final = 2**20
TAGS_LIMIT: Final = 16 * 2**20

_FULL: Final = "no space left on device"
_JSON: Final = [("Content-Type", "application/json")]


class PullFailed(UpstreamFailed):
    """The local Ollama could not pull; its own words. What it has got it keeps."""

    code = "pull_failed"


class DiskFull(DistError):
    """There is no room for the model here."""

    status = 507
    code = "disk_full"


@dataclass(frozen=True, slots=True)
class PullLine:
    """One line of progress."""

    raw: bytes
    """Without the line end."""
    status: str
    digest: str = ""
    completed: int = 0

    @property
    def is_success(self) -> bool:
        return self.status == "success"


@dataclass(frozen=True, slots=True)
class Listed:
    """A model as Ollama lists it."""

    digest: str
    size: int


class OllamaCalls:
    """The calls. ``target`` is the local Ollama. All raise `UpstreamFailed` where it does not answer."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def version(self) -> str:
        answer = await fetch(self._target, "GET", "/api/version", timeout=1.0, limit=LINE_LIMIT)
        version = gojson.read_object(answer.body).get("version")
        return version if isinstance(version, str) else ""

    async def tags(self) -> Mapping[ModelKey, Listed]:
        """What is installed, the names that are there in passing included."""
        answer = await fetch(self._target, "GET", "/api/tags", timeout=CALL_S, limit=TAGS_LIMIT)
        if answer.status != 200:
            raise UpstreamFailed(_said("list its models", answer))
        rows = orjson.loads(answer.body).get("models") or []
        return {key: Listed(row["digest"], row["size"]) for row in rows if (key := model_key(row["name"]))}

    async def copy(self, source: ModelName, destination: ModelName) -> None:
        answer = await self._ask(
            "POST", "/api/copy", {"source": source.short, "destination": destination.short}
        )
        if answer.status != 200:
            raise UpstreamFailed(_said(f"copy {source.short} to {destination.short}", answer))

    async def delete(self, name: ModelName) -> bool:
        """Whether it was there."""
        answer = await self._ask("DELETE", "/api/delete", {"model": name.short})
        if answer.status not in (200, 404):
            raise UpstreamFailed(_said(f"delete {name.short}", answer))
        return answer.status == 200

    async def pull(
        self, name: ModelName, opened: Callable[[Connection], None] = lambda _: None
    ) -> AsyncGenerator[PullLine, None]:
        """The progress of a pull over plain HTTP, to the line that tells of success.

        ``opened`` gets the connection: who closes it ends the pull, and Ollama keeps what it has got. Raises
        `PullFailed` with Ollama's words, `DiskFull`, and `UpstreamFailed` where Ollama itself goes away.
        """
        async with aclosing(self._moved("/api/pull", name, opened)) as lines:
            async for line in lines:
                yield line

    async def push(self, name: ModelName) -> None:
        """Have a model pushed over plain HTTP; raises as `pull`."""
        async with aclosing(self._moved("/api/push", name, lambda _: None)) as lines:
            async for _ in lines:
                pass

    async def _moved(
        self, path: str, name: ModelName, opened: Callable[[Connection], None]
    ) -> AsyncGenerator[PullLine, None]:
        body = gojson.encode({"model": name.short, "insecure": True})
        connection, head = await self._target.open(
            "POST", path, _JSON, body, head_timeout=HEAD_S, is_fresh=True
        )
        opened(connection)
        try:
            async with aclosing(_lines(connection)) as lines:
                async for raw in lines:
                    line = read_line(raw)
                    yield line
                    if line.is_success:
                        return
            raise UpstreamCut(f"{path} ended without success ({head.status})")
        finally:
            self._target.drop(connection)

    async def _ask(self, method: str, path: str, document: dict[str, Any]) -> Fetched:
        return await fetch(
            self._target,
            method,
            path,
            headers=_JSON,
            body=gojson.encode(document),
            timeout=CALL_S,
            limit=LINE_LIMIT,
        )


def read_line(raw: bytes) -> PullLine:
    """One line of a pull; raises `PullFailed` or `DiskFull` for one that tells of an error."""
    try:
        fields = gojson.read_object(raw)
    except gojson.MalformedJson as error:
        raise PullFailed(f"a line of the pull is no JSON object: {raw[:100]!r}") from error
    error_text = fields.get("error")
    if isinstance(error_text, str):
        raise (DiskFull if _FULL in error_text else PullFailed)(error_text)
    status, digest, completed = (fields.get(name) for name in ("status", "digest", "completed"))
    return PullLine(
        raw,
        status if isinstance(status, str) else "",
        digest if isinstance(digest, str) else "",
        completed if isinstance(completed, int) else 0,
    )


async def _lines(connection: Connection) -> AsyncGenerator[bytes, None]:
    rest = b""
    loop = asyncio.get_running_loop()
    while data := await connection.read(loop.time() + SILENCE_S):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if len(rest) > LINE_LIMIT:
            raise UpstreamFailed("a line of the pull has no end")
    if rest.strip():
        yield rest


def _said(what: str, answer: Fetched) -> str:
    try:
        error = gojson.read_object(answer.body).get("error")
    except gojson.MalformedJson:
        error = None
    return f"the engine did not {what}: {error or answer.body[:200]!r} ({answer.status})"
