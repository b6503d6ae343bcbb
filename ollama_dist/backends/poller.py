"""Keeps looking at an engine's own routes and tells what changed: its state, what it has, what it runs."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
import structlog

from ollama_dist.backends.fetch import get
from ollama_dist.backends.local import Snapshot
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import UpstreamFailed, UpstreamRefused
from ollama_dist.core.names import TRANSFER_NAMESPACE, ModelKey, model_key
from ollama_dist.core.view import Engine, EngineKind, EngineState, InstalledModel, LoadedModel
from ollama_dist.runtime.tasks import background, end

log = structlog.get_logger()

IDLE_PERIOD_S: Final = 2.0
RETRY_PERIOD_S: Final = 0.5
"""While the engine cannot be reached: soon enough to use it within three seconds of its coming back."""

NUDGE_PAUSE_S: Final = 0.05
"""Between two rounds, however often it is nudged."""

PS_TIMEOUT_S: Final = 1.0
TAGS_TIMEOUT_S: Final = 3.0
LIVENESS_TIMEOUT_S: Final = 1.0

SLOW_ROUNDS: Final = 2
"""A machine whose cores all work on an answer may keep even a trivial request waiting."""

BODY_LIMIT: Final = 16 * 2**20
ROWS_LIMIT: Final = 5_000

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Look:
    """What one round of looking found. Bodies are None where the route did not answer in time."""

    version: str | None
    tags: bytes | None
    ps: bytes | None
    error: str = ""
    refused: bool = False
    """Nobody listens: it is gone, not slow."""


def state_after(look: Look, before: EngineState, slow_rounds: int) -> EngineState:
    """The state an engine is in after a round. Pure.

    A slow ``ps`` means busy: the engine holds that lock while it loads. One that does not answer at all is
    slow for `SLOW_ROUNDS` rounds before it counts as gone, unless the connection was refused.
    """
    if look.version is not None:
        return EngineState.READY if look.ps is not None and look.tags is not None else EngineState.BUSY
    if look.refused or slow_rounds > SLOW_ROUNDS or before is EngineState.UNREACHABLE:
        return EngineState.UNREACHABLE
    return EngineState.BUSY


class EnginePoller:
    """Looks at ``target`` until stopped; ``changed`` is called when what is known changed."""

    def __init__(self, target: Target, kind: EngineKind, changed: Callable[[], None]) -> None:
        self._target = target
        self._changed = changed
        self._snapshot = Snapshot(Engine(kind), "not asked yet")
        self._nudged = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._slow_rounds = 0
        self._tags = b""
        self._ps = b""

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def start(self) -> None:
        self._task = background(self._run(), "engine-poller")

    async def stop(self) -> None:
        await end(self._task)
        self._target.close()

    def nudge(self) -> None:
        """Look again at once."""
        self._nudged.set()

    async def _run(self) -> None:
        while True:
            self._nudged.clear()
            await self.look()
            is_gone = self._snapshot.engine.state is EngineState.UNREACHABLE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_PERIOD_S if is_gone else IDLE_PERIOD_S):
                    await self._nudged.wait()
            await asyncio.sleep(NUDGE_PAUSE_S)

    async def look(self) -> None:
        """One round."""
        self._take(await _look(self._target))

    def _take(self, look: Look) -> None:
        before = self._snapshot
        self._slow_rounds = 0 if look.version is not None else self._slow_rounds + 1
        state = state_after(look, before.engine.state, self._slow_rounds)
        error = look.error if state is not EngineState.READY else ""
        now = replace(before, engine=replace(before.engine, state=state), error=error)
        if look.version is not None:
            now = replace(now, engine=replace(now.engine, version=look.version))
        try:
            if look.tags is not None and look.tags != self._tags:
                now = replace(now, models=installed_models(look.tags))
                self._tags = look.tags
            if look.ps is not None and look.ps != self._ps:
                now = replace(now, loaded=loaded_models(look.ps))
                self._ps = look.ps
        except ValueError as nonsense:
            now = replace(now, error=f"the engine's answer makes no sense: {nonsense}")
        if state is EngineState.UNREACHABLE and now.loaded:
            now, self._ps = replace(now, loaded={}), b""
        if now != before:
            if now.engine != before.engine:
                log.info("engine_state", state=state, version=now.engine.version, error=now.error)
            self._snapshot = now
            self._changed()


async def _look(target: Target) -> Look:
    try:
        version = _version(await _get(target, "/api/version", LIVENESS_TIMEOUT_S))
    except UpstreamRefused as error:
        return Look(None, None, None, str(error), refused=True)
    except (UpstreamFailed, ValueError) as error:
        return Look(None, None, None, str(error))
    tags, ps = await asyncio.gather(
        _get(target, "/api/tags", TAGS_TIMEOUT_S),
        _get(target, "/api/ps", PS_TIMEOUT_S),
        return_exceptions=True,
    )
    complaints = [str(answer) for answer in (tags, ps) if isinstance(answer, UpstreamFailed)]
    for answer in (tags, ps):
        if isinstance(answer, BaseException) and not isinstance(answer, UpstreamFailed):
            raise answer
    return Look(
        version,
        tags if isinstance(tags, bytes) else None,
        ps if isinstance(ps, bytes) else None,
        "; ".join(complaints),
    )


async def _get(target: Target, path: str, timeout: float) -> bytes:
    status, body = await get(target, path, timeout=timeout, limit=BODY_LIMIT)
    if status != 200:
        raise UpstreamFailed(f"{path} answered {status}")
    return body


def _version(body: bytes) -> str:
    version = _object(body).get("version")
    if not isinstance(version, str):
        raise ValueError("/api/version tells no version")
    return version[:64]


def installed_models(body: bytes) -> Mapping[ModelKey, InstalledModel]:
    """The models in a body of ``/api/tags``, but for those that make no sense or are only on their way.

    Raises `ValueError`.
    """
    models = {}
    for key, row in _rows(body):
        digest, size = row.get("digest"), row.get("size")
        if isinstance(digest, str) and _DIGEST.fullmatch(digest) and isinstance(size, int):
            models[key] = InstalledModel(row["name"], digest, size, row)
    return models


def loaded_models(body: bytes) -> Mapping[ModelKey, LoadedModel]:
    """The models in a body of ``/api/ps``. Raises `ValueError`."""
    models = {}
    for key, row in _rows(body):
        digest, context = row.get("digest"), row.get("context_length")
        models[key] = LoadedModel(
            row["name"],
            digest if isinstance(digest, str) else "",
            context if isinstance(context, int) else 0,
            row=row,
        )
    return models


def _rows(body: bytes) -> list[tuple[ModelKey, dict[str, Any]]]:
    listed = _object(body).get("models")
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise ValueError("'models' is no list")
    rows = []
    for row in listed[:ROWS_LIMIT]:
        name = row.get("name") if isinstance(row, dict) else None
        key = model_key(name) if isinstance(name, str) else None
        if key is not None and f"/{TRANSFER_NAMESPACE}" not in key:
            rows.append((key, row))
    return rows


def _object(body: bytes) -> dict[str, Any]:
    value = orjson.loads(body)
    if not isinstance(value, dict):
        raise ValueError("the body is no JSON object")
    return value
