"""What lies on this disk, exactly: the engine's store once it is found, and the identity of each model."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from ollama_dist.core.errors import DistError
from ollama_dist.core.ids import Digest
from ollama_dist.core.names import ModelKey, parse_model_name
from ollama_dist.core.view import InstalledModel
from ollama_dist.replication.disk.giving import Giver
from ollama_dist.replication.disk.identities import Identities
from ollama_dist.replication.disk.locating import Found
from ollama_dist.replication.disk.pieces import PieceLists
from ollama_dist.replication.disk.scrub import WEEK_S, Scrubber
from ollama_dist.replication.disk.store import Store
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.pace import Pace, Rates
from ollama_dist.runtime.tasks import background, end

log = structlog.get_logger()

LOOK_AGAIN_S: Final = 30.0
"""Between two searches for a store that was not found, and two looks for manifests that were not."""

FOLDER: Final = "pieces"
"""Of the state folder: the lists of pieces."""

Find = Callable[[Iterable[InstalledModel]], Awaitable[Found]]


@dataclass(frozen=True, slots=True)
class _Known:
    """A model's manifest, and the digest under which the engine listed it."""

    listed_as: str
    manifest: Manifest


class Keeper:
    """Tell it with `look` what the engine lists; `changed` is called when it knows more of that."""

    def __init__(self, find: Find, state_dir: Path, rates: Rates, scrub_period_s: float = WEEK_S) -> None:
        self._find = find
        self.changed: Callable[[], None] = lambda: None
        self.is_serving: Callable[[], bool] = lambda: False
        """Whether requests are answered now: transfers give way then."""
        self._store: Store | None = None
        self.lent: Store | None = None
        """Where models are that the engine has lent, since its store cannot be read."""
        self.reason = "not looked for yet"
        """Why there is no store, for people; empty where there is one."""
        self.store_id = ""
        """The same on all nodes before one store; empty where it is not known."""
        self.lists = PieceLists(state_dir / FOLDER)
        self.identities = Identities(state_dir)

        def cap() -> float:
            return rates.now(is_serving=self.is_serving())

        self.pace_in = Pace(cap)
        """Of what this node takes; what it gives has its own."""
        self.giver = Giver(lambda: self._store or self.lent, self.lists, Pace(cap), Pace(lambda: rates.scrub))
        self.scrubber = Scrubber(self.giver, state_dir, scrub_period_s, self.lists.forget_all_but)
        self._listed: Mapping[ModelKey, InstalledModel] = {}
        self._known: dict[ModelKey, _Known] = {}
        self.version = 0
        """Rises whenever `identity` may answer otherwise than before."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def store(self) -> Store | None:
        return self._store

    def identity(self, key: ModelKey, digest: str) -> str:
        """Of the model whose manifest has this digest; empty where it is not known."""
        return self._read(key, digest) or self.identities.of(digest)

    def hear(self, copies: Iterable[InstalledModel]) -> bool:
        """What other members know of contents that this one cannot read; whether that is anything new."""
        is_new = self.identities.hear(copies)
        self.version += is_new
        return is_new

    def _read(self, key: ModelKey, digest: str) -> str:
        known = self._known.get(key)
        return known.manifest.identity if known is not None and known.listed_as == digest else ""

    def needing(self, digest: Digest) -> list[str]:
        """The names of the models that this blob is part of."""
        return sorted(
            model.name
            for key, model in self._listed.items()
            if (known := self._known.get(key)) is not None and digest in known.manifest.blobs
        )

    def corrupt_models(self) -> list[str]:
        """The names of the models whose files were found wrong."""
        return sorted({name for digest in self.giver.corrupt for name in self.needing(digest)})

    def look(self, models: Mapping[ModelKey, InstalledModel]) -> None:
        """The engine lists these now."""
        if models is not self._listed:
            self._listed = models
            self._wake.set()

    def start(self) -> None:
        self._task = background(self._run(), "keeper")
        self.scrubber.start()

    async def stop(self) -> None:
        await self.scrubber.stop()
        await end(self._task)
        await self.giver.stop()

    async def _run(self) -> None:
        await asyncio.to_thread(self.identities.load)
        while True:
            self._wake.clear()
            await self._look()
            is_settled = self._store is not None and all(
                self._read(key, model.digest) for key, model in self._listed.items()
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
        before = self._told()
        news = {key: model for key, model in listed.items() if not self._read(key, model.digest)}
        read = await asyncio.to_thread(_manifests, self._store, news)
        kept = {key: known for key, known in self._known.items() if key in listed}
        self._known = {**kept, **read}
        self.version += 1
        self.store_id = await asyncio.to_thread(lambda store: store.id, self._store)
        if news and not self._known:
            self._store, self.reason = None, "the store that was found has none of the engine's models"
        if self._told() != before:
            self.changed()

    def _told(self) -> tuple[str, dict[ModelKey, str]]:
        return self.store_id, {key: known.manifest.identity for key, known in self._known.items()}


def _manifests(store: Store, models: Mapping[ModelKey, InstalledModel]) -> dict[ModelKey, _Known]:
    """What can be told of ``models``; not for the event loop."""
    found = {}
    for key, model in models.items():
        with contextlib.suppress(DistError):  # not there yet, or not ours to read
            found[key] = _Known(model.digest, store.manifest(parse_model_name(model.name)))
    return found
