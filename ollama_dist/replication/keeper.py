"""What lies on this disk, exactly: the engine's store once it is found, and the identity of each model."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import structlog

from ollama_dist.core.errors import DistError
from ollama_dist.core.ids import Digest
from ollama_dist.core.names import ModelKey, parse_model_name
from ollama_dist.core.view import InstalledModel
from ollama_dist.replication.giving import Giver
from ollama_dist.replication.locating import Found
from ollama_dist.replication.pace import Pace
from ollama_dist.replication.pieces import PieceLists
from ollama_dist.replication.store import Store
from ollama_dist.runtime.tasks import background, end

log = structlog.get_logger()

LOOK_AGAIN_S: Final = 30.0
"""Between two searches for a store that was not found, and two looks for manifests that were not."""

FOLDER: Final = "pieces"
"""Of the state folder: the lists of pieces."""

Find = Callable[[Iterable[InstalledModel]], Awaitable[Found]]


class Keeper:
    """Tell it with `look` what the engine lists; ``changed`` is called when it knows more of that."""

    def __init__(
        self, find: Find, state_dir: Path, pace: Pace, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._find = find
        self.changed = changed
        self._store: Store | None = None
        self.reason = "not looked for yet"
        """Why there is no store, for people; empty where there is one."""
        self.store_id = ""
        """The same on all nodes before one store; empty where it is not known."""
        self.lists = PieceLists(state_dir / FOLDER)
        self.giver = Giver(lambda: self._store, self.lists, pace)
        self._listed: Mapping[ModelKey, InstalledModel] = {}
        self._known: dict[ModelKey, tuple[str, Digest]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def store(self) -> Store | None:
        return self._store

    def identity(self, key: ModelKey, digest: str) -> str:
        """Of the model whose manifest has this digest; empty where it is not known."""
        known = self._known.get(key)
        return known[1] if known is not None and known[0] == digest else ""

    def look(self, models: Mapping[ModelKey, InstalledModel]) -> None:
        """The engine lists these now."""
        if models is not self._listed:
            self._listed = models
            self._wake.set()

    def start(self) -> None:
        self._task = background(self._run(), "keeper")

    async def stop(self) -> None:
        await end(self._task)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            await self._look()
            is_settled = self._store is not None and all(
                self.identity(key, model.digest) for key, model in self._listed.items()
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if is_settled else LOOK_AGAIN_S):
                    await self._wake.wait()

    async def _look(self) -> None:
        listed = self._listed
        if self._store is None:
            found = await self._find(listed.values())
            if found.store is None and found.reason != self.reason:
                log.info("store_not_found", reason=found.reason)
            self._store, self.reason = found.store, found.reason
        if self._store is None:
            return
        before = (dict(self._known), self.store_id)
        news = {key: model for key, model in listed.items() if not self.identity(key, model.digest)}
        found_ids = await asyncio.to_thread(_identities, self._store, news)
        kept = {key: known for key, known in self._known.items() if key in listed}
        self._known = {**kept, **found_ids}
        self.store_id = await asyncio.to_thread(lambda store: store.id, self._store)
        if (self._known, self.store_id) != before:
            self.changed()


def _identities(
    store: Store, models: Mapping[ModelKey, InstalledModel]
) -> dict[ModelKey, tuple[str, Digest]]:
    """What can be told of ``models``; not for the event loop."""
    found = {}
    for key, model in models.items():
        with contextlib.suppress(DistError):  # not there yet, or not ours to read
            manifest = store.manifest(parse_model_name(model.name))
            found[key] = (model.digest, manifest.identity)
    return found
